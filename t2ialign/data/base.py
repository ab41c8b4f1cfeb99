"""What a data set is."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

from pydantic import Field

from t2ialign.config import Component


@dataclass(frozen=True)
class Example:
    """One row of a data set, not yet read from disk."""

    prompts: tuple[str, ...]
    """One prompt shared by the views, or one a view."""
    images: tuple[Path | bytes, ...]
    """An image file, or its encoded bytes, a view; for pairs (chosen, rejected)."""
    scores: tuple[float, ...] | None = None
    """One number a view."""
    origin: str = ""
    """Where this row was read, as messages name it: file:line."""


class Source(Protocol):
    """A data set: `views`, a length, and rows."""

    views: int
    fingerprint: str
    """Changes with anything that changes the examples: the data's identity in caches and checkpoints."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...


class DataConfig(Component):
    """Where examples come from and how they are shown to the model."""

    kind: ClassVar[str] = "data"
    views: ClassVar[int]
    """Views of an example."""
    path: Path
    """File or folder of the examples."""
    resolution: int | None = Field(None, ge=8)
    """Side in px of the images the model is trained on; the backbone's own if not said."""
    prompt_dropout: float = Field(0.0, ge=0, lt=1)
    """Share of examples trained without their prompt, for classifier-free guidance; drawn once per example."""

    @abstractmethod
    def open(self) -> Source:
        """Reads and checks the table; images are opened later."""
