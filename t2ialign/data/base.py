"""What a data set is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

from pydantic import Field

from t2ialign.config.component import Component, Section

if TYPE_CHECKING:
    from t2ialign.data.account import DataAccount
    from t2ialign.data.images import ImageDigests

Crop = Literal["center", "random", "bucket"]


class StoredImage(ABC):
    """An image that lies inside another file."""

    __slots__ = ()

    @property
    @abstractmethod
    def file(self) -> Path:
        """The file it lies in."""

    @property
    @abstractmethod
    def place(self) -> str:
        """Where in the file it lies."""

    @property
    @abstractmethod
    def group(self) -> int:
        """The part of the file that is read at once."""

    @abstractmethod
    def read(self) -> bytes:
        """Its encoded bytes (PNG, JPEG, …)."""


@dataclass(frozen=True)
class Example:
    """One example of a data set; images are not yet read from disk."""

    prompts: tuple[str, ...]
    """One prompt shared by the views, or one a view."""
    images: tuple[Path | bytes | StoredImage, ...]
    """An image file, its encoded bytes, or where they are, a view; for pairs (chosen, rejected). One image may be all
    views', which then differ in their prompts; prompts alone have none."""
    scores: tuple[float, ...] | None = None
    """One number a view: rewards, or 1 for a liked and 0 for a disliked single image."""
    origin: str = ""
    """Where this example was read, as messages name it: file:line."""
    present: int | None = None
    """Number of views of a list shorter than others; those behind are padding."""


class Source(Protocol):
    """A data set: `views`, a length, examples, and an account of what was left out."""

    views: int

    @property
    def fingerprint(self) -> str:
        """The data's identity: changes with anything that changes the examples, image content included, and with
        nothing else, such as the folder they lie in."""
        ...

    @property
    def digests(self) -> ImageDigests:
        """Digests of the images, those computed so far; whoever reads an image first adds its digest."""
        ...

    @property
    def account(self) -> DataAccount:
        """Which rows and files became examples, and which did not and why."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...


class Cache(Section):
    """What frozen encoders make of the data, stored before training so that no step pays for it."""

    latents: bool | Literal["auto"] = "auto"
    """Store latents: true, false (encode in each step), or auto: if they take no more than half of the free disk."""
    text: bool | Literal["auto"] = "auto"
    """The same for the prompts' embeddings."""
    dtype: Literal["float32", "float16"] = "float32"
    """Of stored numbers; float16 halves the space."""
    folder: Path | None = None
    """Where they are stored, default: a folder of the run. Several runs may share one."""


class DataConfig(Component):
    """Where examples come from and how they are shown to the model."""

    slot: ClassVar[str] = "data"
    views: ClassVar[int]
    """Views of an example."""
    has_images: ClassVar[bool] = True
    """Whether examples have images; without, the latents of a batch are only a shape."""
    path: Path
    """File or folder of the examples."""
    made_by: str | None = None
    """The command that makes what `path` names; the message says it where nothing is there."""
    resolution: int | None = Field(None, ge=8)
    """Side in px of the images the model is trained on, default: the backbone's own."""
    crop: Crop = "center"
    """Which part of an image that is no square: its central square; a square drawn once for each row, at the same place
    of all its images (random); or the centre in the shape nearest to its own among sizes of at most resolution x
    resolution px, one for all images of a row (bucket). A micro-batch then has one shape."""
    bucket_step: int = Field(64, ge=8)
    """Sides of buckets are multiples of this, in px."""
    shuffle: Literal["rows", "groups"] = "rows"
    """groups: rows are shuffled among a few neighbouring row groups of a Parquet file at a time, and groups among each
    other, so that training without a cache of latents reads each group once an epoch."""
    warn_enlargement: float = Field(2.0, ge=1)
    """Images that are enlarged by more than this factor are counted and warned of when they are encoded."""
    flip: float = Field(0.0, ge=0, lt=1)
    """Share of visits at which all images of a row are mirrored, left for right, together; drawn by row and epoch. A
    cache of latents holds the mirrored images beside the others. Prompts stay as they are: leave it at 0 where they say
    left or right, or where images hold writing."""
    prompt_dropout: float = Field(0.0, ge=0, lt=1)
    """Share of examples trained without their prompt, for classifier-free guidance; drawn once per example."""
    cache: Cache = Cache()
    """Encodings stored before training."""

    @abstractmethod
    def open(self) -> Source:
        """Reads and checks the table; images are opened later."""

    def epoch_indices(self, source: Source) -> Sequence[int]:
        """The examples of an epoch, by index; an example may be there more than once."""
        return range(len(source))

    def curriculum_scores(self, source: Source) -> Sequence[float] | None:
        """One number an example by which the first epoch is ordered, highest first; None for a random order."""
        return None
