"""LoRAs with their scales, as the command line and configs write them: `path` or `path:scale`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from t2ialign.errors import InputError


def parse_loras(options: Sequence[str] | None, flag: str = "--lora") -> dict[str, float]:
    """{'path': scale} of `path` and `path:scale`; a path that exists as it stands is a path.

    Args:
        flag: the option that gives them, for messages; empty where these name the key anyway.

    Raises:
        InputError: a scale is no number, or a path is given twice.
    """
    scales: dict[str, float] = {}
    for option in options or []:
        given = f"{flag} {option}".lstrip()
        path, scale = _path_and_scale(option, given)
        if path in scales:
            raise InputError(f"{given}: {path} is given twice; give each LoRA once, with its whole scale")
        scales[path] = scale
    return scales


def _path_and_scale(option: str, given: str) -> tuple[str, float]:
    path, colon, scale = option.rpartition(":")
    if not colon or Path(option).exists():
        return option, 1.0
    try:
        number = float(scale)
    except ValueError:
        if not Path(path).exists():
            return option, 1.0  # the colon belongs to the path, as in C:\loras; whoever opens it says what is missing
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"{given}: the scale {scale!r} is no number; write for example {path}:0.5")
    return path, number
