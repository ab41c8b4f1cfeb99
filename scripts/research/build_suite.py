"""Writes unigenbench/data/suite_en.csv and suite_zh.csv from scripts/suite.yaml.

python scripts/research/build_suite.py
"""

from __future__ import annotations

import argparse
from itertools import zip_longest
from pathlib import Path
from typing import Any

import yaml

from unigenbench.prompts import to_csv
from unigenbench.taxonomy import BY_ID
from unigenbench.types import Language, Point, Prompt

SOURCE = Path(__file__).parent / "suite.yaml"
TARGET = Path(__file__).parents[2] / "unigenbench" / "data"
LANGUAGES: tuple[Language, ...] = ("en", "zh")


def suite(language: Language) -> list[Prompt]:
    """The suite in one language: a prompt of each sub-theme in turn, so that the first n are mixed for any n."""
    written: dict[str, list[dict[str, Any]]] = yaml.safe_load(SOURCE.read_text(encoding="utf-8"))
    columns = [[(kind, row) for row in rows] for kind, rows in written.items()]
    turns = [entry for turn in zip_longest(*columns) for entry in turn if entry is not None]
    return [_prompt(index, kind, row, language) for index, (kind, row) in enumerate(turns)]


def _prompt(index: int, kind: str, row: dict[str, Any], language: Language) -> Prompt:
    theme, subtheme = kind.split(" / ")
    subject, structure = row["sorts"].split(", ")
    points = tuple(_point(criterion, said, language) for point in row["points"] for criterion, said in point.items())
    return Prompt(index, row[language], theme, subtheme, subject, structure, points)


def _point(criterion: str, said: str, language: Language) -> Point:
    english, chinese = said.split(" | ")
    named = BY_ID[criterion]
    return Point(criterion, *((named.name, english) if language == "en" else (named.name_zh, chinese)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=TARGET, help="the folder of both files")
    out: Path = parser.parse_args().out
    for language in LANGUAGES:
        (out / f"suite_{language}.csv").write_text(to_csv(suite(language), language), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
