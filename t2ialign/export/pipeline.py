"""StableDiffusionPipeline with a negative model in the unconditional branch of guidance (arXiv:2505.11245).

Needs diffusers and peft alone:

    folder = "the folder of this file"
    pipeline = DiffusionPipeline.from_pretrained(folder, custom_pipeline=folder, trust_remote_code=True)

Both branches are one UNet with an adapter each, or two UNets: `negative_unet` then answers in the unconditional one.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel

POSITIVE, NEGATIVE = "positive", "negative"
"""The branches: the one that sees the prompt, and the one that sees the negative prompt."""


class NegativeModelPipeline(StableDiffusionPipeline):
    """negative + guidance_scale * (positive - negative), each branch by its own weights; all else is the parent's.

    Args:
        negative_unet: the network of the negative branch; default: `unet`.
        positive_adapter: folder of a LoRA beside the UNet's, active in the positive branch.
        negative_adapter: the same, of the negative branch.
        parts: the parent's.
    """

    _optional_components: ClassVar = [*StableDiffusionPipeline._optional_components, "negative_unet"]
    model_cpu_offload_seq = StableDiffusionPipeline.model_cpu_offload_seq.replace("unet", "unet->negative_unet")

    def __init__(
        self,
        *,
        negative_unet: UNet2DConditionModel | None = None,
        positive_adapter: str | None = None,
        negative_adapter: str | None = None,
        **parts: Any,
    ):
        super().__init__(**parts)
        self.register_modules(negative_unet=negative_unet)
        self.register_to_config(positive_adapter=positive_adapter, negative_adapter=negative_adapter)
        self._adapters = {POSITIVE: positive_adapter, NEGATIVE: negative_adapter}
        for branch, adapter in self._adapters.items():
            if adapter is not None:
                self._load_adapter(branch, Path(self.unet.config["_name_or_path"]).parent / adapter)

    def _load_adapter(self, branch: str, folder: Path) -> None:
        if not folder.is_dir():
            raise ValueError(f"{folder}: no such adapter; load the whole exported folder, from a local path")
        saved: Any = self.lora_state_dict(str(folder), return_lora_metadata=True)
        state, alphas, settings = saved
        self.load_lora_into_unet(state, alphas, self._network(branch), adapter_name=branch, metadata=settings)

    def _network(self, branch: str) -> UNet2DConditionModel:
        return self.unet if branch == POSITIVE or self.negative_unet is None else self.negative_unet

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """As the parent's, whose one call of the UNet in each step gets its rows from both branches."""
        unet, forward = self.unet, self.unet.forward
        unet.forward = lambda *rows, **others: self._answer(forward, *rows, **others)
        try:
            return super().__call__(*arguments, **options)
        finally:
            unet.forward = forward

    def _answer(
        self,
        forward: Callable[..., Any],
        x_t: torch.Tensor,
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        added_cond_kwargs: dict[str, torch.Tensor] | None = None,
        **options: Any,
    ) -> tuple[torch.Tensor]:
        """The UNet's output for rows of both branches, the negative ones first, or for positive ones alone."""
        branches = (NEGATIVE, POSITIVE) if self.do_classifier_free_guidance else (POSITIVE,)
        latents, states = (rows.chunk(len(branches)) for rows in (x_t, encoder_hidden_states))
        added = {name: rows.chunk(len(branches)) for name, rows in (added_cond_kwargs or {}).items()}
        found: list[torch.Tensor] = []
        for place, branch in enumerate(branches):
            network = self._activate(branch)
            call = forward if network is self.unet else network
            own = {name: rows[place] for name, rows in added.items()} or None
            found += call(latents[place], timestep, states[place], added_cond_kwargs=own, **options)
        return (torch.cat(found),)

    def _activate(self, branch: str) -> UNet2DConditionModel:
        """The network of a branch, with the branch's adapter and no other."""
        network = self._network(branch)
        if self._adapters[branch] is not None:
            network.enable_adapters()
            network.set_adapter(branch)
        elif getattr(network, "peft_config", None):
            network.disable_adapters()
        return network


# diffusers reads in the signature which parts a pipeline has
_SIGNATURE = inspect.signature(NegativeModelPipeline.__init__)
_OWN = [parameter for parameter in _SIGNATURE.parameters.values() if parameter.kind == parameter.KEYWORD_ONLY]
_PARENTS = inspect.signature(StableDiffusionPipeline.__init__).parameters.values()
NegativeModelPipeline.__init__.__signature__ = _SIGNATURE.replace(parameters=[*_PARENTS, *_OWN])
