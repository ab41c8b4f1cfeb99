"""The record that an images' folder holds (generation.json): were the images made from what they are judged by?"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unigenbench.errors import InputError
from unigenbench.types import PromptSet

GENERATION = "generation.json"
SHOWN_CHARACTERS = 80


@dataclass(frozen=True)
class DifferentPrompt:
    """A prompt whose images were made from another text."""

    index: int
    made_from: str
    judged_by: str


def read_generation(images: Path) -> Any:
    """What the folder's record says, as JSON; None where there is none.

    Raises:
        InputError: the file cannot be read.
    """
    file = images / GENERATION
    if not file.is_file():
        return None
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{file}: no JSON ({error}); correct or remove the file") from error


def different_prompts(record: Any, prompts: PromptSet) -> list[DifferentPrompt]:
    """The prompts whose images were made from another text, spaces aside; none where the record has no texts.

    Args:
        record: as `read_generation` gives it; `images` lists objects with `index` and `prompt`.
    """
    rows = record.get("images") if isinstance(record, dict) else None
    texts = {
        row["index"]: row["prompt"]
        for row in (rows if isinstance(rows, list) else ())
        if isinstance(row, dict) and isinstance(row.get("index"), int) and isinstance(row.get("prompt"), str)
    }
    return [
        DifferentPrompt(prompt.index, texts[prompt.index], prompt.text)
        for prompt in prompts.prompts
        if prompt.index in texts and texts[prompt.index].split() != prompt.text.split()
    ]


def check_same_prompts(images: Path, record: Any, prompts: PromptSet) -> None:
    """Checks that the images were made from the prompts that they are to be judged by.

    Raises:
        InputError: some were not.
    """
    different = different_prompts(record, prompts)
    if different:
        first = different[0]
        raise InputError(
            f"{images / GENERATION}: {len(different)} of {len(prompts.prompts)} prompts are not those of "
            f"{prompts.path}: number {first.index} was made from {_short(first.made_from)} and would be judged by "
            f"{_short(first.judged_by)}; give the file that the images were made from, or --prompts-differ"
        )


def _short(text: str) -> str:
    text = " ".join(text.split())
    return repr(text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 1]}…")
