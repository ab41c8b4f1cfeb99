"""Two modes on a line, and the exact denoiser of any such mixture, with parameters that can be learnt."""

from __future__ import annotations

import torch
from diffusers import DDIMScheduler
from torch import Tensor, nn

from t2ialign.schedules import VPSchedule
from t2ialign.types import Conditioning

WIDTH = 0.1
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


class Mixture(nn.Module):
    """The denoiser of x_0 each of whose elements is -1 or 1, as often, give or take WIDTH."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        super().__init__()
        self.schedule = VPSchedule.from_scheduler(DDIMScheduler(**BETAS, set_alpha_to_one=False))  # type: ignore[arg-type]
        self.logits = nn.Parameter(torch.zeros(2, dtype=torch.float64))
        self.means = nn.Parameter(torch.tensor([-1.0, 1.0], dtype=torch.float64))
        self.log_widths = nn.Parameter(torch.full((2,), WIDTH, dtype=torch.float64).log())

    def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
        """The noise in x. [B, C, H, W]"""
        levels = self.schedule.alpha_sigma(timesteps.repeat_interleave(x[0].numel()))
        alpha, sigma = (level[:, None] for level in levels)
        variance = (2 * self.log_widths).exp()
        spread = alpha.square() * variance + sigma.square()
        distance = x.view(-1, 1) - alpha * self.means
        shares = (self.logits - distance.square() / (2 * spread) - spread.log() / 2).softmax(1)
        x_0 = (shares * (self.means + alpha * variance / spread * distance)).sum(1)
        return ((x.flatten() - alpha[:, 0] * x_0) / sigma[:, 0]).view_as(x)

    def null(self) -> Conditioning:
        return Conditioning(torch.zeros(1, 1))

    def denoise(self, x_t: Tensor, timesteps: Tensor, *_: object) -> Tensor:
        return self(x_t, timesteps)

    def predict(self, x_t: Tensor, timesteps: Tensor, *_: object) -> Tensor:
        return self(x_t, timesteps)
