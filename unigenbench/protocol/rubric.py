"""How a judge is asked: our own wording in English and Chinese, or the official one of a user's checkout."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Protocol

from unigenbench.errors import InputError
from unigenbench.protocol.native import NativeRubric
from unigenbench.protocol.official import OfficialRubric
from unigenbench.types import Language, Prompt

RubricName = Literal["native-v1", "official-gemini", "official-vllm"]
RUBRICS: tuple[RubricName, ...] = ("native-v1", "official-gemini", "official-vllm")


class Rubric(Protocol):
    """How a prompt and its test points become the text that a judge reads."""

    @property
    def id(self) -> str:
        """For example "native-v1"."""
        ...

    @property
    def sha256(self) -> str:
        """Of everything that shapes a rendered text, in this language."""
        ...

    @property
    def language(self) -> Language: ...

    @property
    def image_first(self) -> bool:
        """Whether the image stands before the text in the message."""
        ...

    @property
    def encoding(self) -> Literal["raw", "jpeg95"]:
        """How images are sent."""
        ...

    def render(self, prompt: Prompt) -> str:
        """The text for one prompt; it asks for one analysis and one score for each test point, in order."""
        ...


def open_rubric(name: str, language: Language, checkout: Path | None = None) -> Rubric:
    """The rubric of a name.

    Args:
        name: one of RUBRICS.
        language: of the prompts.
        checkout: folder of a checkout of the official repository; only for the official ones.

    Raises:
        InputError: the name is unknown, or the checkout is missing or not as expected.
    """
    if name == "native-v1":
        return NativeRubric(language)
    if name not in RUBRICS:
        raise InputError(f"rubric {name!r}: unknown; known are {', '.join(RUBRICS)}")
    if checkout is None:
        raise InputError(f"rubric {name!r}: its wording is not ours to ship; give --official-checkout DIR")
    return OfficialRubric(checkout, language, "gemini" if name == "official-gemini" else "vllm")
