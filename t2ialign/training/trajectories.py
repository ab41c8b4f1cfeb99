"""Inverts the data set once, before training: every process its share, going on from what is stored."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch

from t2ialign.backbones.facts import ModelFacts
from t2ialign.config.schema import RunConfig
from t2ialign.data.base import Source
from t2ialign.data.encoding.dataset import Encoded
from t2ialign.data.encoding.shards import Shards
from t2ialign.data.encoding.storing import DTYPES, describe, folder_of, narrow
from t2ialign.data.encoding.trajectories import NAME, Trajectories
from t2ialign.data.loading.loader import assemble_batch
from t2ialign.errors import InputError
from t2ialign.noisers.inversion import InversionNoiser
from t2ialign.progress import track
from t2ialign.rng import Draws
from t2ialign.training.core import Core, init_identity
from t2ialign.types import Batch

VERSION = 1
"""Raised when stored numbers get another meaning."""
SETTINGS = ("steps", "corrections", "eta", "levels", "min_timestep", "max_timestep", "timesteps")
"""Keys of the noiser that decide a trajectory."""


def store_trajectories(config: RunConfig, source: Source, encoded: Encoded, core: Core) -> Trajectories | None:
    """The stored trajectories of a noiser with levels; None for any other.

    Raises:
        TryAgainError: the disk is full; the shards already stored are kept.
    """
    noiser = config.noiser
    if not isinstance(noiser, InversionNoiser) or noiser.levels is None:
        return None
    backbone, cache = core.policy.backbone, config.data.cache
    identity = {
        "holds": "trajectories",
        "version": VERSION,
        "data": source.fingerprint,
        "backbone": backbone.fingerprint,
        **init_identity(config.lora),
        "resolution": config.data.resolution or backbone.resolution,
        "noiser": {name: getattr(noiser, name) for name in SETTINGS},
        "seed": config.seed if noiser.eta else None,
        "dtype": cache.dtype,
        **({} if config.data.crop == "center" else {"crop": config.data.crop}),
    }
    shards = Shards(folder_of(cache.folder or config.run_dir / "cache", identity), len(encoded))
    if core.parallel.is_main:
        describe(shards, identity)
    todo = [shard for shard in range(len(shards)) if shard % core.parallel.world_size == core.parallel.rank]
    todo = [shard for shard in todo if not shards.is_whole(shard)]
    for shard in track(todo, "inverting examples", len(todo)):
        parts = [
            noiser.trajectory(batch, core.policy, Draws(config.seed, batch.keys)).cpu()
            for batch in _batches(encoded, shards.span(shard), config.train.micro_batch, core)
        ]
        shards.write(shard, {NAME: narrow(torch.cat(parts), DTYPES[cache.dtype])})
    core.parallel.barrier()
    return Trajectories(shards, noiser.levels)


class TrajectoryCost(NamedTuple):
    """What inverting the data once takes, and when that is less than inverting in each step."""

    passes: int
    """UNet passes without gradient of an example."""
    size: int
    """Bytes on disk."""
    pays_after: float
    """Visits of an example."""


def trajectory_cost(config: RunConfig, facts: ModelFacts | None, examples: int) -> TrajectoryCost | None:
    """What storing trajectories costs; None where none are stored, or the model's configuration is not at hand.

    Raises:
        InputError: prompts are dropped, under which the trajectories were inverted, images are mirrored or no squares.
    """
    noiser, data = config.noiser, config.data
    if not isinstance(noiser, InversionNoiser) or noiser.levels is None:
        return None
    if data.prompt_dropout:
        raise InputError(
            f"noiser.levels stores trajectories under each row's prompt, and data.prompt_dropout is "
            f"{data.prompt_dropout:g}; set data.prompt_dropout=0, or leave noiser.levels out"
        )
    if data.flip:
        raise InputError(
            f"noiser.levels stores trajectories of the images as they are, and data.flip is {data.flip:g}; set "
            "data.flip=0, or leave noiser.levels out"
        )
    if data.crop == "bucket":
        raise InputError(
            "noiser.levels stores trajectories of squares, and data.crop is bucket; set data.crop=center, or leave "
            "noiser.levels out"
        )
    if facts is None:
        return None
    total = facts.num_train_timesteps
    once = noiser.trajectory_passes(data.views, total)
    each = noiser.model_copy(update={"levels": None}).passes(data.views, total)
    side = (data.resolution or facts.resolution) // facts.vae_factor
    row = noiser.levels * data.views * facts.latent_channels * side * side * DTYPES[data.cache.dtype].itemsize
    return TrajectoryCost(once, examples * row, once / each)


def _batches(encoded: Encoded, rows: range, size: int, core: Core) -> Iterator[Batch]:
    """Batches of some rows, of the means of their latents, keyed by the row."""
    for start in range(0, len(rows), size):
        some = list(rows[start : start + size])
        loaded = encoded[some]._replace(mask=None)
        numbers = torch.tensor(some)
        batch = assemble_batch(numbers, numbers, loaded, loaded.posterior.mean, encoded.views)
        yield batch.to(core.policy.device)
