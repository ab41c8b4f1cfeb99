"""The numbers of an optimizer step: sums over its accumulation window, and what is said where they are not finite."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from t2ialign.types import LossOutput

Metrics = dict[str, float]


def window_sums(window: list[LossOutput], *, stop: bool) -> tuple[list[str], Tensor]:
    """Names of the metrics, and [loss, weight, rows, stop, metrics ...] summed over the window. float64"""
    names = sorted(window[0].metrics)
    sums = torch.zeros(4 + len(names), dtype=torch.float64, device=window[0].losses.device)
    for output in window:
        weights = output.weights.double()
        sums[0] += (output.losses.double() * weights).sum()
        sums[1] += weights.sum()
        sums[2] += len(weights)
        for place, key in enumerate(names):
            sums[4 + place] += (output.metrics[key].double() * weights).sum()
    sums[3] = float(stop)
    return names, sums


def not_finite(step: int, loss: float, grad_norm: float, before: Mapping[str, float]) -> str:
    """What happened in the step after `step`, and what to do.

    Args:
        before: the metrics of `step`; empty before the first.
    """
    what = f"loss {loss:.4g}, gradient norm {grad_norm:.4g}"
    if before:
        what += f"; at step {step} they were {before['loss']:.4g} and {before['grad_norm']:.4g}"
    return (
        f"step {step + 1} is not finite ({what}). "
        "Training stopped before the weights changed. Lower optim.lr or objective.beta, or raise train.precision, "
        "and start in a new run_dir; or look at the data of this step."
    )
