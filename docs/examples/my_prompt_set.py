"""A prompt set of your own, in the format that unigenbench reads.

python my_prompt_set.py my_prompts.csv
unigenbench validate --data my_prompts.csv
t2ialign generate --model MODEL --prompts my_prompts.csv --images-per-prompt 4 --out images
unigenbench judge --data my_prompts.csv --images images --judge openai:MODEL --base-url URL --run judged
"""

from __future__ import annotations

import sys
from pathlib import Path

from unigenbench import Point, Prompt
from unigenbench.prompts import to_csv

PROMPTS = (
    Prompt(
        index=0,
        text="A red kettle on a wooden stove, and two white cups beside it.",
        theme="Design",
        subtheme="Design Assets",
        subject="Other Entity",
        structure="Descriptive",
        points=(
            Point("attribute.color", "Attribute - Color", "The kettle is red and the cups are white"),
            Point("attribute.quantity", "Attribute - Quantity", "There are exactly two cups"),
        ),
    ),
)


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(to_csv(PROMPTS, "en"), encoding="utf-8", newline="\n")
