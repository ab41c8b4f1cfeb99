"""Held-out pair accuracy: how often a model orders pairs it has not seen as their labels do.

A pair is ordered rightly where the chosen view's denoising error fell further below the reference's than the rejected
one's, on the mean over fixed timesteps and noise: the implicit reward of arXiv:2311.12908. Every checkpoint is asked
the same questions, so their answers can be compared.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from t2ialign.backbones.base import Backbone
from t2ialign.data.base import Cache, DataConfig, Source
from t2ialign.data.encoding.cache import encode
from t2ialign.data.encoding.dataset import Encoded
from t2ialign.data.loading.loader import assemble_batch
from t2ialign.errors import DataError
from t2ialign.policy import Policy
from t2ialign.progress import track
from t2ialign.rng import Draws, generator, keyed_seed
from t2ialign.statistics import paired_bootstrap
from t2ialign.training.engine import Engine
from t2ialign.training.measurement import Measurement
from t2ialign.training.metrics import Metrics
from t2ialign.types import Noised, Prediction, Weights

logger = logging.getLogger(__name__)


class PairAccuracy(NamedTuple):
    """What held-out pairs say of a model. All numbers but the counts are of the pairs that could be measured."""

    mean: float
    """Share of pairs ordered as their labels are, in [0, 1]; a tie counts one half."""
    low: float
    high: float
    """95 % bootstrap interval, whole prompts resampled."""
    pairs: int
    chosen_change: float
    """Mean change of the chosen views' error against the reference; below 0 they are denoised better."""
    rejected_change: float
    failed: int = 0
    """Pairs whose errors are NaN or infinite; `pairs` does not count them."""


class HeldOutPairs:
    """A fixed choice of pairs, each with fixed draws of timestep and noise.

    Args:
        source: pairs, as the encoded ones were read.
        encoded: the same pairs, encoded.
        max_pairs: how many are chosen.
        draws: of timestep and noise for each pair, the timesteps spread over the schedule.
        seed: of the choice, the timesteps and the noise.
        batch: pairs in one pass.

    Raises:
        DataError: the data are no pairs.
    """

    def __init__(self, source: Source, encoded: Encoded, *, max_pairs: int, draws: int, seed: int, batch: int):
        if source.views != 2:
            raise DataError(f"held-out pairs have 2 views an example; these have {source.views}")
        order: list[int] = torch.randperm(len(source), generator=generator(seed, "held-out pairs")).tolist()  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        self.rows = sorted(order[:max_pairs], key=lambda row: (encoded.buckets.of[row], row))
        self.prompts = [source[row].prompts[0] for row in self.rows]
        self.encoded = encoded
        self._draws, self._seed, self._batch = draws, seed, batch

    @property
    def needs_encoders(self) -> bool:
        """Whether VAE or text encoders run in each measurement, for want of a cache."""
        return self.encoded.needs_encoders

    @torch.no_grad()
    def errors(self, policy: Policy, models: Sequence[Weights]) -> list[Tensor]:
        """Each model's mean denoising errors, views (chosen, rejected). [pairs, 2] float64 on the CPU each"""
        found: list[list[Tensor]] = [[] for _ in models]
        chunks = self._chunks()
        for rows in track(chunks, "held-out pairs", len(chunks)):
            for parts, errors in zip(found, self._chunk(policy, models, rows), strict=True):
                parts.append(errors)
        return [torch.cat(parts) for parts in found]

    def _chunks(self) -> list[list[int]]:
        """The pairs, those of one pass together: as many as it takes, of one bucket."""
        buckets = [[*rows] for _, rows in groupby(self.rows, lambda row: self.encoded.buckets.of[row])]
        return [rows[at : at + self._batch] for rows in buckets for at in range(0, len(rows), self._batch)]

    def _chunk(self, policy: Policy, models: Sequence[Weights], rows: list[int]) -> list[Tensor]:
        encoded = self.encoded[rows]
        keys = torch.tensor(rows)
        batch = assemble_batch(keys, keys, encoded, encoded.posterior.mean, self.encoded.views).to(policy.device)
        schedule = policy.backbone.schedule
        totals = [torch.zeros(len(rows), 2, dtype=torch.float64) for _ in models]
        for draw in range(self._draws):
            draws = Draws(keyed_seed(self._seed, "held out", draw), batch.keys)
            span = schedule.num_train_timesteps
            low, high = draw * span // self._draws, (draw + 1) * span // self._draws
            timesteps = draws.timesteps(low, max(high, low + 1))[:, None].expand(-1, 2)
            noise = draws.normal(tuple(batch.latents.shape[2:]), "noise")[:, None].expand_as(batch.latents)
            x_t = schedule.add_noise(batch.latents.flatten(0, 1), noise.flatten(0, 1), timesteps.flatten())
            noised = Noised(x_t.view_as(batch.latents), batch.latents, noise, timesteps)
            for total, weights in zip(totals, models, strict=True):
                answer = policy.predict(noised.x_t, timesteps, batch.cond, batch.geometry, weights)
                total += Prediction(answer, None, noised, schedule).policy_error.double().cpu() / self._draws
        return totals

    def accuracy(self, policy_error: Tensor, reference_error: Tensor) -> PairAccuracy:
        """How two models' errors on these pairs compare. [pairs, 2] both

        Raises:
            DataError: no pair could be measured.
        """
        change = policy_error - reference_error
        measured = change.isfinite().all(1)
        failed = int((~measured).sum())
        if failed == len(change):
            raise DataError(
                f"none of {failed} held-out pairs can be measured: the denoising errors are NaN or infinite, as the "
                "model's numbers overflow; use precision fp32 (or bf16), a smaller LoRA scale, or other weights"
            )
        chosen, rejected = change[measured].unbind(1)
        prompts = [prompt for prompt, finite in zip(self.prompts, measured, strict=True) if finite]
        shares = (chosen < rejected).double() + 0.5 * (chosen == rejected).double()
        right: list[float] = shares.tolist()  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        interval = paired_bootstrap([0.0] * len(right), right, seed=self._seed, clusters=prompts)
        changes = (float(chosen.mean()), float(rejected.mean()))
        return PairAccuracy(interval.mean, interval.low, interval.high, len(right), *changes, failed)


