"""The result files of the official script: reading, counting by its rules, and writing files that it reads."""

from unigenbench.scoring.official.counting import OfficialScores, count_rows, counted
from unigenbench.scoring.official.exporting import Exported, export_official, official_verdicts, rows_of
from unigenbench.scoring.official.importing import import_official
from unigenbench.scoring.official.table import COLUMNS, ResultRow, read_rows

__all__ = [
    "COLUMNS",
    "Exported",
    "OfficialScores",
    "ResultRow",
    "count_rows",
    "counted",
    "export_official",
    "import_official",
    "official_verdicts",
    "read_rows",
    "rows_of",
]
