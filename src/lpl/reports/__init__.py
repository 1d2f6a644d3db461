"""The report: one self-contained HTML page about runs and analyses, and the runs' table for the terminal."""

from lpl.reports.page import sort_folders, write_report
from lpl.reports.runs import ReportError
from lpl.reports.terminal import compare_table

__all__ = ["ReportError", "compare_table", "sort_folders", "write_report"]
