"""The report: one self-contained HTML page about runs, and its table for the terminal."""

from lpl.reports.page import write_report
from lpl.reports.runs import ReportError
from lpl.reports.terminal import compare_table

__all__ = ["ReportError", "compare_table", "write_report"]
