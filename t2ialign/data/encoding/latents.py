"""Latents of a data set's images: encoded once before training and stored, or encoded in each step."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from t2ialign.data.account import Problem, unusable_rows_error
from t2ialign.data.base import Cache, Source
from t2ialign.data.encoding.dataset import Encoder, LoadedRows
from t2ialign.data.encoding.readers import Entry, ImageReader, NoImages, StoredLatents
from t2ialign.data.encoding.shards import Shards
from t2ialign.data.encoding.storing import DTYPES, Share, describe, fits, folder_of, narrow
from t2ialign.data.framing import RULES
from t2ialign.data.images import in_threads
from t2ialign.data.tables.screening import examine
from t2ialign.errors import DataError
from t2ialign.progress import track
from t2ialign.storage.atomic import link_or_copy

logger = logging.getLogger(__name__)

VERSION = 2
"""Raised when stored numbers or the names of their files get another meaning."""


def store_latents(
    reader: ImageReader,
    encoder: Encoder,
    folder: Path,
    cache: Cache,
    share: Share,
    *,
    flips: bool,
    warn_enlargement: float,
) -> ImageReader | StoredLatents | NoImages:
    """What gives the latents of rows in training: those stored in `folder`, or the images, to be encoded in each step.

    Raises:
        DataError: an image is missing, damaged, or its latents are not finite.
        TryAgainError: the disk is full; the shards already stored are kept.
    """
    source, resolution = reader.source, reader.resolution
    if not source[0].images:
        return NoImages(encoder.backbone, resolution)
    if cache.latents is False:
        return reader
    dtype = DTYPES[cache.dtype]
    entries = _entries(reader, encoder, folder, cache.dtype, flips=flips)
    number_bytes = 2 * len(source[0].images) * encoder.backbone.latent_channels * dtype.itemsize
    cells = [width * height // encoder.backbone.vae_factor**2 for width, height in reader.buckets.sizes]
    stores = [(entry.shards, number_bytes * cells[entry.bucket]) for entry in entries]
    if not fits(stores, cache.latents, "latents"):
        return reader
    if share.rank == 0:
        for entry in entries:
            describe(entry.shards, entry.identity)
        if reader.crop != "bucket":
            _adopt_numbered(entries[0], source)
    sizes = _encode_missing(entries, share, reader, encoder, dtype)
    _warn_of_enlarged(sizes, resolution, warn_enlargement)
    return StoredLatents(entries, reader.buckets)


def _entries(reader: ImageReader, encoder: Encoder, folder: Path, dtype: str, *, flips: bool) -> list[Entry]:
    """An entry for each bucket, and with flips another for its mirrored images."""
    found: list[Entry] = []
    for bucket, size in enumerate(reader.buckets.sizes):
        rows = reader.buckets.rows(bucket)
        identity: dict[str, Any] = {
            "holds": "latents",
            "version": VERSION,
            "backbone": encoder.backbone.fingerprint,
            "resolution": [*size] if reader.crop == "bucket" else reader.resolution,
            "rule": RULES[reader.crop],
            "dtype": dtype,
        }
        for one in (identity, {**identity, "mirrored": True}) if flips else (identity,):
            shards = Shards(folder_of(folder, one), len(rows))
            found.append(Entry(shards, one, rows, bucket, "mirrored" in one))
    return found


Sizes = tuple[int, int, int, int]
"""(height, width) of an image and of what it is resized to, in px."""


def _encode_missing(
    entries: Sequence[Entry], share: Share, reader: ImageReader, encoder: Encoder, dtype: torch.dtype
) -> Counter[Sizes]:
    """Stores this process's share of the latents; an entry reads every image once. The sizes of these are returned.

    The name of a shard's file holds a digest of its images. Where there is a file of that number, the images are
    digested first, to see whether it is theirs; else they are digested as they are encoded.
    """
    source = reader.source
    sizes: Counter[Sizes] = Counter()
    for entry in entries:
        _name_shards(entry, source, entry.shards.seen())
    chunks = _chunks(entries, share, max(1, encoder.batch // source.views))
    read = track(in_threads(_with_all_problems(reader), chunks), "encoding images", len(chunks))
    parts: defaultdict[tuple[Shards, int], list[LoadedRows]] = defaultdict(list)
    for (entry, shard, _, is_last), rows in zip(chunks, read, strict=True):
        assert rows.geometry is not None  # of images that are not encoded yet
        if not entry.mirrored:
            sizes.update(map(tuple, rows.geometry.flatten(0, 1)[:, [0, 1, 4, 5]].tolist()))
        parts[entry.shards, shard].append(encoder.encode_images(rows))
        if is_last:
            _name_shards(entry, source, [shard])
            entry.shards.write(shard, _latent_tensors(parts.pop((entry.shards, shard)), dtype))
    for entry in entries:  # the shards that other processes write
        _name_shards(entry, source, {*range(len(entry.shards))} - {*entry.shards.keys})
    return sizes


class _Chunk(NamedTuple):
    """Rows that are read and encoded at once."""

    entry: Entry
    shard: int
    rows: list[int]
    is_last: bool
    """Of its shard."""


def _chunks(entries: Sequence[Entry], share: Share, step: int) -> list[_Chunk]:
    """What this process has to encode, by rows, so that what lies together in a file is read together."""
    found: list[_Chunk] = []
    for number, entry in enumerate(entries):
        for shard in share.missing(entry.shards, shift=number):
            rows = _rows(entry, shard)
            starts = range(0, len(rows), step)
            found += [_Chunk(entry, shard, rows[at : at + step], at + step >= len(rows)) for at in starts]
    return sorted(found, key=lambda chunk: chunk.rows[-1])


def _rows(entry: Entry, shard: int) -> list[int]:
    """The data set's rows that lie in a shard."""
    span = entry.shards.span(shard)
    return entry.rows[span.start : span.stop].tolist()


