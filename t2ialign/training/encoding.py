"""A data set encoded for a run, shared among its processes."""

from __future__ import annotations

from t2ialign.config.schema import RunConfig
from t2ialign.data.base import DataConfig, Source
from t2ialign.data.buckets import Buckets
from t2ialign.data.encoding.cache import encode
from t2ialign.data.encoding.dataset import Encoded
from t2ialign.training.core import Core


def encode_data(
    config: RunConfig, data: DataConfig, source: Source, core: Core, buckets: Buckets | None = None
) -> Encoded:
    """The data set as training takes it; every process encodes its share and waits for the others.

    Args:
        buckets: of `data.crop` 'bucket', as preflight found them.

    Raises:
        InputError: the resolution does not fit the backbone.
        DataError: an image is missing or damaged.
        TryAgainError: the disk is full; what is stored is kept.
    """
    backbone = core.policy.backbone
    encoded = encode(
        source,
        backbone,
        resolution=data.resolution or backbone.resolution,
        folder=config.run_dir / "cache",
        device=core.policy.device,
        cache=data.cache,
        crop=data.crop,
        buckets=buckets,
        flips=data.flip > 0,
        warn_enlargement=data.warn_enlargement,
        rank=core.parallel.rank,
        world_size=core.parallel.world_size,
    )
    core.parallel.barrier()
    return encoded
