"""Prompt files: reading and checking, choosing a part, keeping in a run folder, writing."""

from unigenbench.prompts.reading import Examined, examine_prompts, has_test_points, read_prompts, validate_prompts
from unigenbench.prompts.records import from_json, prompt_sha256, to_json
from unigenbench.prompts.schema import DATA, OFFICIAL, SHIPPED
from unigenbench.prompts.selection import parse_indices, select, subsets
from unigenbench.prompts.suite import to_csv

__all__ = [
    "DATA",
    "OFFICIAL",
    "SHIPPED",
    "Examined",
    "examine_prompts",
    "from_json",
    "has_test_points",
    "parse_indices",
    "prompt_sha256",
    "read_prompts",
    "select",
    "subsets",
    "to_csv",
    "to_json",
    "validate_prompts",
]