def _warn_of_enlarged(sizes: Counter[Sizes], resolution: int, factor: float) -> None:
    """Says how many images are enlarged by more than a factor, and the shorter side from which on none is."""
    enlarged = sum(
        count for (height, width, *to), count in sizes.items() if max(to[0] / height, to[1] / width) > factor
    )
    if enlarged:
        smallest = min(min(height, width) for height, width, *_ in sizes)
        logger.warning(
            "%s of %s images are enlarged by more than %g to %d px (the smallest side is %d px), which trains on blur: "
            "set data.resolution lower, or data.min_side=%d to leave small images out (data.warn_enlargement)",
            *(f"{enlarged:,}", f"{sizes.total():,}", factor, resolution, smallest, math.ceil(resolution / factor)),
        )


def _adopt_numbered(entry: Entry, source: Source) -> None:
    """Brings over what version 1 stored of these data, in a folder for the data as a whole and shards without names."""
    shards = entry.shards
    folder = shards.folder.parent
    if not any(_version(path) == 1 for path in folder.glob("latents-*/index.json")):
        return
    former = {**entry.identity, "version": 1, "rows": len(source), "data": source.fingerprint}
    stored = Shards(folder_of(folder, former), len(source))
    whole = [shard for shard in range(len(stored)) if stored.is_whole(shard)]
    _name_shards(entry, source, whole)
    for shard in whole:
        if not shards.is_whole(shard):
            link_or_copy(stored.path(shard), shards.path(shard))


def _version(path: Path) -> int | None:
    """The version of a stored encoding by its description; None if that is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8")).get("version")
    except (OSError, ValueError, AttributeError):
        return None


def _name_shards(entry: Entry, source: Source, some: Iterable[int]) -> None:
    """Names some shards by what latents depend on: the images of their rows."""
    some = list(some)
    for shard in track(some, "recognising images", len(some)):
        rows = [source[row] for row in _rows(entry, shard)]
        source.digests.add_files(image for row in rows for image in row.images)
        digests = [[source.digests[image] for image in row.images] for row in rows]
        entry.shards.keys[shard] = hashlib.sha256(json.dumps(digests).encode()).hexdigest()[:16]


def _latent_tensors(parts: list[LoadedRows], dtype: torch.dtype) -> dict[str, Tensor]:
    tensors = {
        "mean": narrow(torch.cat([part.posterior.mean for part in parts]), dtype),
        "std": narrow(torch.cat([part.posterior.std for part in parts]), dtype),
    }
    geometry = [part.geometry for part in parts if part.geometry is not None]
    return tensors if not geometry else {**tensors, "geometry": torch.cat(geometry)}


def _with_all_problems(reader: ImageReader) -> Callable[[_Chunk], LoadedRows]:
    """The reader; where it meets a damaged image, the error names those of all other rows too."""
    source = reader.source

    def read(chunk: _Chunk) -> LoadedRows:
        rows = chunk.rows
        try:
            pixels, sizes = reader(rows, [chunk.entry.mirrored] * len(rows))
        except DataError:
            examples = [source[row] for row in range(len(source))]
            problems = [found for found in examine(examples, source.digests) if isinstance(found, Problem)]
            if not problems:
                raise
            raise unusable_rows_error("data", len(examples), problems) from None
        return LoadedRows(pixels, sizes, [], [source[row].origin for row in rows])

    return read
