"""How much of the text that a prompt puts in quotes is read in the image, by RapidOCR (its wheel holds the weights)."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, Protocol

import numpy as np
from PIL.Image import Image

from t2ialign.errors import EnvironmentProblem
from t2ialign.rewards.needs import NeedsWeights

PACKAGES = ("rapidocr", "onnxruntime")
DOUBLE = re.compile(r'"([^"]*)"|“([^”]*)”|„([^“”]*)[“”]|«([^»]*)»')
SINGLE = re.compile(r"(?<!\w)(?:'(.+?)'|‘(.+?)’)(?!\w)", re.DOTALL)
"""One within a word is an apostrophe."""


class Reader(Protocol):
    """Reads the text of an image."""

    def __call__(self, image: Image) -> str:
        """All text, line after line from the top; empty where there is none."""
        ...


def quoted_text(prompt: str) -> str | None:
    """What the first pair of quotes encloses, straight or typographic; None where none encloses anything.

    Single quotes count where there are no double ones, as a lone apostrophe looks like one.
    """
    pairs = (pair for quotes in (DOUBLE, SINGLE) for pair in quotes.finditer(prompt))
    texts = (next(filter(None, pair.groups()), "") for pair in pairs)
    return next((text for text in texts if comparable(text)), None)


def comparable(text: str) -> str:
    """In lower case, without white space."""
    return "".join(text.lower().split())


def text_match(target: str, read: str) -> float:
    """1 where the target stands anywhere in what was read, else 1 - min(Levenshtein distance, n) / n. In [0, 1]

    Args:
        target: at least one character, n of them, besides white space.
        read: any text. Both are compared in lower case and without white space.
    """
    target, read = comparable(target), comparable(read)
    if target in read:
        return 1.0
    return 1 - min(levenshtein(target, read), len(target)) / len(target)


def levenshtein(a: str, b: str) -> int:
    """Fewest insertions, deletions and replacements of a character that turn one text into the other."""
    above = list(range(len(b) + 1))
    for row, letter in enumerate(a, 1):
        current = [row]
        for column, other in enumerate(b, 1):
            current.append(min(above[column] + 1, current[-1] + 1, above[column - 1] + (letter != other)))
        above = current
    return above[-1]


class RapidReader:
    """RapidOCR on the CPU, with the models of its wheel."""

    def __init__(self) -> None:
        require_packages()
        engine = importlib.import_module("rapidocr").RapidOCR
        self._engine: Any = engine(params={"Global.log_level": "error"})  # below, it warns of images without text

    def __call__(self, image: Image) -> str:
        blue_green_red = np.ascontiguousarray(np.asarray(image.convert("RGB"))[..., ::-1])
        return "\n".join(self._engine(blue_green_red).txts or ())


class OcrMatch(NeedsWeights):
    """How much of the prompt's quoted text is read in the image, 0 to 1; None where the prompt quotes nothing."""

    def __init__(self) -> None:
        self._read: Reader = RapidReader()

    @classmethod
    def check(cls, options: Mapping[str, Any]) -> None:
        require_packages()

    def __call__(self, images: list[Image], prompts: list[str]) -> list[float | None]:
        return [self._score(image, quoted_text(prompt)) for image, prompt in zip(images, prompts, strict=True)]

    def _score(self, image: Image, target: str | None) -> float | None:
        return None if target is None else text_match(target, self._read(image))


def require_packages() -> None:
    """
    Raises:
        EnvironmentProblem: RapidOCR, or what it runs on, is not installed.
    """
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise EnvironmentProblem(
            f"reward 'ocr' needs {' and '.join(missing)}, not installed: pip install \"t2ialign[ocr]\""
        )
