"""Denoisers of one formula, for which the right answer is known."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from t2ialign.schedules import PredictionType, VPSchedule
from t2ialign.types import Conditioning, Weights

BETAS = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64).square()
"""Of SD1.5 and SDXL."""
ABAR = (1 - BETAS).cumprod(0)
Noise = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""The noise that is said of x_t, from x_t, alpha, sigma and the row's one token."""


class Oracle:
    """A denoiser that says `noise`, as an epsilon network or as the v network of the same noise; records timesteps."""

    device = torch.device("cpu")

    def __init__(self, noise: Noise, kind: PredictionType = "epsilon"):
        self.schedule = VPSchedule(ABAR, kind, float(ABAR[0]))
        self.noise = noise
        self.asked: list[list[int]] = []

    def null(self) -> Conditioning:
        return Conditioning(torch.zeros(1, 1))

    def denoise(
        self,
        x_t: Tensor,
        timesteps: Tensor,
        cond: Conditioning,
        geometry: Tensor | None = None,
        weights: Weights = "policy",
    ) -> Tensor:
        self.asked.append(timesteps.tolist())
        levels = self.schedule.alpha_sigma(timesteps.clamp(min=0))
        alpha, sigma = (value.view(-1, 1, 1, 1).to(x_t) for value in levels)
        noise = self.noise(x_t, alpha, sigma, cond.tokens.view(-1, 1, 1, 1))
        return noise if self.schedule.prediction_type == "epsilon" else (noise - sigma * x_t) / alpha

    def predict(self, *_: object, **__: object) -> Tensor:
        raise NotImplementedError