class HeldOutAccuracy(Measurement):
    """Held-out pair accuracy along a run, in metrics.jsonl and on the board.

    Args:
        policy: whose accuracy.
        held_out: on which pairs.
        every: optimizer steps between measurements; one more after the last step.
        steps: the last step.
    """

    def __init__(self, policy: Policy, held_out: HeldOutPairs, *, every: int, steps: int):
        super().__init__(every=every, steps=steps)
        self._policy, self._held_out = policy, held_out
        self._reference: Tensor | None = None

    def _is_recorded(self, engine: Engine) -> bool:
        return "validation/pair_accuracy/mean" in engine.recorded

    def measure(self, engine: Engine) -> Metrics:
        """Measures and records the policy; the reference, which does not change, is measured once a start."""
        if self._reference is None:
            (self._reference,) = self._held_out.errors(self._policy, ["reference"])
        (errors,) = self._held_out.errors(self._policy, ["policy"])
        found = self._held_out.accuracy(errors, self._reference)
        if found.failed:
            logger.warning("%s", _failures(found))
        numbers = recorded(found)
        engine.log(numbers)
        return numbers


def measure_pairs(
    policy: Policy,
    weights: Weights,
    data: DataConfig,
    *,
    max_pairs: int,
    draws: int,
    seed: int,
    batch: int,
    base: Policy | None = None,
) -> PairAccuracy:
    """The accuracy of one choice of weights against the base, on pairs encoded as they are needed.

    Args:
        base: has the base's text encoders, where LoRAs changed the policy's; default: the policy's are the base's.

    Raises:
        DataError: the data cannot be used, or are no pairs.
    """
    source = data.open()
    source.account.warn()

    def held_out(backbone: Backbone) -> HeldOutPairs:
        encoded = encode(
            source,
            backbone,
            resolution=data.resolution or backbone.resolution,
            folder=Path(),
            device=policy.device,
            cache=Cache(latents=False, text=False),
        )
        return HeldOutPairs(source, encoded, max_pairs=max_pairs, draws=draws, seed=seed, batch=batch)

    pairs = held_out(policy.backbone)
    if base is None:
        return pairs.accuracy(*pairs.errors(policy, [weights, "base"]))
    return pairs.accuracy(*pairs.errors(policy, [weights]), *held_out(base.backbone).errors(base, ["base"]))


def recorded(found: PairAccuracy) -> Metrics:
    """The names of the numbers in metrics.jsonl; a chart a group."""
    accuracy = {f"validation/pair_accuracy/{key}": getattr(found, key) for key in ("mean", "low", "high")}
    changes = {"chosen": found.chosen_change, "rejected": found.rejected_change}
    return {**accuracy, **{f"validation/held_out_change/{key}": value for key, value in changes.items()}}


def describe(found: PairAccuracy) -> str:
    """The accuracy in a sentence."""
    failures = f"; {_failures(found)}" if found.failed else ""
    return (
        f"held-out pair accuracy {found.mean:.1%} (95 % interval {found.low:.1%} to {found.high:.1%}, "
        f"{found.pairs} pairs); error of the chosen views {found.chosen_change:+.3g}, of the rejected ones "
        f"{found.rejected_change:+.3g} against the reference{failures}"
    )


def _failures(found: PairAccuracy) -> str:
    total = found.pairs + found.failed
    return f"{found.failed} of {total} held-out pairs are left out: their errors are NaN or infinite"
