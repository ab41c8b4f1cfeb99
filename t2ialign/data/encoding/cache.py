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
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor

from t2ialign.backbones.base import Backbone
from t2ialign.data import images
from t2ialign.data.base import Cache, Source
from t2ialign.data.encoding.shards import Shards
from t2ialign.data.images import Pixels, open_image, to_pixels
from t2ialign.data.problems import refusal, threads, unreadable
from t2ialign.errors import DataError, EnvironmentProblem, InputError, TryAgainError
from t2ialign.progress import track
from t2ialign.storage.atomic import atomic_write
from t2ialign.types import Conditioning

logger = logging.getLogger(__name__)

VERSION = 1
"""Raised when stored numbers get another meaning."""
FREE_SHARE = 0.5
"""Share of the free disk that `auto` may fill."""
DTYPES = {"float32": torch.float32, "float16": torch.float16}

Item = TypeVar("Item")
Result = TypeVar("Result")


class Latents(NamedTuple):
    """Posteriors of N examples, times the scaling factor."""

    mean: Tensor
    """[N, V, C, h, w] float32"""
    std: Tensor
    """[N, V, C, h, w] float32"""
    geometry: Tensor | None
    """[N, V, 6]"""


class PixelRows(NamedTuple):
    """Images of N examples, read but not encoded."""

    examples: list[list[Pixels]]
    """N lists of V"""
    origins: list[str]


class Rows(NamedTuple):
    """N examples as training takes them."""

    latents: Latents
    cond: Conditioning
    """[N, 1, ...] or [N, V, ...]"""
    scores: Tensor | None
    """[N, V]"""
    mask: Tensor | None = None
    """False where a list has no view. [N, V] bool"""


class RawRows(NamedTuple):
    """N examples as they come from the disk, encoded or not."""

    latents: Latents | PixelRows
    cond: Conditioning | list[tuple[str, ...]]
    scores: Tensor | None
    mask: Tensor | None = None


class PixelReader:
    """Reads and resizes the images of examples."""

    def __init__(self, source: Source, resolution: int):
        self.source = source
        self.resolution = resolution

    def __call__(self, rows: list[int]) -> PixelRows:
        """
        Raises:
            DataError: an image is missing or damaged; names its row and file.
        """
        return PixelRows([self._views(row) for row in rows], [self.source[row].origin for row in rows])

    def _views(self, row: int) -> list[Pixels]:
        example = self.source[row]
        return [self._pixels(image, example.origin) for image in example.images]

    def _pixels(self, image: Any, origin: str) -> Pixels:
        try:
            return to_pixels(open_image(image), self.resolution)
        except DataError as error:
            where = "" if isinstance(image, bytes) else f"{image}: "
            raise DataError(
                f"{origin}: {where}{error}; correct it, or set data.on_bad=drop to leave such rows out"
            ) from None


class StoredLatents:
    """Reads stored latents."""

    def __init__(self, shards: Shards):
        self.shards = shards

    def __call__(self, rows: list[int]) -> Latents:
        tensors = self.shards.read(rows)
        return Latents(tensors["mean"], tensors["std"], tensors.get("geometry"))


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


