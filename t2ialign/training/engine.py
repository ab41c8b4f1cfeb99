"""What changes during training: weights, optimizer, step, position in the data, and how they are saved."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from t2ialign.config.schema import Optim
from t2ialign.errors import DataError
from t2ialign.policy import Policy
from t2ialign.training import checkpoint, checkpoint_parts
from t2ialign.training.metrics import Metrics, not_finite, window_sums
from t2ialign.training.optimization import (
    HasModes,
    LossScale,
    OptimizerState,
    learning_rate,
    learnt_weights,
    pack_state,
    restore_state,
)
from t2ialign.training.parallel import Parallel, SingleProcess, open_parallel
from t2ialign.training.trackers import Tracker
from t2ialign.types import LossOutput

OWN = ("trained", "optimizer", "ema", "old")
"""Names of the engine's own groups of tensors in a checkpoint."""
Identity = Mapping[str, str | Callable[[], str]]


class Engine:
    """Turns losses into optimizer steps.

    Gradients of all processes are summed once per optimizer step and divided by the global weight of the whole
    accumulation window, so the result does not depend on how a batch was cut up.

    Args:
        policy: what is trained.
        optimizer: over `policy.trained_parameters()`, in that order.
        optim: rates and clipping.
        steps: optimizer steps in all; the schedule ends there.
        accumulation: loss functions per optimizer step.
        run_dir: where checkpoints and metrics go.
        seed: seed of all draws.
        identity: what must be equal for a checkpoint to be continued: name -> value, or a function that finds it and
            is asked when there is a checkpoint, as a fingerprint of data is known once they are read for encoding.
        keep: checkpoints kept.
        half: the forward pass is float16.
        parallel: the processes of the run; default: those of the process group, or this one alone.
    """

    def __init__(
        self,
        *,
        policy: Policy,
        optimizer: Optimizer,
        optim: Optim,
        steps: int,
        accumulation: int,
        run_dir: Path,
        seed: int,
        identity: Identity,
        keep: int = 2,
        half: bool = False,
        parallel: Parallel | None = None,
    ):
        self.policy = policy
        self.optimizer = optimizer
        self.optim = optim
        self.steps = steps
        self.accumulation = accumulation
        self.run_dir = run_dir
        self.seed = seed
        self._identity = identity
        self.keep = keep
        self.parallel = parallel or open_parallel()
        self.step = 0
        self.samples_seen = 0
        self.metrics: Metrics = {}
        self.stop_requested = False
        self.should_stop = False
        self.tracker: Tracker | None = None
        self.carried: dict[str, dict[str, Tensor]] = {}
        """What else is saved with a checkpoint, by name; after `start` what the restored one held."""
        if isinstance(optimizer, HasModes):
            optimizer.train()
        self._trained = policy.trained_parameters()
        self._scale = LossScale(half)
        self._window: list[LossOutput] = []
        self._started = perf_counter()

    @property
    def is_main(self) -> bool:
        return self.parallel.is_main

    @property
    def identity(self) -> dict[str, str]:
        """What a checkpoint was made with and must be continued with."""
        return {name: value() if callable(value) else value for name, value in self._identity.items()}

    @property
    def recorded(self) -> frozenset[str]:
        """Names of the metrics that an earlier start recorded at the step from which this one continues."""
        return frozenset() if self.tracker is None else self.tracker.recorded

    @property
    def checkpoints(self) -> Path:
        return self.run_dir / "checkpoints"

    def start(self) -> None:
        """Goes on from the newest whole checkpoint, if there is one, and opens the record."""
        found = checkpoint.newest(self.checkpoints, self._report_damaged)
        if found is not None:
            self.restore(found)
        if self.is_main:
            self.tracker = Tracker(self.run_dir, self.step)
        self._started = perf_counter()

    def _report_damaged(self, damaged: checkpoint.Damaged) -> None:
        if self.is_main:
            print(f"{damaged.folder}: not used: {damaged.reason}; looking for the one before it", flush=True)

    def update(self, loss_fn: Callable[[], LossOutput]) -> Metrics | None:
        """One forward and backward pass; an optimizer step when the accumulation window is full.

        Returns:
            The metrics of the optimizer step, or None while accumulating.

        Raises:
            DataError: no example of the whole window counts, or loss or gradient is not finite; nothing was updated.
        """
        output = loss_fn()
        (output.losses * output.weights).sum().mul(self._scale.value).backward()  # pyright: ignore[reportUnknownMemberType]
        self._window.append(LossOutput(output.losses.detach(), output.weights, output.metrics))
        if len(self._window) < self.accumulation:
            return None
        window, self._window = self._window, []
        return self._finish(window)

    def _finish(self, window: list[LossOutput]) -> Metrics | None:
        names, totals = window_sums(window, stop=self.stop_requested)
        totals = self.parallel.sum(totals)
        parameters = list(self._trained.values())
        self.parallel.reduce_gradients(parameters)
        weight = totals[1]
        gradients = [p.grad for p in parameters if p.grad is not None]
        scale = (weight * self._scale.value).to(gradients[0].dtype)
        torch._foreach_div_(gradients, scale)  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
        norm = self.parallel.clip(parameters, self.optim.max_grad_norm)
        # the one device-to-host sync of an optimizer step: finiteness must be known before the weights change
        found: list[float] = torch.cat([totals, norm.double()[None]]).tolist()  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        loss_sum, weight_sum, rows, stop, *rest, grad_norm = found
        self.should_stop = stop > 0
        self.samples_seen += round(rows)
        if weight_sum <= 0:
            self._discard()
            raise DataError(f"step {self.step + 1}: no example of this step counts (all weights are 0)")
        if math.isfinite(loss_sum) and not math.isfinite(grad_norm) and self._scale.overflowed():
            self._discard()
            return None
        if not (math.isfinite(loss_sum) and math.isfinite(grad_norm)):
            self._discard()
            raise DataError(f"{self.run_dir}: {not_finite(self.step, loss_sum / weight_sum, grad_norm, self.metrics)}")
        lr = learning_rate(self.optim, self.step, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        self._discard()
        self._scale.succeeded()
        self.step += 1
        if self.optim.ema_decay is not None:
            self.policy.advance_ema(self.optim.ema_decay)
        now = perf_counter()
        self.metrics = {
            "step": self.step,
            "samples_seen": self.samples_seen,
            "loss": loss_sum / weight_sum,
            "lr": lr,
            "grad_norm": grad_norm,
            "seconds": now - self._started,
            **{key: value / weight_sum for key, value in zip(names, rest, strict=True)},
        }
        self._started = now
        self.log(self.metrics)
        return self.metrics

    def _discard(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)

    def learnt_weights(self) -> AbstractContextManager[None]:
        """Inside, the policy has the weights that are learnt, where the optimizer takes gradients at others."""
        return learnt_weights(self.optimizer)

    def log(self, metrics: Metrics) -> None:
        """Records numbers measured between steps, such as validation."""
        if self.tracker is not None:
            self.tracker.log({"step": self.step, **metrics})

    def save(self) -> None:
        """Writes a checkpoint of this step, if there is none; every process waits until it is whole.

        Raises:
            TryAgainError: the disk is full.
        """
        self._save(self.parallel)

    def save_alone(self) -> None:
        """The same without waiting for other processes, after an error on this one; not where each has a part."""
        if self.is_main and self.step and not self.parallel.is_sharded:
            self._save(SingleProcess())

    def _save(self, parallel: Parallel) -> None:
        folder = self.checkpoints / checkpoint.name(self.step)
        parallel.save(folder, self._tensors(), self._state() if self.is_main else {})
        if self.is_main:
            checkpoint.prune(self.checkpoints, folder, self.keep)

    def _tensors(self) -> dict[str, dict[str, Tensor]]:
        own: dict[str, dict[str, Tensor]] = {
            "trained": {**self._trained},
            "optimizer": pack_state(self.optimizer).moments,
        }
        return {stem: group for stem, group in (own | self.policy.averages() | self.carried).items() if group}

    def _state(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "samples_seen": self.samples_seen,
            "loss_scale": [self._scale.value, self._scale.good_steps],
            "optimizer": pack_state(self.optimizer).numbers,
            "metrics": self.metrics,
            "identity": self.identity,
        }

    def _like(self, stem: str, name: str) -> Tensor | None:
        """What a saved tensor shall lie like: that of the same name, or for a moment its parameter."""
        if stem == "optimizer":
            return list(self._trained.values())[int(name.split(".", 1)[0])]
        return ({"trained": {**self._trained}} | self.policy.averages()).get(stem, {}).get(name)

    @torch.no_grad()
    def restore(self, folder: Path) -> None:
        """Continues from a checkpoint.

        Raises:
            DataError: the data is not what the checkpoint was made with.
            InputError: the checkpoint's weights do not fit this policy.
        """
        state = checkpoint.read_state(folder)
        identity = self.identity
        for key, expected in state["identity"].items():
            if identity.get(key) != expected:
                raise DataError(
                    f"{folder}: made with {key} {expected}, now it is {identity.get(key)}. An exact continuation "
                    f"is impossible: restore the {key}, or start in a new run_dir."
                )
        tensors = checkpoint_parts.load(folder, self._like)
        checkpoint.copy_into(tensors["trained"], dict(self._trained), folder)
        for name, average in self.policy.averages().items():
            checkpoint.copy_into(tensors.get(name, {}), average, folder)
        restore_state(self.optimizer, OptimizerState(tensors.get("optimizer", {}), state.get("optimizer", {})))
        self.carried = {stem: group for stem, group in tensors.items() if stem not in OWN}
        self.step, self.samples_seen = state["step"], state["samples_seen"]
        self._scale.value, self._scale.good_steps = state["loss_scale"]
        self.metrics = state["metrics"]
