"""What frozen encoders make of a data set: encoded once before training and stored, or encoded in each step."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch

from t2ialign.backbones.base import Backbone
from t2ialign.data.base import Cache, Crop, Source
from t2ialign.data.buckets import Buckets
from t2ialign.data.encoding.dataset import Encoded, Encoder, Reader
from t2ialign.data.encoding.latents import store_latents
from t2ialign.data.encoding.readers import ImageReader, PromptReader, StoredText
from t2ialign.data.encoding.shards import Shards
from t2ialign.data.encoding.storing import DTYPES, Share, describe, fits, folder_of, narrow
from t2ialign.errors import InputError
from t2ialign.progress import track

TEXT_VERSION = 1
"""Raised when stored embeddings get another meaning."""


def encode(
    source: Source,
    backbone: Backbone,
    *,
    resolution: int,
    folder: Path,
    device: torch.device,
    cache: Cache | None = None,
    batch: int = 8,
    crop: Crop = "center",
    buckets: Buckets | None = None,
    flips: bool = False,
    warn_enlargement: float = 2.0,
    rank: int = 0,
    world_size: int = 1,
) -> Encoded:
    """Encodes a data set into `folder`, going on from what is stored there; or leaves it to each step.

    Of several processes each encodes its share: they must wait for each other before the first row is read.

    Args:
        resolution: side of the images, in px; of buckets the side of the square whose area they do not exceed.
        batch: images or prompts in one pass of the encoders.
        crop: which part of an image; see `DataConfig.crop`.
        buckets: of `crop` 'bucket'.
        flips: rows may be asked for with their images mirrored.
        warn_enlargement: factor beyond which images that are enlarged are warned of.

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
    share = Share(rank, world_size)
    reader = ImageReader(source, resolution, crop, buckets)
    latents = store_latents(
        reader, encoder, cache.folder or folder, cache, share, flips=flips, warn_enlargement=warn_enlargement
    )
    text = _text(source, encoder, cache.folder or folder, cache, share)
    return Encoded(source, Reader(source, latents, text), encoder, reader.buckets)


def _text(source: Source, encoder: Encoder, folder: Path, cache: Cache, share: Share) -> PromptReader | StoredText:
    if cache.text is False:
        return PromptReader(source)
    place: dict[str, int] = {}
    numbers = [[place.setdefault(text, len(place)) for text in source[row].prompts] for row in range(len(source))]
    distinct = list(place)
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
    if not fits([(shards, elements * DTYPES[cache.dtype].itemsize)], cache.text, "text"):
        return PromptReader(source)
    if share.rank == 0:
        describe(shards, identity)
    todo = share.missing(shards)
    for shard in track(todo, "encoding prompts", len(todo)):
        cond = encoder.encode_prompts([distinct[row] for row in shards.span(shard)])
        tensors = {"tokens": cond.tokens} if cond.pooled is None else {"tokens": cond.tokens, "pooled": cond.pooled}
        shards.write(shard, {name: narrow(tensor, DTYPES[cache.dtype]) for name, tensor in tensors.items()})
    return StoredText(shards, torch.tensor(numbers))
