"""The tensors that travel between data, noisers, policy, objectives and engine.

Letters: N examples, V views of an example, C, H, W of a latent, L tokens, D token width, P pooled width.
Views stay example-major ([N, V, ...]) everywhere; only `Policy.predict` flattens them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:
    from t2ialign.objectives.base import ErrorSpace
    from t2ialign.schedules import Schedule


Weights = str | Mapping[str, float]
"""'policy', 'reference', 'base', 'ema', 'old', 'negative', or a mixture {adapter: scale}; {} is the base."""


@dataclass(frozen=True)
class Conditioning:
    """Text conditioning as a backbone's denoiser takes it; no geometry in it."""

    tokens: Tensor
    """Token states. [..., L, D]"""
    pooled: Tensor | None = None
    """Pooled text embedding of the families that have one (SDXL). [..., P]"""

    def map(self, function: Callable[[Tensor], Tensor]) -> Conditioning:
        """The same conditioning with `function` applied to each tensor."""
        return Conditioning(function(self.tokens), None if self.pooled is None else function(self.pooled))

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Conditioning:
        return self.map(lambda tensor: tensor.to(device=device, dtype=dtype))

    @staticmethod
    def cat(parts: list[Conditioning]) -> Conditioning:
        """Concatenation along the first dimension."""
        pooled = None if parts[0].pooled is None else torch.cat([part.pooled for part in parts])  # type: ignore[misc]
        return Conditioning(torch.cat([part.tokens for part in parts]), pooled)


def flatten_views(cond: Conditioning, count: int, views: int) -> Conditioning:
    """[N, 1, ...] or [N, V, ...] conditioning as [N*V, ...]."""
    return cond.map(lambda tensor: tensor.expand(count, views, *tensor.shape[2:]).flatten(0, 1))


@dataclass(frozen=True)
class Posterior:
    """What a VAE says of an image: a diagonal normal over latents, already times the scaling factor."""

    mean: Tensor
    """[..., C, H, W]"""
    std: Tensor
    """[..., C, H, W], 0 for a deterministic encoder"""


@dataclass(frozen=True)
class Transitions:
    """A recorded stochastic step of each row's rollout."""

    x_t: Tensor
    """Where it began. [N, C, H, W]"""
    x_next: Tensor
    """Where it ended. [N, C, H, W]"""
    at: Tensor
    """The level of `x_t`. [N] int64"""
    to: Tensor
    """The level of `x_next`. [N] int64"""
    mean: Tensor
    """Of the step, by the weights that made it. [N, C, H, W]"""
    log_prob: Tensor
    """Of the step, by the weights that made it; see `schedules.Step.log_prob`. [N]"""
    eta: float
    """Noise of the sampler's steps."""

    def map(self, function: Callable[[Tensor], Tensor]) -> Transitions:
        """The same steps with `function` applied to each tensor."""
        return Transitions(**{name: function(getattr(self, name)) for name in _STEP_TENSORS}, eta=self.eta)

    @staticmethod
    def cat(parts: Sequence[Transitions]) -> Transitions:
        """Concatenation of steps of one eta along the first dimension."""
        joined = {name: torch.cat([getattr(part, name) for part in parts]) for name in _STEP_TENSORS}
        return Transitions(**joined, eta=parts[0].eta)


_STEP_TENSORS = [entry.name for entry in fields(Transitions) if entry.name != "eta"]


@dataclass(frozen=True)
class Batch:
    """N examples of V views each."""

    keys: Tensor
    """The only source of a row's randomness: global sample numbers, or below 0 those of fixed draws. [N] int64"""
    rows: Tensor
    """The data set's row of each example, by which what was computed once for it is found. [N] int64"""
    latents: Tensor
    """Clean latents x_0, times the scaling factor; NaN where the data has no images. [N, V, C, H, W]"""
    cond: Conditioning
    """[N, 1, ...] shared by the views, or [N, V, ...]"""
    geometry: Tensor | None = None
    """SDXL's micro-conditioning (original h, w, crop top, left, target h, w), from the true size and crop. [N, V, 6]"""
    scores: Tensor | None = None
    """Reward scores of the views, or labels of singles. [N, V]"""
    mask: Tensor | None = None
    """False where a ragged list has no view. [N, V] bool"""
    weights: Tensor | None = None
    """0 for rows that only keep ranks in step. [N]"""
    advantages: Tensor | None = None
    """How much better a rollout is than others of its prompt, in the units of its advantage estimate. [N]"""
    transitions: Transitions | None = None
    """A step of each rollout, where training scores the steps themselves."""
    inverted: Tensor | None = None
    """The views' inverted latents at one level of a stored trajectory. [N, V, C, H, W]"""
    levels: Tensor | None = None
    """Which of the stored levels those are. [N] int64"""

    def __len__(self) -> int:
        return self.keys.shape[0]

    @property
    def views(self) -> int:
        return self.latents.shape[1]

    def to(self, device: torch.device | str) -> Batch:
        return self._map(lambda tensor: tensor.to(device))

    def split(self, size: int) -> list[Batch]:
        """Its examples in their order, `size` a batch."""
        spans = (slice(start, start + size) for start in range(0, len(self), size))
        return [self._map(lambda tensor, span=span: tensor[span]) for span in spans]

    def _map(self, function: Callable[[Tensor], Tensor]) -> Batch:
        """The same batch with `function` applied to each tensor."""
        mapped: dict[str, Any] = {}
        for entry in fields(self):
            value = getattr(self, entry.name)
            if value is not None:
                mapped[entry.name] = (
                    value.map(function) if isinstance(value, Conditioning | Transitions) else function(value)
                )
        return Batch(**mapped)


