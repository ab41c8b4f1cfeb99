"""What a run will ask for, before it does: requests, tokens, and money where a user gives prices."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from unigenbench.errors import InputError
from unigenbench.types import Language, Usage

CHARACTERS_PER_TOKEN: dict[Language, float] = {"en": 4.2, "zh": 1.3}
OUTPUT_PER_POINT = 95
"""Tokens of an analysis and a score; a judge that reasons adds to it."""
OUTPUT_ALONE = 10
"""Tokens of a reply beside those."""
PATCH_PIXELS = 28
"""Side of the square that one image token of Qwen2.5-VL stands for."""
TILE_TOKENS, TILE_PIXELS = 258, 768
"""An image on Gemini: tiles of this side, or one for a small image."""
SMALL_IMAGE_PIXELS = 384
MEASURED_AFTER = 20
"""Judgements after which their mean replaces the estimate."""


@dataclass(frozen=True)
class Price:
    """US dollars, or whatever the file is written in, per million tokens."""

    input: float
    output: float
    cached_input: float | None = None
    """None costs as much as `input`"""

    def cost(self, usage: Usage) -> float:
        """Of these tokens; what is cached is part of the input, what is reasoned part of the output."""
        cached = min(usage.cached_input, usage.input)
        cheap = self.input if self.cached_input is None else self.cached_input
        return ((usage.input - cached) * self.input + cached * cheap + usage.output * self.output) / 1e6


def read_price(path: Path, model: str) -> Price:
    """The price of a model, from a JSON file {model: {"input": 1.25, "output": 10, "cached_input": 0.3}}.

    Raises:
        InputError: the file cannot be read, or does not have the model.
    """
    try:
        prices = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(prices, dict) or model not in prices:
        known = ", ".join(prices) if isinstance(prices, dict) else "nothing"
        raise InputError(f"{path}: no price for {model!r}; it has {known}")
    try:
        price = Price(**{name: float(value) for name, value in prices[model].items()})
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(f"{path}: {model}: write numbers for input, output and, if need be, cached_input") from error
    if not all(0 <= value < math.inf for value in (price.input, price.output, price.cached_input or 0.0)):
        raise InputError(f"{path}: {model}: a price is a number that is not negative")
    return price


@dataclass(frozen=True)
class Estimate:
    """What is to be asked, and what that will take."""

    judgements: int
    requests: int
    """without retries"""
    usage: Usage
    cost: float | None
    """None without prices"""

    def as_fields(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


def text_tokens(text: str, language: Language) -> float:
    """Of a rendered rubric."""
    return len(text) / CHARACTERS_PER_TOKEN[language]


def image_tokens(kind: str, width: int, height: int) -> int:
    """Of one image, by kind of judge.

    >>> image_tokens("openai", 1024, 1024), image_tokens("gemini", 1024, 1024), image_tokens("gemini", 256, 256)
    (1369, 1032, 258)
    """
    if kind != "gemini":
        return math.ceil(width / PATCH_PIXELS) * math.ceil(height / PATCH_PIXELS)
    if max(width, height) <= SMALL_IMAGE_PIXELS:
        return TILE_TOKENS
    return TILE_TOKENS * math.ceil(width / TILE_PIXELS) * math.ceil(height / TILE_PIXELS)


def judgement_usage(text: str, language: Language, kind: str, size: tuple[int, int], points: int, reply: str) -> Usage:
    """Tokens of one judgement, expected."""
    input = round(text_tokens(text, language)) + image_tokens(kind, *size)
    if reply == "logits":
        return Usage(input * points, points)
    return Usage(input, OUTPUT_ALONE + OUTPUT_PER_POINT * points)


def total(usages: Iterable[tuple[Usage, int]], price: Price | None) -> Estimate:
    """Of many judgements, each with its number of requests."""
    judgements = requests = 0
    usage = Usage()
    for one, its_requests in usages:
        judgements, requests, usage = judgements + 1, requests + its_requests, usage + one
    return Estimate(judgements, requests, usage, price.cost(usage) if price else None)
