"""One offline HTML file for one run, or for two to four runs side by side."""

from unigenbench.report.build import Written, write_report

__all__ = ["Written", "write_report"]
