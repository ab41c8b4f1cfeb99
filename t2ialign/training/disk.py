"""What a run writes, and whether its disk has room for it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

from t2ialign.backbones.facts import ModelFacts
from t2ialign.config.schema import RunConfig
from t2ialign.data.base import Source
from t2ialign.data.buckets import Buckets, one_bucket
from t2ialign.errors import TryAgainError

FLOAT32 = 4
"""Bytes of a trained number, of each of AdamW's two moments, and of its average."""


class Disk(NamedTuple):
    """What a run writes, in bytes; an estimate."""

    cache: int
    """Latents and text embeddings that the config insists on storing."""
    checkpoints: int
    """All that are kept, and one more while the oldest is still there."""
    result: int
    """The LoRA or the whole denoiser, and its average."""

    @property
    def total(self) -> int:
        return sum(self)


def estimate_disk(
    config: RunConfig, facts: ModelFacts, trained_parameters: int, source: Source, buckets: Buckets | None = None
) -> Disk:
    """Bytes that a run writes: caches that are insisted on, checkpoints and result in float32."""
    trained = FLOAT32 * trained_parameters
    average = trained if config.optim.ema_decay is not None else 0
    cache = config.data.cache
    stored = 0
    if True in (cache.latents, cache.text):
        latents, text = cache_bytes(config, facts, source, buckets)
        stored = latents * (cache.latents is True) + text * (cache.text is True)
    saves = -(-config.train.steps // config.checkpoint.every_steps)
    at_once = min(config.checkpoint.keep + 1, saves)  # the oldest goes once the newest is whole
    return Disk(stored, at_once * (3 * trained + average + trained * config.keeps_old), trained + average)


class CacheBytes(NamedTuple):
    """What the encodings of a data set take on disk."""

    latents: int
    text: int


def cache_bytes(config: RunConfig, facts: ModelFacts, source: Source, buckets: Buckets | None = None) -> CacheBytes:
    """What a run would store of its data, whether or not the config insists on it."""
    itemsize = 2 if config.data.cache.dtype == "float16" else 4
    buckets = buckets or one_bucket(len(source), config.data.resolution or facts.resolution)
    pixels = sum(count * width * height for count, (width, height) in zip(buckets.counts, buckets.sizes, strict=True))
    prompts = {prompt for row in range(len(source)) for prompt in source[row].prompts}
    kept = 2 if config.data.flip else 1  # the mirrored images beside the others
    numbers = 2 * len(source[0].images) * facts.latent_channels * pixels // facts.vae_factor**2
    return CacheBytes(
        kept * numbers * itemsize,
        len(prompts) * (config.backbone.prompt_segments or 1) * facts.text_tokens * facts.text_width * itemsize,
    )


def check_disk(run_dir: Path, disk: Disk) -> None:
    """Checks that the run fits on its disk, beside what it has written already.

    Raises:
        TryAgainError: it does not.
    """
    existing = next(path for path in (run_dir.absolute(), *run_dir.absolute().parents) if path.is_dir())
    written = sum(path.stat().st_size for path in run_dir.rglob("*.safetensors")) if run_dir.is_dir() else 0
    free = shutil.disk_usage(existing).free
    if disk.total - written > free:
        raise TryAgainError(
            f"{run_dir}: the disk is too full: the run writes about {size(disk.total - written)} (checkpoints "
            f"{size(disk.checkpoints)}, result {size(disk.result)}, cache {size(disk.cache)}) and {size(free)} are "
            "free; free some space and run the same command again, or lower checkpoint.keep"
        )


def size(count: float) -> str:
    """Bytes in words."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
