"""Which weights answer: the policy, its frozen reference, the untouched base, or any mixture of adapters."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from t2ialign.backbones.adapters import EMA, INIT, LEARNER, OLD, activate
from t2ialign.backbones.base import Backbone
from t2ialign.schedules import Schedule
from t2ialign.types import Conditioning, Weights, flatten_views

ROUNDED_BY_AUTOCAST = (nn.Linear, nn.Conv2d)


class Policy:
    """A backbone's denoiser under a choice of weights.

    With adapters the reference is the same module under another mixture; without them it is a frozen copy.

    Args:
        backbone: the pretrained family.
        full_finetune: the whole denoiser is trained; its untouched copy is then kept as the reference.
        keeps_reference: make that copy; an objective without a reference saves its memory.
        autocast: precision of the forward pass, None for the weights' own.
        keeps_ema: hold a moving average of what is trained.
        keeps_old: hold the weights that make rollouts.
        negative: a second network for guidance, which answers as 'negative'; none of the adapters above reach it.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        full_finetune: bool = False,
        keeps_reference: bool = True,
        autocast: torch.dtype | None = None,
        keeps_ema: bool = False,
        keeps_old: bool = False,
        negative: nn.Module | None = None,
    ):
        self.backbone = backbone
        self.denoiser: nn.Module = backbone.denoiser
        self.autocast = autocast
        self.layers = [module for module in self.denoiser.modules() if isinstance(module, BaseTunerLayer)]
        self.scaling: list[dict[str, float]] = [dict(layer.scaling) for layer in self.layers]  # type: ignore[arg-type]
        self.adapters = sorted({name for scaling in self.scaling for name in scaling})
        if "train" in self.adapters:
            raise ValueError("an adapter may not be called 'train': it would hide nn.Module.train")
        self.dropouts = [
            module
            for name, module in self.denoiser.named_modules()
            if name.endswith(f".lora_dropout.{LEARNER}") and isinstance(module, nn.Dropout)
        ]
        self.full_finetune = full_finetune
        self.copies: dict[str, nn.Module] = {}
        if full_finetune and keeps_reference:
            self.copies["reference"] = self._frozen_copy(autocast)
        for name, is_kept in ((EMA, keeps_ema), (OLD, keeps_old)):
            if full_finetune and is_kept:
                self.copies[name] = self._frozen_copy(None)
        if negative is not None:
            self.copies["negative"] = negative
        self._mixture: dict[str, float] = {}
        self._apply(self.resolve("policy"))

    def _frozen_copy(self, dtype: torch.dtype | None) -> nn.Module:
        """A copy that answers bit by bit as the denoiser does.

        What autocast rounds to `dtype` in each pass is rounded once; norms keep their type, in which it leaves them.
        """
        frozen = copy.deepcopy(self.denoiser).requires_grad_(False).eval()
        for module in frozen.modules():
            if dtype is not None and isinstance(module, ROUNDED_BY_AUTOCAST):
                module.to(dtype=dtype)
        return frozen

    @property
    def device(self) -> torch.device:
        return next(self.denoiser.parameters()).device

    @property
    def schedule(self) -> Schedule:
        return self.backbone.schedule

    def null(self) -> Conditioning:
        """The conditioning of an empty prompt. [1, ...]"""
        return self.backbone.null()

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        """The parameters that the optimizer gets, by name: an explicit list, not whatever happens to need gradients."""
        named = self.denoiser.named_parameters()
        if self.full_finetune:
            return dict(named)
        return {name: parameter for name, parameter in named if f".{LEARNER}." in name}

    def resolve(self, weights: Weights) -> dict[str, float]:
        """The mixture of adapters that `weights` stands for.

        Raises:
            ValueError: the name, or an adapter of the mixture, does not exist here.
        """
        if isinstance(weights, str):
            if weights == "policy":
                return {LEARNER: 1.0} if LEARNER in self.adapters else {}
            if weights == "reference":
                return {INIT: 1.0} if INIT in self.adapters else {}
            if weights == "base":
                return {}
            weights = {weights: 1.0}
        missing = sorted(set(weights) - set(self.adapters))
        if missing:
            raise ValueError(f"no adapter {', '.join(missing)} here; loaded: {', '.join(self.adapters) or 'none'}")
        return dict(weights)

    def network(self, weights: Weights) -> nn.Module:
        """The network that answers: the denoiser, or one that is kept beside it.

        Raises:
            ValueError: full fine-tuning keeps none for these weights.
        """
        if isinstance(weights, str) and weights in self.copies:
            return self.copies[weights]
        if not self.full_finetune or weights == "policy":
            return self.denoiser
        if weights in ("base", {}) and "reference" in self.copies:
            return self.copies["reference"]
        raise ValueError(f"full fine-tuning keeps {sorted(self.copies)}; it cannot answer as {weights!r}")

    def _apply(self, mixture: dict[str, float]) -> None:
        for layer, scaling in zip(self.layers, self.scaling, strict=True):
            activate(layer, scaling, mixture)
        self._mixture = mixture

    @contextmanager
    def mixture(self, weights: Weights) -> Iterator[nn.Module]:
        """The module under these weights; what was active before comes back on exit.

        A backward pass of the policy is refused inside, unless these weights are the policy's: recomputed activations
        would come from the wrong weights.
        """
        module = self.network(weights)
        if self.full_finetune or module is not self.denoiser:
            yield module
            return
        before, wanted = self._mixture, self.resolve(weights)
        if wanted == before:
            yield self.denoiser
            return
        self._apply(wanted)
        try:
            yield self.denoiser
        finally:
            self._apply(before)

    def denoise(
        self,
        x_t: Tensor,
        timesteps: Tensor,
        cond: Conditioning,
        geometry: Tensor | None = None,
        weights: Weights = "policy",
    ) -> Tensor:
        """The prediction for [B, C, H, W] latents at [B] timesteps, at least float32. [B, C, H, W]

        Only the policy's own prediction carries a gradient.
        """
        has_gradient = weights == "policy" and torch.is_grad_enabled()
        for dropout in self.dropouts:  # in training passes only: images and scores must not depend on chance
            dropout.train(has_gradient)
        with (
            self.mixture(weights) as module,
            torch.set_grad_enabled(has_gradient),
            torch.autocast(x_t.device.type, dtype=self.autocast, enabled=self.autocast is not None),
        ):
            prediction = self.backbone.predict(module, x_t, timesteps, cond, geometry)
        prediction = prediction.to(torch.promote_types(prediction.dtype, torch.float32))
        if prediction.requires_grad:
            prediction.register_hook(self._refuse_wrong_backward)
        return prediction

    def _refuse_wrong_backward(self, gradient: Tensor) -> None:
        expected = self.resolve("policy")
        if not self.full_finetune and self._mixture != expected:
            raise RuntimeError(
                f"backward of the policy while the active adapters are {self._mixture or 'off'}, not {expected}; "
                "leave the `with policy.mixture(...)` block first"
            )

    def predict(
        self,
        x_t: Tensor,
        timesteps: Tensor,
        cond: Conditioning,
        geometry: Tensor | None = None,
        weights: Weights = "policy",
    ) -> Tensor:
        """The prediction for examples of several views.

        Args:
            x_t: [N, V, C, H, W]
            timesteps: [N, V]
            cond: [N, 1, ...], shared by the views, or [N, V, ...]
            geometry: [N, V, 6] or None
            weights: who answers.
        """
        count, views = x_t.shape[:2]
        shared = flatten_views(cond, count, views)
        flat_geometry = None if geometry is None else geometry.flatten(0, 1)
        prediction = self.denoise(x_t.flatten(0, 1), timesteps.flatten(), shared, flat_geometry, weights)
        return prediction.unflatten(0, (count, views))

    def advance_ema(self, decay: float) -> None:
        """average <- decay * average + (1 - decay) * trained."""
        self._advance(EMA, decay)

    def advance_old(self, decay: float) -> None:
        """old <- decay * old + (1 - decay) * trained, bit by bit the trained weights at a decay of 0."""
        self._advance(OLD, decay)

    @torch.no_grad()
    def _advance(self, name: str, decay: float) -> None:
        if self.full_finetune:
            pairs = zip(self.copies[name].parameters(), self.denoiser.parameters(), strict=True)
        else:
            named = dict(self.denoiser.named_parameters())
            trained = self.trained_parameters()
            pairs = ((named[key.replace(f".{LEARNER}.", f".{name}.")], p) for key, p in trained.items())
        for average, parameter in pairs:
            average.lerp_(parameter.to(average), 1 - decay)

    def ema_parameters(self) -> dict[str, Tensor]:
        """The average's tensors by name; empty where none is kept."""
        return self._average(EMA)

    def old_parameters(self) -> dict[str, Tensor]:
        """The tensors of the weights that make rollouts, by name; empty where none are kept."""
        return self._average(OLD)

    def averages(self) -> dict[str, dict[str, Tensor]]:
        """Both by their names, 'ema' and 'old', those that are kept."""
        return {name: found for name in (EMA, OLD) if (found := self._average(name))}

    def _average(self, name: str) -> dict[str, Tensor]:
        if self.full_finetune:
            return dict(self.copies[name].named_parameters()) if name in self.copies else {}
        return {key: p for key, p in self.denoiser.named_parameters() if f".{name}." in key}
