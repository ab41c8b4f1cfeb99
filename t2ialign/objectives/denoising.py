"""The denoising loss: supervised fine-tuning on images and prompts."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from t2ialign.objectives.base import ErrorSpace, Objective, row_weights
from t2ialign.schedules import Schedule
from t2ialign.types import Batch, LossOutput, Prediction


def pseudo_huber(difference: Tensor, scale: float) -> Tensor:
    """sqrt(d^2 + h^2) - h: d^2 / (2h) for |d| far below h, |d| for |d| far above it.

    Args:
        difference: d, of any shape.
        scale: h > 0, in the units of d.
    """
    return (difference.square() + scale**2).sqrt() - scale


def min_snr_weight(schedule: Schedule, timesteps: Tensor, gamma: float, space: ErrorSpace) -> Tensor:
    """What a squared error counts (Hang et al. 2023, arXiv:2303.09556, Eq. 6 and section 3.4), SNR = alpha^2 / sigma^2.

    min(SNR, gamma) for x_0; in other terms times what they are worth there: min(SNR, gamma) / SNR for noise and
    epsilon, min(SNR, gamma) / (SNR + 1) for v.

    Args:
        schedule: of the network.
        timesteps: [N]
        gamma: SNR above which all timesteps count alike; 5 in the paper.
        space: in which terms the error is.

    Returns:
        [N] float64
    """
    alpha, sigma = schedule.alpha_sigma(timesteps)
    if space == "noise":
        return (gamma * (sigma / alpha).square()).clamp(max=1)  # also where the SNR is 0
    of_x0 = (alpha / sigma).square().clamp(max=gamma)
    if space == "x0":
        return of_x0
    worth, _ = schedule.to_x0_noise(torch.ones_like(alpha), torch.zeros_like(alpha), timesteps)
    return of_x0 * worth.square()


class Denoising(Objective):
    """Error of the first view (for pairs, the chosen image), by default squared, in the network's parameterisation."""

    name: str = "denoising"
    space: ErrorSpace = "network"
    """What is compared: the network's own output; the noise that it stands for, which differs for v-prediction only;
    or x_0, whose error is the noise's times sigma_t / alpha_t, so that high noise counts most (Self-NPO)."""
    loss: Literal["mse", "pseudo_huber"] = "mse"
    """The mean square, or the mean of sqrt(d^2 + h^2) - h."""
    huber_scale: float = Field(1e-3, gt=0)
    """h of the pseudo-Huber loss; 1e-3 in Self-NPO."""
    min_snr_gamma: float | None = Field(None, gt=0)
    """Weighs timesteps by min(SNR, gamma) in terms of x_0 (arXiv:2303.09556); 5 in the paper. Without it an error
    counts in full at every timestep, in the terms of `space`."""

    def __call__(self, prediction: Prediction, batch: Batch) -> LossOutput:
        difference = prediction.difference(prediction.policy, self.space)[:, 0]
        error = difference.square() if self.loss == "mse" else pseudo_huber(difference, self.huber_scale)
        losses = error.mean(dim=(1, 2, 3))
        metrics = {self.loss: losses.detach()}
        if self.min_snr_gamma is not None:
            timesteps = prediction.noised.timesteps[:, 0]
            weight = min_snr_weight(prediction.schedule, timesteps, self.min_snr_gamma, self.space)
            losses = losses * weight.to(losses)
        return LossOutput(losses, row_weights(batch, losses), metrics)
