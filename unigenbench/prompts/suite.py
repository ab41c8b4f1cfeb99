"""Writes prompt files in the official schema; the scripts that make our own suites use it."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable

from unigenbench.prompts.schema import KEYS
from unigenbench.taxonomy import STRUCTURES, SUBJECTS, THEMES, Label
from unigenbench.types import Language, Prompt


def to_csv(prompts: Iterable[Prompt], language: Language) -> str:
    """The text of a prompt file: LF line ends, columns index, prompt_xx and sub_dims_xx.

    Args:
        prompts: theme, subtheme, subject and structure under their canonical names, labels and descriptions in the
            file's language.
        language: of the texts, and of the keys and names in the file.

    Raises:
        KeyError: a theme, subtheme, subject or structure is no canonical name.
    """
    written = io.StringIO(newline="")
    rows = csv.writer(written, lineterminator="\n")
    rows.writerow(("index", f"prompt_{language}", f"sub_dims_{language}"))
    for prompt in prompts:
        rows.writerow((prompt.index, prompt.text, json.dumps(_sub_dims(prompt, language), ensure_ascii=False)))
    return written.getvalue()


def _sub_dims(prompt: Prompt, language: Language) -> dict[str, str | list[str]]:
    theme = {theme.name: theme for theme in THEMES}[prompt.theme]
    sorting = (
        Label(theme.name, theme.name_zh),
        _named(theme.subthemes, prompt.subtheme),
        _named(SUBJECTS, prompt.subject),
        _named(STRUCTURES, prompt.structure),
    )
    names = [label.name if language == "en" else label.name_zh for label in sorting]
    labels = [point.label for point in prompt.points]
    descriptions = [point.description for point in prompt.points]
    return dict(zip(KEYS[language], (*names, labels, descriptions), strict=True))


def _named(labels: tuple[Label, ...], name: str) -> Label:
    return {label.name: label for label in labels}[name]
