"""Writes unigenbench/data/shapes.csv: held-out prompts of Shapes with what the verifier checks as their test points.

python scripts/research/build_shapes_suite.py
"""

from __future__ import annotations

import argparse
from pathlib import Path

from t2ialign.shapes.caption import prompts
from t2ialign.shapes.judge import points_of
from unigenbench.prompts import to_csv
from unigenbench.types import Prompt

TARGET = Path(__file__).parents[2] / "unigenbench" / "data" / "shapes.csv"
SIZE = 320
SEED = 0


def shapes_suite(size: int = SIZE, seed: int = SEED) -> list[Prompt]:
    """Prompts of the test split, the families in turn; test point k is the verifier's k-th constraint."""
    return [
        Prompt(index, text, "Art", "Graphic Art", "Other Entity", "Descriptive", points_of(text))
        for index, text in enumerate(prompts("test", size, seed))
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=TARGET)
    out: Path = parser.parse_args().out
    out.write_text(to_csv(shapes_suite(), "en"), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
