"""Small prompt files, whole and damaged."""

from __future__ import annotations

import csv
import json
from pathlib import Path

ENGLISH = {
    "Primary Categories": "Art",
    "Secondary Categories": "Graphic Art",
    "Subjects": "Animal",
    "Sentence Structure": "Descriptive",
    "Testpoints": ["Style", "Attribute - Color"],
    "Testpoint Description": ["woodcut", "a red fox"],
}
CHINESE = {
    "一级垂类": "艺术",
    "二级垂类": "艺术-平面艺术",
    "主体": "动物",
    "考点": ["风格", "属性-颜色"],
    "句式": "描述式句式",
    "考点对应描述": ["木刻", "红色的狐狸"],
}


def table(path: Path, rows: list[dict | str], suffix: str = "_en", texts: list[str] | None = None) -> Path:
    """A prompt file with an object, or its JSON text, a row; index 0, 1, …"""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["index", f"prompt{suffix}", f"sub_dims{suffix}"])
        for index, row in enumerate(rows):
            text = texts[index] if texts else f"prompt number {index}"
            writer.writerow([index, text, row if isinstance(row, str) else json.dumps(row, ensure_ascii=False)])
    return path


def without_a_comma(content: dict) -> str:
    """The fault of row 509 of an official file: no comma between the second and third test point."""
    text = json.dumps(content)
    assert text.count('", "Grammar') == 1
    return text.replace('", "Grammar', '" "Grammar')


LABELS = ["Style", "Attribute - Color", "Grammar - Negation", "Action - State", "World Knowledge"]
FIVE = {**ENGLISH, "Testpoints": LABELS, "Testpoint Description": ["woodcut", "a red fox", "no hat", "", 'Mt. "Fuji"']}
