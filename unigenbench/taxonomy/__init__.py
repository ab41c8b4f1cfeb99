"""What UniGenBench tests, 10 dimensions and their 27 criteria, and how it sorts prompts: by theme, subject and sentence
structure (arXiv:2508.20751, arXiv:2510.18701).
"""

from unigenbench.taxonomy.categories import STRUCTURES, SUBJECTS, THEMES, Label, Theme
from unigenbench.taxonomy.criteria import BY_ID, CRITERIA, DIMENSION_OF, DIMENSIONS, Criterion, Dimension
from unigenbench.taxonomy.lookup import (
    as_mapping,
    criterion_of,
    find_dimension,
    fold_structure,
    fold_subject,
    fold_subtheme,
    fold_theme,
)

__all__ = [
    "BY_ID",
    "CRITERIA",
    "DIMENSIONS",
    "DIMENSION_OF",
    "STRUCTURES",
    "SUBJECTS",
    "THEMES",
    "Criterion",
    "Dimension",
    "Label",
    "Theme",
    "as_mapping",
    "criterion_of",
    "find_dimension",
    "fold_structure",
    "fold_subject",
    "fold_subtheme",
    "fold_theme",
]
