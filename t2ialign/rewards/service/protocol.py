"""What goes over the wire: the parameters of a reward's function, images as PNG in base64."""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Mapping
from typing import Any

from PIL import Image

from t2ialign.errors import InputError
from t2ialign.rewards.checks import Kind

SCORE, REWARDS = "/score", "/rewards"
"""Paths: of a question, and of the list of what is served."""
PARAMETERS: dict[Kind, tuple[str, ...]] = {
    "pointwise": ("images", "prompts"),
    "pairwise": ("images_a", "images_b", "prompts"),
    "groupwise": ("images", "prompt"),
}
"""Keys of a request beside `reward`, by the kind of the reward."""


def encoded(image: Image.Image) -> str:
    """An image as PNG in base64."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "PNG", compress_level=1)
    return base64.b64encode(buffer.getvalue()).decode()


def decoded(text: Any, what: str) -> Image.Image:
    """The image of a PNG in base64.

    Raises:
        InputError: it is none.
    """
    try:
        with Image.open(io.BytesIO(base64.b64decode(text, validate=True)), formats=["PNG"]) as image:
            return image.convert("RGB")
    except (binascii.Error, TypeError, ValueError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{what} is no PNG image in base64 ({type(error).__name__})") from None


def arguments_of(kind: Kind, body: Mapping[str, Any]) -> list[Any]:
    """The arguments of a reward's function from a request.

    Raises:
        InputError: a key is missing or unknown, an image is none, or the lists are not equally long.
    """
    names = PARAMETERS[kind]
    unknown, missing = set(body) - {*names, "reward"}, [name for name in names if name not in body]
    if unknown or missing:
        wrong = f"no {missing[0]}" if missing else f"unknown key {min(unknown)}"
        raise InputError(f"{wrong}; a {kind} reward is asked with {', '.join(names)}")
    arguments = [_argument(name, body[name]) for name in names]
    lengths = {name: len(value) for name, value in zip(names, arguments, strict=True) if name != "prompt"}
    if len(set(lengths.values())) > 1:
        raise InputError(f"{', '.join(f'{count} {name}' for name, count in lengths.items())}; give as many of each")
    return arguments


def _argument(name: str, value: Any) -> Any:
    if name == "prompt":
        if not isinstance(value, str):
            raise InputError("prompt is no text")
        return value
    if not isinstance(value, list):
        raise InputError(f"{name} is no list")
    if name == "prompts":
        if not all(isinstance(prompt, str) for prompt in value):
            raise InputError("prompts are not all texts")
        return value
    return [decoded(item, f"{name}[{number}]") for number, item in enumerate(value)]
