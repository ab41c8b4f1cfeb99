"""What frozen encoders make of a data set: encoded once before training and stored, or encoded in each step."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from t2ialign.backbones.base import Backbone
from t2ialign.data import images
from t2ialign.data.account import unusable_rows_error
from t2ialign.data.base import Cache, Source
from t2ialign.data.encoding.dataset import (
    Encoded,
    Encoder,
    ImageReader,
    LoadedRows,
    NoImages,
    PromptReader,
    Reader,
    StoredLatents,
    StoredText,
)
from t2ialign.data.encoding.shards import Shards
from t2ialign.data.tables.source import unreadable_images
from t2ialign.errors import DataError, EnvironmentProblem, InputError, TryAgainError
from t2ialign.progress import track
from t2ialign.storage.atomic import atomic_write, link_or_copy

logger = logging.getLogger(__name__)

VERSION = 2
"""Raised when stored numbers or the names of their files get another meaning."""
TEXT_VERSION = 1
FREE_SHARE = 0.5
"""Share of the free disk that `auto` may fill."""
DTYPES = {"float32": torch.float32, "float16": torch.float16}


def encode(
    source: Source,
    backbone: Backbone,
    *,
    resolution: int,
    folder: Path,
    device: torch.device,
    cache: Cache | None = None,
    batch: int = 8,
    rank: int = 0,
    world_size: int = 1,
) -> Encoded:
    """Encodes a data set into `folder`, going on from what is stored there; or leaves it to each step.

    Of several processes each encodes its share: they must wait for each other before the first row is read.

    Args:
        resolution: side of the images, in px.
        batch: images or prompts in one pass of the encoders.

    Raises:
        InputError: the resolution does not fit the backbone.
        DataError: an image is missing, damaged, or its latents are not finite.
        TryAgainError: the disk is full; the shards already stored are kept.
    """
    if resolution % backbone.vae_factor:
        near = resolution - resolution % backbone.vae_factor
        raise InputError(
            f"data.resolution is {resolution} px; {backbone.name} needs a multiple of {backbone.vae_factor}: "
            f"{max(near, backbone.vae_factor)} or {near + backbone.vae_factor}"
        )
    cache = cache or Cache()
    encoder = Encoder(backbone, device, batch)
    share = _Share(rank, world_size)
    latents = _latents(source, encoder, resolution, cache.folder or folder, cache, share)
    text = _text(source, encoder, cache.folder or folder, cache, share)
    return Encoded(source, Reader(source, latents, text), encoder)


class _Share(NamedTuple):
    """One process's part of the shards."""

    rank: int
    world_size: int

    def missing(self, shards: Shards, of: Iterable[int]) -> list[int]:
        """Those of some shards that this process has to write."""
        return [shard for shard in of if shard % self.world_size == self.rank and not shards.is_whole(shard)]


def _latents(
    source: Source, encoder: Encoder, resolution: int, folder: Path, cache: Cache, share: _Share
) -> ImageReader | StoredLatents | NoImages:
    if not source[0].images:
        return NoImages(encoder.backbone, resolution)
    reader = ImageReader(source, resolution)
    if cache.latents is False:
        return reader
    backbone = encoder.backbone
    identity = {
        "holds": "latents",
        "version": VERSION,
        "backbone": backbone.fingerprint,
        "resolution": resolution,
        "rule": images.RULE,
        "dtype": cache.dtype,
    }
    shards = Shards(folder_of(folder, identity), len(source))
    side = resolution // backbone.vae_factor
    row_bytes = 2 * len(source[0].images) * backbone.latent_channels * side * side * DTYPES[cache.dtype].itemsize
    if not _fits(shards, row_bytes, cache.latents, "latents"):
        return reader
    if share.rank == 0:
        describe(shards, identity)
        _adopt_numbered(shards, source, identity)
    _store_latents(shards, share, reader, encoder, DTYPES[cache.dtype])
    return StoredLatents(shards)


