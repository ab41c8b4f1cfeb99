"""Aspect buckets: the few sizes to which images of other shapes than squares are brought, and which has which."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from t2ialign.data.base import Source
from t2ialign.data.image_sizes import Size, find_sizes
from t2ialign.errors import InputError

MAX_RATIO = 2
"""Of the longer side of a bucket to the shorter."""


@dataclass(frozen=True)
class Buckets:
    """The sizes that a data set's images are brought to, and which of them each example has."""

    sizes: tuple[Size, ...]
    """(width, height) in px; every one has an example."""
    of: np.ndarray
    """The bucket of each example. [examples] int64"""

    def size(self, row: int) -> Size:
        """To which an example's images are brought."""
        return self.sizes[self.of[row]]

    def rows(self, bucket: int) -> np.ndarray:
        """The examples of a bucket, in their order. [n] int64"""
        return np.flatnonzero(self.of == bucket)

    @cached_property
    def places(self) -> np.ndarray:
        """How many examples of its bucket come before each example. [examples] int64"""
        places = np.empty_like(self.of)
        for bucket in range(len(self.sizes)):
            here = self.of == bucket
            places[here] = np.arange(np.count_nonzero(here))
        return places

    @property
    def counts(self) -> list[int]:
        """Examples of each bucket."""
        return np.bincount(self.of, minlength=len(self.sizes)).tolist()

    @property
    def digest(self) -> str:
        """16 hex digits that change with the sizes and with the bucket of any example."""
        return hashlib.sha256(repr((self.sizes, self.of.tolist())).encode()).hexdigest()[:16]

    def chosen(self, rows: Sequence[int]) -> Buckets:
        """The buckets of some examples."""
        return _used(self.sizes, self.of[list(rows)])


def one_bucket(examples: int, side: int) -> Buckets:
    """All examples as squares."""
    return Buckets(((side, side),), np.zeros(examples, np.int64))


def bucket_sizes(resolution: int, step: int) -> list[Size]:
    """Sizes of at most resolution x resolution px, the square first, then ever longer ones up to a ratio of MAX_RATIO.

    For each shorter side, a multiple of `step`, the longer one is the largest multiple that the area allows.

    Raises:
        InputError: the resolution is no multiple of the step.
    """
    if resolution % step:
        near = resolution - resolution % step
        raise InputError(
            f"data.crop is bucket, and the resolution {resolution} px is no multiple of data.bucket_step {step}; set "
            f"it to {max(near, step)} or {near + step}, or data.bucket_step to another multiple of what the VAE needs"
        )
    found = [(resolution, resolution)]
    for short in range(resolution - step, 0, -step):
        long = min(resolution**2 // short // step * step, MAX_RATIO * short)
        found += [(long, short), (short, long)]
        if long == MAX_RATIO * short:
            break
    return found


def find_buckets(source: Source, resolution: int, step: int) -> Buckets:
    """The bucket of each example: the one whose ratio is nearest to the geometric mean of those of its images.

    All images of an example share it. The mean favours none of them: by the chosen image alone, rejected images would
    be cut more, and a model could tell them by that.

    Args:
        resolution: side of the square whose area no bucket exceeds, in px.
        step: of sides, in px.

    Raises:
        InputError: the resolution is no multiple of the step.
        DataError: images are missing or damaged.
    """
    sizes = bucket_sizes(resolution, step)
    means = [sum(map(_log_ratio, images)) / len(images) for images in find_sizes(source)]
    ratios = np.array([_log_ratio(size) for size in sizes])
    return _used(sizes, np.array([np.abs(ratios - mean).argmin() for mean in means]))


def by_bucket(indices: Sequence[int], buckets: Buckets) -> list[Sequence[int]]:
    """The examples of an epoch, those of each bucket by themselves."""
    if len(buckets.sizes) == 1:
        return [indices]
    rows = np.asarray(indices)
    return [rows[buckets.of[rows] == bucket].tolist() for bucket in range(len(buckets.sizes))]


def describe_buckets(buckets: Buckets) -> str:
    """How many examples each bucket has, in words."""
    counts = zip(buckets.sizes, buckets.counts, strict=True)
    return ", ".join(f"{width} x {height} px: {count:,}" for (width, height), count in counts)


def _log_ratio(size: Size) -> float:
    return math.log(size[0] / size[1])


def _used(sizes: Sequence[Size], of: np.ndarray) -> Buckets:
    """Without the buckets that have no example."""
    kept, renumbered = np.unique(of, return_inverse=True)
    return Buckets(tuple(sizes[bucket] for bucket in kept), renumbered.astype(np.int64))
