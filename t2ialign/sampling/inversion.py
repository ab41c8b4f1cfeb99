"""Inversion: the noise that a model itself would start from to reach given latents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from t2ialign.schedules import CLEAN, FINAL, Schedule, network_timesteps
from t2ialign.types import Conditioning, Denoiser, Weights

Grid = Literal["exact", "released", "released_0.22"]
CorrectionTimestep = Literal["destination", "source"]


@dataclass(frozen=True)
class InversionPath:
    """The levels that each row visits, and the timesteps that the network is asked with on the way."""

    levels: Tensor
    """Where each row is before and after each step; a row that has arrived repeats its last level. [B, S+1] int64"""
    asked: Tensor
    """Timestep of each step's first evaluation. [B, S] int64; the released grids have negative ones"""
    asked_again: Tensor
    """Timestep of each step's corrections. [B, S] int64"""

    def to(self, device: torch.device) -> InversionPath:
        return InversionPath(self.levels.to(device), self.asked.to(device), self.asked_again.to(device))


def leg_path(start: int, stop: int, steps: int, rows: int) -> InversionPath:
    """The path of rows that all go from one level to a noisier one, over levels as equal as integers allow."""
    first = max(start, 0)
    between = [first + round(place * (stop - first) / steps) for place in range(1, steps + 1)]
    levels = torch.tensor([[start, *between]]).expand(rows, -1)
    return InversionPath(levels, network_timesteps(levels[:, :-1]), levels[:, 1:])


def inversion_path(
    timesteps: Tensor, steps: int, schedule: Schedule, grid: Grid, correction: CorrectionTimestep
) -> InversionPath:
    """The path of each row towards its timestep.

    Args:
        timesteps: tau of each row. [B] int64
        steps: n, of a path over the whole schedule; a row makes those up to its tau.
        schedule: of the network.
        grid: exact ends at tau itself: from the clean latent in ceil(tau * n / T) steps, at least one, over levels as
            equal as integers allow. released is the grid of SmPO's and InPO's code (arXiv:2506.02698, 2503.18454) under
            the diffusers version that they name: from the level of timestep 0, the first evaluation at a negative
            timestep, to the grid's level at or above tau. released_0.22 is the same code under diffusers 0.22 and
            later: evaluated at the destination, to the grid's level below tau.
        correction: what the corrections of a step are asked with.
    """
    rows = [_row(int(tau), steps, schedule.num_train_timesteps, grid) for tau in timesteps.cpu()]
    longest = max(len(levels) for levels, _ in rows)
    levels = torch.tensor([row + row[-1:] * (longest - len(row)) for row, _ in rows])
    firsts = torch.tensor([asked + [0] * (longest - 1 - len(asked)) for _, asked in rows])
    asked = firsts.view(len(rows), longest - 1)
    again = network_timesteps(levels[:, 1:]) if correction == "destination" else asked
    return InversionPath(levels, asked, again).to(timesteps.device)


def _row(tau: int, steps: int, total: int, grid: Grid) -> tuple[list[int], list[int]]:
    """(levels, timesteps of the first evaluations) of one row."""
    if grid == "exact":
        count = max(1, -(-tau * steps // total))
        levels = [CLEAN, *(round(place * tau / count) for place in range(1, count + 1))]
        return levels, [max(level, 0) for level in levels[:-1]]
    stride = total // steps
    if grid == "released":
        sources = [source for source in range(1 - stride, total - stride, stride) if source < tau]
        return [FINAL, *(source + stride for source in sources)], sources
    destinations = [destination for destination in range(1, total, stride) if destination < tau]
    return [FINAL, *destinations], destinations


def evaluations(steps: int, schedule_length: int, grid: Grid, timesteps: Sequence[int]) -> float:
    """Steps of a row, on average over its timesteps tau."""
    return sum(len(_row(tau, steps, schedule_length, grid)[1]) for tau in timesteps) / len(timesteps)


@torch.no_grad()
def invert(
    denoiser: Denoiser,
    x: Tensor,
    cond: Conditioning,
    path: InversionPath,
    *,
    geometry: Tensor | None = None,
    weights: Weights = "policy",
    corrections: int = 0,
    eta: float = 0.0,
    normal: Callable[[int], Tensor] | None = None,
) -> Tensor:
    """DDIM inversion (Song et al. 2020, arXiv:2010.02502), or with corrections that of ReNoise (arXiv:2403.14602).

    A step asks for the noise at its source. A correction asks again where the step led and steps with the mean of the
    two from the source: with one correction at the destination's timestep this is Heun's method, of second order. No
    guidance.

    Args:
        denoiser: the network.
        x: latents at the first level. [B, C, H, W]
        cond: [B, ...]
        path: of `inversion_path`.
        geometry: SDXL's micro-conditioning. [B, 6]
        weights: which weights answer.
        corrections: evaluations of a step beyond its first.
        eta: noise added after each step, in units of the standard deviation of the stochastic step back (arXiv:
            2010.02502, Eq. 16), as InPO adds it.
        normal: the standard normal numbers of step j. [B, C, H, W]; needed if eta > 0

    Returns:
        Latents at each row's last level. [B, C, H, W], at least float32

    Raises:
        ValueError: eta > 0 without `normal`.
    """
    schedule = denoiser.schedule
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    for step, (at, to) in enumerate(zip(path.levels.T[:-1], path.levels.T[1:], strict=True)):
        moving = (at != to).nonzero().flatten()  # rows that have arrived cost nothing
        rows = _Rows(denoiser, cond, geometry, weights).take(moving)
        start, at, to = x[moving], at[moving], to[moving]
        first = noise = rows.noise(start, at, path.asked[moving, step])
        for _ in range(corrections):
            there = schedule.move(noise, start, at, to)
            noise = (first + rows.noise(there, to, path.asked_again[moving, step])) / 2
        moved = schedule.move(noise, start, at, to)
        if eta > 0:
            if normal is None:
                raise ValueError(f"eta {eta} needs `normal`, the noise of each step")
            std = schedule.transition_std(to, at, eta).to(moved)
            moved = moved + std.view(-1, 1, 1, 1) * normal(step)[moving].to(moved)
        x = x.index_copy(0, moving, moved)
    return x


@dataclass(frozen=True)
class _Rows:
    """Some rows of a batch, as the network takes them."""

    denoiser: Denoiser
    cond: Conditioning
    geometry: Tensor | None
    weights: Weights

    def take(self, rows: Tensor) -> _Rows:
        geometry = None if self.geometry is None else self.geometry[rows]
        return _Rows(self.denoiser, self.cond.map(lambda tensor: tensor[rows]), geometry, self.weights)

    def noise(self, x: Tensor, levels: Tensor, asked: Tensor) -> Tensor:
        """The noise that the network sees in x, asked with timesteps `asked`. [B, C, H, W]"""
        prediction = self.denoiser.denoise(x, asked, self.cond, self.geometry, self.weights)
        return self.denoiser.schedule.to_x0_noise(prediction, x, levels)[1]
