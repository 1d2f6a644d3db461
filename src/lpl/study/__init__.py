"""Studies: one comparison a file, from the runs it needs to its table and its plots."""

from .files import Study, bundled_studies, describe_study, load_study

__all__ = ["Study", "bundled_studies", "describe_study", "load_study"]