@dataclass(frozen=True)
class Noised:
    """x_t = alpha_t * x_0 + sigma_t * noise, however the noise was found."""

    x_t: Tensor
    """[N, V, C, H, W]"""
    x_0: Tensor
    """[N, V, C, H, W]"""
    noise: Tensor
    """[N, V, C, H, W]"""
    timesteps: Tensor
    """[N, V] int64"""


@dataclass(frozen=True)
class Prediction:
    """What an objective sees: the network's outputs, and what they are measured against."""

    policy: Tensor
    """The policy's prediction in the network's parameterisation, with gradient, at least float32. [N, V, C, H, W]"""
    reference: Tensor | None
    """The reference's prediction, without gradient. [N, V, C, H, W]"""
    noised: Noised
    schedule: Schedule
    mismatched: Prediction | None = None
    """The same x_t under another example's prompt, without gradient, for the objectives that ask for it."""
    others: Mapping[str, Tensor] = field(default_factory=dict)
    """Predictions of the other frozen weights that the objective reads, 'old' or 'ema', without gradient.
    [N, V, C, H, W]"""
    context: Tensor | None = None
    """Sums over the rows of all processes that the objective asked for."""
    space: ErrorSpace = "noise"
    """In which terms errors are measured."""
    known_reference_error: Tensor | None = None
    """The reference's error, where it was computed before and no prediction was made. [N, V]"""

    def _rows(self, tensor: Tensor) -> Tensor:
        return tensor.flatten(0, 1)

    @cached_property
    def target(self) -> Tensor:
        """What a perfect network would predict. [N, V, C, H, W]"""
        noised = self.noised
        rows = self.schedule.target(self._rows(noised.x_0), self._rows(noised.noise), noised.timesteps.flatten())
        return rows.view_as(noised.x_0)

    def _error(self, prediction: Tensor) -> Tensor:
        """Mean squared error; in noise space beta means the same for epsilon- and v-prediction. [N, V]"""
        return self.difference(prediction, self.space).square().mean(dim=(2, 3, 4))

    def difference(self, prediction: Tensor, space: ErrorSpace) -> Tensor:
        """What is wrong with a prediction of the network, in the terms of `space`. [N, V, C, H, W]"""
        if space == "network":
            return prediction - self.target
        noised = self.noised
        x_t, timesteps = self._rows(noised.x_t), noised.timesteps.flatten()
        x_0, noise = self.schedule.to_x0_noise(self._rows(prediction), x_t, timesteps)
        if space == "x0":
            return x_0.view_as(noised.x_0) - noised.x_0
        return noise.view_as(noised.noise) - noised.noise

    @cached_property
    def policy_error(self) -> Tensor:
        """||noise - noise_theta||^2 / (C*H*W), in noise space. [N, V]"""
        return self._error(self.policy)

    @cached_property
    def reference_error(self) -> Tensor:
        """||noise - noise_ref||^2 / (C*H*W), in noise space. [N, V]

        Raises:
            ValueError: the prediction was made without a reference.
        """
        if self.known_reference_error is not None:
            return self.known_reference_error
        if self.reference is None:
            raise ValueError("this prediction has no reference; the objective must name it in required_weights")
        return self._error(self.reference)

    @cached_property
    def policy_x0(self) -> Tensor:
        """The policy's one-step estimate of x_0. [N, V, C, H, W]"""
        noised = self.noised
        x_0, _ = self.schedule.to_x0_noise(self._rows(self.policy), self._rows(noised.x_t), noised.timesteps.flatten())
        return x_0.view_as(noised.x_0)


@dataclass(frozen=True)
class LossOutput:
    """Per-example losses; the mean over all that counts is taken once, by the engine."""

    losses: Tensor
    """[N]"""
    weights: Tensor
    """0 for what must not count. [N]"""
    metrics: dict[str, Tensor] = field(default_factory=dict)
    """Detached, per example [N] or scalar."""


class Denoiser(Protocol):
    """What a noiser, a sampler and pair accuracy may ask of a policy."""

    @property
    def schedule(self) -> Schedule:
        """The noise schedule of the network."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the network's weights are."""
        ...

    def null(self) -> Conditioning:
        """The conditioning of an empty prompt. [1, ...]"""
        ...

    def denoise(
        self,
        x_t: Tensor,
        timesteps: Tensor,
        cond: Conditioning,
        geometry: Tensor | None = None,
        weights: Weights = "policy",
    ) -> Tensor:
        """The prediction for [B, C, H, W] latents at [B] timesteps. [B, C, H, W]"""
        ...

    def predict(
        self,
        x_t: Tensor,
        timesteps: Tensor,
        cond: Conditioning,
        geometry: Tensor | None = None,
        weights: Weights = "policy",
    ) -> Tensor:
        """The prediction for [N, V, C, H, W] latents at [N, V] timesteps. [N, V, C, H, W]"""
        ...
