"""What reads the parts of rows: images from their files, latents and embeddings from where they are stored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from t2ialign.backbones.base import Backbone
from t2ialign.data.base import Crop, Source
from t2ialign.data.buckets import Buckets, one_bucket
from t2ialign.data.encoding.shards import Shards, stack_rows
from t2ialign.data.framing import CENTER, crop_place, to_pixels
from t2ialign.data.images import open_image
from t2ialign.errors import DataError
from t2ialign.types import Conditioning, Posterior

Mirrored = Sequence[bool] | None
"""For each row whether all of its images are mirrored; None where none is."""


class ImageReader:
    """Reads, crops and resizes the images of examples; rows that are read together share a bucket.

    Args:
        resolution: side of the squares, or of that whose area no bucket exceeds, in px.
        crop: which part of an image; see `DataConfig.crop`.
        buckets: of `crop` 'bucket'; all other images are squares.

    Raises:
        ValueError: buckets without crop 'bucket', or that without buckets.
    """

    def __init__(self, source: Source, resolution: int, crop: Crop = "center", buckets: Buckets | None = None):
        if (crop == "bucket") != (buckets is not None):
            raise ValueError(f"crop is '{crop}', buckets are {'missing' if buckets is None else 'given'}")
        self.source = source
        self.resolution = resolution
        self.crop = crop
        self.buckets = buckets or one_bucket(len(source), resolution)

    def __call__(self, rows: list[int], mirrored: Mirrored = None) -> tuple[Tensor, Tensor]:
        """Images [N, V, 3, H, W] in [-1, 1], and (original h, w, crop top, left, target h, w) of each. [N, V, 6]

        Args:
            mirrored: the rows of which all images are mirrored.

        Raises:
            DataError: an image is missing or damaged; names its row and file.
        """
        views = [self._views(row, mirror) for row, mirror in zip(rows, mirrored or [False] * len(rows), strict=True)]
        images = torch.stack([torch.stack([pixels for pixels, _ in row]) for row in views])
        return images, torch.tensor([[size for _, size in row] for row in views])

    def _views(self, row: int, mirrored: bool) -> list[tuple[Tensor, tuple[int, ...]]]:
        example = self.source[row]
        place = crop_place(row) if self.crop == "random" else CENTER
        views = []
        for image in example.images:
            try:
                opened = open_image(image, self.source.digests)
                views.append(to_pixels(opened, self.buckets.size(row), place, mirrored=mirrored))
            except DataError as error:
                where = "" if isinstance(image, bytes) else f"{image}: "
                raise DataError(
                    f"{example.origin}: {where}{error}; correct it, or set data.on_bad=drop to leave such rows out"
                ) from None
        return views


class Entry(NamedTuple):
    """Latents that are stored together: of a bucket's images as they are, or mirrored."""

    shards: Shards
    identity: dict[str, Any]
    """What tells them from any others."""
    rows: np.ndarray
    """The data set's rows that lie there, in this order. [n] int64"""
    bucket: int
    mirrored: bool


class StoredLatents:
    """Reads stored latents; rows that are read together share a bucket.

    Args:
        entries: where they lie.
        buckets: the bucket of each row.
    """

    def __init__(self, entries: Sequence[Entry], buckets: Buckets):
        self.buckets = buckets
        self._shards = {(entry.bucket, entry.mirrored): entry.shards for entry in entries}

    def __call__(self, rows: list[int], mirrored: Mirrored = None) -> tuple[Posterior, Tensor | None]:
        """Latents [N, V, C, h, w], and their micro-conditioning. [N, V, 6]

        Args:
            mirrored: the rows of which the mirrored images are meant.

        Raises:
            ValueError: a row's mirrored images are asked for, and none are stored.
        """
        flags = mirrored or [False] * len(rows)
        tensors = stack_rows([self._row(row, mirror) for row, mirror in zip(rows, flags, strict=True)])
        return Posterior(tensors["mean"], tensors["std"]), tensors.get("geometry")

    def _row(self, row: int, mirrored: bool) -> dict[str, Tensor]:
        found = self.shards(int(self.buckets.of[row]), mirrored=mirrored)
        return found.row(int(self.buckets.places[row]))

    def shards(self, bucket: int = 0, *, mirrored: bool = False) -> Shards:
        """Where the latents of a bucket lie.

        Raises:
            ValueError: the mirrored ones are asked for, and none are stored.
        """
        if (bucket, mirrored) not in self._shards:
            raise ValueError("mirrored images are not stored: encode(flips=True) stores them")
        return self._shards[bucket, mirrored]


class NoImages:
    """Stands for the images of examples that have none: NaN in the shape of latents, so that whatever reads it shows.

    Args:
        resolution: side of the images that the model is to make, in px.
    """

    def __init__(self, backbone: Backbone, resolution: int):
        side = resolution // backbone.vae_factor
        self.shape = (backbone.latent_channels, side, side)
        self.geometry = backbone.geometry((resolution, resolution), (0, 0), (resolution, resolution))

    def __call__(self, rows: list[int], mirrored: Mirrored = None) -> tuple[Posterior, Tensor | None]:
        """Latents [N, 1, C, h, w], and the micro-conditioning of square images, not cropped. [N, 1, 6]"""
        missing = torch.full((len(rows), 1, *self.shape), torch.nan)
        return Posterior(missing, missing), None if self.geometry is None else self.geometry.expand(len(rows), 1, -1)


class PromptReader:
    """Reads the prompts of examples."""

    def __init__(self, source: Source):
        self.source = source

    def __call__(self, rows: list[int]) -> list[tuple[str, ...]]:
        return [self.source[row].prompts for row in rows]


class StoredText:
    """Reads stored embeddings; each distinct prompt is stored once.

    Args:
        numbers: which stored prompt belongs to an example. [examples, 1 or V] int64
    """

    def __init__(self, shards: Shards, numbers: Tensor):
        self.shards = shards
        self.numbers = numbers

    def __call__(self, rows: list[int]) -> Conditioning:
        numbers = self.numbers[rows]
        tensors = self.shards.read(numbers.flatten().tolist())
        return Conditioning(tensors["tokens"], tensors.get("pooled")).map(lambda t: t.unflatten(0, numbers.shape))