def _store_latents(shards: Shards, share: _Share, reader: ImageReader, encoder: Encoder, dtype: torch.dtype) -> None:
    """Stores this process's share of the latents; every image is read once.

    The name of a shard's file holds a digest of its images. Where there is a file of that number, the images are
    digested first, to see whether it is theirs; else they are digested as they are encoded.
    """
    source = reader.source
    seen = shards.seen()
    _name_shards(shards, source, seen)
    todo = share.missing(shards, range(len(shards)))
    step = max(1, encoder.batch // source.views)
    chunks = {shard: _chunks(shards.span(shard), step) for shard in todo}
    every = [rows for shard in todo for rows in chunks[shard]]
    read = track(_read_ahead(_with_all_problems(reader), every), "encoding images", len(every))
    for shard in todo:
        parts = [encoder.encode_images(rows) for rows in islice(read, len(chunks[shard]))]
        _name_shards(shards, source, [shard])
        shards.write(shard, _latent_tensors(parts, dtype))
    _name_shards(shards, source, set(range(len(shards))) - {*shards.keys})  # those that other processes write


def _adopt_numbered(shards: Shards, source: Source, identity: dict[str, Any]) -> None:
    """Brings over what version 1 stored of these data, in a folder for the data as a whole and shards without names."""
    folder = shards.folder.parent
    if not any(_version(path) == 1 for path in folder.glob("latents-*/index.json")):
        return
    former = {**identity, "version": 1, "rows": len(source), "data": source.fingerprint}
    stored = Shards(folder_of(folder, former), len(source))
    whole = [shard for shard in range(len(stored)) if stored.is_whole(shard)]
    _name_shards(shards, source, whole)
    for shard in whole:
        if not shards.is_whole(shard):
            link_or_copy(stored.path(shard), shards.path(shard))


def _version(path: Path) -> int | None:
    """The version of a stored encoding by its description; None if that is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8")).get("version")
    except (OSError, ValueError, AttributeError):
        return None


def _name_shards(shards: Shards, source: Source, some: Iterable[int]) -> None:
    """Names some shards by what latents depend on: the images of their rows."""
    examples = {shard: [source[row] for row in shards.span(shard)] for shard in some}
    source.digests.add_files(image for rows in examples.values() for row in rows for image in row.images)
    for shard, rows in examples.items():
        digests = [[source.digests[image] for image in row.images] for row in rows]
        shards.keys[shard] = hashlib.sha256(json.dumps(digests).encode()).hexdigest()[:16]


def _chunks(rows: range, step: int) -> list[list[int]]:
    return [[*rows[at : at + step]] for at in range(0, len(rows), step)]


def _latent_tensors(parts: list[LoadedRows], dtype: torch.dtype) -> dict[str, Tensor]:
    tensors = {
        "mean": narrow(torch.cat([part.posterior.mean for part in parts]), dtype),
        "std": narrow(torch.cat([part.posterior.std for part in parts]), dtype),
    }
    geometry = [part.geometry for part in parts if part.geometry is not None]
    return tensors if not geometry else {**tensors, "geometry": torch.cat(geometry)}


def _with_all_problems(reader: ImageReader) -> Callable[[list[int]], LoadedRows]:
    """The reader; where it meets a damaged image, the error names those of all other rows too."""
    source = reader.source

    def read(rows: list[int]) -> LoadedRows:
        try:
            pixels, sizes = reader(rows)
        except DataError:
            examples = [source[row] for row in range(len(source))]
            problems = [problem for problem in unreadable_images(examples, source.digests) if problem is not None]
            if not problems:
                raise
            raise unusable_rows_error("data", len(examples), problems) from None
        return LoadedRows(pixels, sizes, [], [source[row].origin for row in rows])

    return read


def _read_ahead(function: Callable[[list[int]], LoadedRows], items: Iterable[list[int]]) -> Iterator[LoadedRows]:
    """function(item) for each item in order, a few computed ahead by threads: memory stays bounded."""
    threads = images.thread_count()
    with ThreadPoolExecutor(threads) as pool:
        ahead: deque[Future[LoadedRows]] = deque()
        for item in items:
            ahead.append(pool.submit(function, item))
            if len(ahead) > threads:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def _text(source: Source, encoder: Encoder, folder: Path, cache: Cache, share: _Share) -> PromptReader | StoredText:
    if cache.text is False:
        return PromptReader(source)
    rows = [source[row].prompts for row in range(len(source))]
    distinct = list(dict.fromkeys(prompt for row in rows for prompt in row))
    identity = {
        "holds": "text",
        "version": TEXT_VERSION,
        "rows": len(distinct),
        "prompts": hashlib.sha256(json.dumps(distinct).encode()).hexdigest()[:16],
        "backbone": encoder.backbone.fingerprint,
        "dtype": cache.dtype,
    }
    shards = Shards(folder_of(folder, identity), len(distinct))
    null = encoder.backbone.null()
    elements = null.tokens.numel() + (0 if null.pooled is None else null.pooled.numel())
    if not _fits(shards, elements * DTYPES[cache.dtype].itemsize, cache.text, "text"):
        return PromptReader(source)
    if share.rank == 0:
        describe(shards, identity)
    todo = share.missing(shards, range(len(shards)))
    for shard in track(todo, "encoding prompts", len(todo)):
        cond = encoder.encode_prompts([distinct[row] for row in shards.span(shard)])
        tensors = {"tokens": cond.tokens} if cond.pooled is None else {"tokens": cond.tokens, "pooled": cond.pooled}
        shards.write(shard, {name: narrow(tensor, DTYPES[cache.dtype]) for name, tensor in tensors.items()})
    place = {prompt: number for number, prompt in enumerate(distinct)}
    return StoredText(shards, torch.tensor([[place[prompt] for prompt in row] for row in rows]))


def narrow(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    narrowed = tensor.to(dtype)
    if not narrowed.isfinite().all():
        raise EnvironmentProblem(f"numbers up to {tensor.abs().max():.3g} do not fit data.cache.dtype; use float32")
    return narrowed


def folder_of(folder: Path, identity: dict[str, Any]) -> Path:
    """A folder of its own for each identity: nothing stored is ever taken for something else."""
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    return folder / f"{identity['holds']}-{key}"


def describe(shards: Shards, identity: dict[str, Any]) -> None:
    path = shards.folder / "index.json"
    if not path.is_file():
        with atomic_write(path) as partial:
            partial.write_text(json.dumps(identity, indent=1))


def _fits(shards: Shards, row_bytes: int, wanted: bool | Literal["auto"], what: str) -> bool:
    """Whether to store: as the config says, or for `auto` as the disk allows.

    Raises:
        TryAgainError: the config insists, but the disk is too small.
    """
    seen = shards.seen()
    needed = row_bytes * sum(len(shards.span(shard)) for shard in range(len(shards)) if shard not in seen)
    existing = next(path for path in shards.folder.absolute().parents if path.is_dir())
    free = shutil.disk_usage(existing).free
    if wanted is True and needed > free:
        raise TryAgainError(
            f"{shards.folder}: storing {what} takes {_size_words(needed)}, {_size_words(free)} are free; free some "
            f"space and run the same command again, or set data.cache.{what}=false to encode in each step"
        )
    if wanted is True or needed <= free * FREE_SHARE:
        return True
    logger.warning(
        "%s would take %s, %s are free at %s: they are encoded in each step instead; data.cache.%s=true insists, "
        "data.cache.folder puts them elsewhere",
        *(what, _size_words(needed), _size_words(free), existing, what),
    )
    return False


def _size_words(count: float) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