class Encoder:
    """Runs a backbone's frozen encoders.

    Args:
        batch: images or prompts in one pass.
    """

    def __init__(self, backbone: Backbone, device: torch.device, batch: int):
        self.backbone = backbone
        self.device = device
        self.batch = batch

    def latents(self, pixels: PixelRows) -> Latents:
        """
        Raises:
            DataError: an image's latents are not finite.
            EnvironmentProblem: the VAE cannot encode an image in this precision; names the image's row.
        """
        views = len(pixels.examples[0])
        flat = [image for example in pixels.examples for image in example]
        origins = [origin for origin in pixels.origins for _ in range(views)]
        spans = range(0, len(flat), self.batch)
        parts = [self._posterior(flat[at : at + self.batch], origins[at : at + self.batch]) for at in spans]
        mean, std = (torch.cat(tensors).unflatten(0, (-1, views)) for tensors in zip(*parts, strict=True))
        return Latents(mean, std, self._geometry(pixels))

    def _posterior(self, flat: list[Pixels], origins: list[str]) -> tuple[Tensor, Tensor]:
        """(mean, std), [B, C, h, w] float32 on the CPU each"""
        values = torch.stack([image.values for image in flat])
        try:
            posterior = self.backbone.encode_images(values.to(self.device))
        except EnvironmentProblem as error:
            if len(flat) == 1:
                raise EnvironmentProblem(f"{origins[0]}: {error}") from None
            parts = [self._posterior([image], [origin]) for image, origin in zip(flat, origins, strict=True)]
            return torch.cat([mean for mean, _ in parts]), torch.cat([std for _, std in parts])
        mean, std = posterior.mean.float().cpu(), posterior.std.float().cpu()
        finite = (mean.isfinite() & std.isfinite()).flatten(1).all(1)
        if not finite.all():
            origin = origins[int((~finite).nonzero()[0])]
            raise DataError(f"{origin}: the VAE makes NaN or infinite latents of this image; is its precision too low?")
        return mean, std

    def _geometry(self, pixels: PixelRows) -> Tensor | None:
        rows = [
            [self.backbone.geometry(image.original, image.crop, _size(image)) for image in example]
            for example in pixels.examples
        ]
        if rows[0][0] is None:
            return None
        return torch.stack([torch.stack([_present(view) for view in row]) for row in rows]).float().cpu()

    def texts(self, prompts: list[tuple[str, ...]]) -> Conditioning:
        """[N, P, L, D] float32 on the CPU, for N rows of P prompts; equal prompts are encoded once."""
        distinct = list(dict.fromkeys(prompt for row in prompts for prompt in row))
        cond = self.prompts(distinct)
        place = {prompt: index for index, prompt in enumerate(distinct)}
        numbers = torch.tensor([[place[prompt] for prompt in row] for row in prompts])
        return cond.map(lambda tensor: tensor[numbers])

    def prompts(self, prompts: list[str]) -> Conditioning:
        """[N, L, D] float32 on the CPU"""
        spans = range(0, len(prompts), self.batch)
        parts = [self.backbone.encode_prompts(prompts[at : at + self.batch]) for at in spans]
        return Conditioning.cat([part.to("cpu", torch.float32) for part in parts])


def _size(image: Pixels) -> tuple[int, int]:
    return image.values.shape[-2], image.values.shape[-1]


def _present(geometry: Tensor | None) -> Tensor:
    assert geometry is not None
    return geometry


class Reader:
    """Reads rows from disk, without any model: what loader workers run."""

    def __init__(self, source: Source, latents: PixelReader | StoredLatents, text: PromptReader | StoredText):
        self.source = source
        self.latents = latents
        self.text = text

    def __call__(self, rows: list[int]) -> RawRows:
        scores = [self.source[row].scores for row in rows]
        present = [self.source[row].present for row in rows]
        mask = None
        if present[0] is not None:
            mask = torch.arange(self.source.views) < torch.tensor(present)[:, None]
        return RawRows(self.latents(rows), self.text(rows), None if scores[0] is None else torch.tensor(scores), mask)


class Encoded:
    """A data set as training takes it: `reader` in any process, `finish` in the one that holds the encoders."""

    def __init__(self, source: Source, reader: Reader, encoder: Encoder):
        self.views = source.views
        self.fingerprint = source.fingerprint
        self.reader = reader
        self._examples = len(source)
        self._encoder = encoder if self.needs_encoders else None

    def __len__(self) -> int:
        return self._examples

    @property
    def needs_encoders(self) -> bool:
        """Whether training still runs VAE or text encoders; if not, they can be released."""
        return isinstance(self.reader.latents, PixelReader) or isinstance(self.reader.text, PromptReader)

    def finish(self, raw: RawRows) -> Rows:
        """Encodes what was not stored."""
        latents, cond, scores, mask = raw
        if isinstance(latents, PixelRows):
            assert self._encoder is not None
            latents = self._encoder.latents(latents)
        if isinstance(cond, list):
            assert self._encoder is not None
            cond = self._encoder.texts(cond)
        return Rows(latents, cond, scores, mask)

    def __getitem__(self, rows: list[int]) -> Rows:
        """Some examples, by their index in the data set."""
        return self.finish(self.reader(rows))


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

    def of(self, shards: Shards) -> list[int]:
        return [shard for shard in shards.missing() if shard % self.world_size == self.rank]


def _latents(
    source: Source, encoder: Encoder, resolution: int, folder: Path, cache: Cache, share: _Share
) -> PixelReader | StoredLatents:
    pixels = PixelReader(source, resolution)
    if cache.latents is False:
        return pixels
    backbone = encoder.backbone
    identity = {
        "holds": "latents",
        "version": VERSION,
        "rows": len(source),
        "data": source.fingerprint,
        "backbone": backbone.fingerprint,
        "resolution": resolution,
        "rule": images.RULE,
        "dtype": cache.dtype,
    }
    shards = Shards(_place(folder, identity), len(source))
    side = resolution // backbone.vae_factor
    row_bytes = 2 * len(source[0].images) * backbone.latent_channels * side * side * DTYPES[cache.dtype].itemsize
    if not _fits(shards, row_bytes, cache.latents, "latents"):
        return pixels
    if share.rank == 0:
        _describe(shards, identity)
    _store_latents(shards, share.of(shards), pixels, encoder, DTYPES[cache.dtype])
    return StoredLatents(shards)


