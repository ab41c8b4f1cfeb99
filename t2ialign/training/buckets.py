"""Aspect buckets of a run: found before it, what they ask of it, and what is said of them."""

from __future__ import annotations

from collections.abc import Iterator

from t2ialign.backbones.facts import ModelFacts
from t2ialign.config.schema import RunConfig
from t2ialign.data.base import DataConfig, Source
from t2ialign.data.buckets import Buckets, by_bucket, describe_buckets, find_buckets
from t2ialign.data.loading.sampler import Order
from t2ialign.errors import InputError


def run_buckets(data: DataConfig | None, source: Source | None, facts: ModelFacts | None) -> Buckets | None:
    """The buckets of one of a run's data sets, whose keys `check_images` has checked; None where all are squares.

    Raises:
        DataError: images are missing or damaged.
    """
    if data is None or source is None or data.crop != "bucket":
        return None
    resolution = data.resolution or (facts and facts.resolution)
    assert resolution is not None
    return find_buckets(source, resolution, data.bucket_step)


def check_company(config: RunConfig, buckets: Buckets | None) -> None:
    """Checks that a micro-batch has other examples where the objective compares with them.

    Raises:
        InputError: a bucket is too small.
    """
    if buckets is None or not config.objective.needs_mismatched:
        return
    count, size = min(zip(buckets.counts, buckets.sizes, strict=True))
    if count < config.train.micro_batch:
        raise InputError(
            f"objective '{config.objective.name}' compares with other examples' prompts, and the bucket {size[0]} x "
            f"{size[1]} px has {count} examples for a train.micro_batch of {config.train.micro_batch}; set "
            "data.crop=center, or leave such images out"
        )


def bucket_lines(config: RunConfig, source: Source, buckets: Buckets) -> Iterator[str]:
    """How many examples each bucket has, and which of them come late or often."""
    yield describe_buckets(buckets)
    if len(buckets.sizes) == 1:
        return
    micro_batch, steps = config.train.micro_batch, config.train.steps
    few = sum(count for count in buckets.counts if count < micro_batch)
    if few:
        yield (
            f"{few:,} of {len(source):,} examples are in buckets of fewer than train.micro_batch {micro_batch}: their "
            "micro-batches hold them several times, and come the less often"
        )
    indices = by_bucket(config.data.epoch_indices(source), buckets)
    visits = steps * config.train.effective_batch
    seen = Order(indices, seed=config.seed, micro_batch=micro_batch).visits(visits // micro_batch)
    unseen = sum(max(0, len(rows) - count) for rows, count in zip(indices, seen, strict=True))
    total = sum(map(len, indices))
    if unseen and visits >= total:
        yield (
            f"{unseen:,} of {total:,} examples are not seen in {steps:,} steps: they fill no micro-batch of their "
            "bucket in time"
        )
    yield "note: train.micro_batch has a part in the order of the examples, as a micro-batch has one bucket"