def _store_latents(shards: Shards, todo: list[int], pixels: PixelReader, encoder: Encoder, dtype: torch.dtype) -> None:
    step = max(1, encoder.batch // pixels.source.views)
    chunks = {shard: [list(rows) for rows in _chunks(shards.span(shard), step)] for shard in todo}
    every = [rows for shard in todo for rows in chunks[shard]]
    read = track(_read_ahead(_telling_all_problems(pixels), every), "encoding images", len(every))
    for shard in todo:
        parts = [encoder.latents(rows) for rows in islice(read, len(chunks[shard]))]
        shards.write(shard, _latent_tensors(parts, dtype))


def _chunks(rows: range, step: int) -> list[range]:
    return [rows[at : at + step] for at in range(0, len(rows), step)]


def _latent_tensors(parts: list[Latents], dtype: torch.dtype) -> dict[str, Tensor]:
    mean, std = (_narrow(torch.cat(tensors), dtype) for tensors in zip(*((p.mean, p.std) for p in parts), strict=True))
    tensors = {"mean": mean, "std": std}
    geometry = [part.geometry for part in parts if part.geometry is not None]
    return tensors if not geometry else {**tensors, "geometry": torch.cat(geometry)}


def _telling_all_problems(pixels: PixelReader) -> Callable[[list[int]], PixelRows]:
    """The reader; where it meets a damaged image, the rest of the data is searched, so that all are told at once."""

    def read(rows: list[int]) -> PixelRows:
        try:
            return pixels(rows)
        except DataError:
            examples = [pixels.source[row] for row in range(len(pixels.source))]
            problems = [problem for problem in unreadable(examples) if problem is not None]
            if not problems:
                raise
            raise refusal("data", len(examples), problems) from None

    return read


def _read_ahead(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """function(item) for each item in order, a few computed ahead by threads: memory stays bounded."""
    with ThreadPoolExecutor(threads()) as pool:
        ahead: deque[Future[Result]] = deque()
        for item in items:
            ahead.append(pool.submit(function, item))
            if len(ahead) > threads():
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
        "version": VERSION,
        "rows": len(distinct),
        "prompts": hashlib.sha256(json.dumps(distinct).encode()).hexdigest()[:16],
        "backbone": encoder.backbone.fingerprint,
        "dtype": cache.dtype,
    }
    shards = Shards(_place(folder, identity), len(distinct))
    null = encoder.backbone.null()
    elements = null.tokens.numel() + (0 if null.pooled is None else null.pooled.numel())
    if not _fits(shards, elements * DTYPES[cache.dtype].itemsize, cache.text, "text"):
        return PromptReader(source)
    if share.rank == 0:
        _describe(shards, identity)
    todo = share.of(shards)
    for shard in track(todo, "encoding prompts", len(todo)):
        cond = encoder.prompts([distinct[row] for row in shards.span(shard)])
        tensors = {"tokens": cond.tokens} if cond.pooled is None else {"tokens": cond.tokens, "pooled": cond.pooled}
        shards.write(shard, {name: _narrow(tensor, DTYPES[cache.dtype]) for name, tensor in tensors.items()})
    place = {prompt: number for number, prompt in enumerate(distinct)}
    return StoredText(shards, torch.tensor([[place[prompt] for prompt in row] for row in rows]))


def _narrow(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    narrowed = tensor.to(dtype)
    if not narrowed.isfinite().all():
        raise EnvironmentProblem(f"numbers up to {tensor.abs().max():.3g} do not fit data.cache.dtype; use float32")
    return narrowed


def _place(folder: Path, identity: dict[str, Any]) -> Path:
    """A folder of its own for each identity: nothing stored is ever taken for something else."""
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    return folder / f"{identity['holds']}-{key}"


def _describe(shards: Shards, identity: dict[str, Any]) -> None:
    path = shards.folder / "index.json"
    if not path.is_file():
        with atomic_write(path) as partial:
            partial.write_text(json.dumps(identity, indent=1))


def _fits(shards: Shards, row_bytes: int, wanted: bool | Literal["auto"], what: str) -> bool:
    """Whether to store: as the config says, or for `auto` as the disk allows.

    Raises:
        TryAgainError: the config insists, but the disk is too small.
    """
    needed = row_bytes * sum(len(shards.span(shard)) for shard in shards.missing())
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
