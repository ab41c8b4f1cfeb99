"""The parts of LoRA files for CLIP text encoders: which tensors they are, and encoders that have them in their weights.

Layers have the names of published files and of transformers 4, `text_model.encoder.layers.…`, whatever the module calls
them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor, nn

from t2ialign.backbones.lora_layout import Layers, Target, adaptable_layers, without_prefixes

FIRST, SECOND = "text_encoder", "text_encoder_2"
"""Names of the text encoders in diffusers' pipelines, and in its LoRA files."""
_PREFIXES = {
    FIRST: (
        "text_encoder.",
        "lora_te_",
        "lora_te1_",
        "te_",
        "te1_",
        "text_encoders.clip_l.transformer.",
        "cond_stage_model.transformer.",
        "conditioner.embedders.0.transformer.",
    ),
    SECOND: ("text_encoder_2.", "lora_te2_", "te2_", "text_encoders.clip_g.transformer."),
}
"""What files put before a text encoder's layers: diffusers and peft, kohya, ComfyUI, the original repositories."""
_BEGINNINGS = {
    SECOND: ("text_encoder_2", "lora_te2", "te2_", "text_encoders.clip_g", "conditioner.embedders.1."),
    FIRST: ("text_encoder", "lora_te", "te_", "te1_", "cond_stage_model.", "conditioner."),
}
"""How tensors of a text encoder begin, after the prefixes of denoisers; the first that fits says of which."""


def text_part(key: str) -> str | None:
    """The text encoder that a tensor belongs to; None of a denoiser's."""
    name = without_prefixes(key)
    return next((part for part, beginnings in _BEGINNINGS.items() if name.startswith(beginnings)), None)


def split_text(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]]:
    """The tensors of a LoRA for the denoiser, and those for each text encoder."""
    denoiser: dict[str, Tensor] = {}
    text: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        part = text_part(key)
        (denoiser if part is None else text.setdefault(part, {}))[key] = tensor
    return denoiser, text


def text_target(part: str, encoder: nn.Module) -> Target:
    """A text encoder, whose layers files name as transformers does, or as diffusers once did (`to_q_lora`)."""
    layers = {published_name(name): layer for name, layer in adaptable_layers(encoder).items()}
    aliases: dict[str, str] = {}
    for name in layers:
        bare = name.removeprefix("text_model.")
        for written in (name, bare, _as_processor(name)):
            aliases |= {(prefix + written).replace(".", "_"): name for prefix in _PREFIXES[part]}
    return Target(part.replace("_", " "), layers, aliases)


def published_name(name: str) -> str:
    """What files call a layer of a text encoder."""
    return name if name.startswith(("text_model.", "text_projection")) else f"text_model.{name}"


def _as_processor(name: str) -> str:
    """The name that diffusers' attention processors gave to a projection."""
    return re.sub(r"self_attn\.(q|k|v|out)_proj$", r"self_attn.to_\1", name)


def of_module(layers: Layers, encoder: nn.Module) -> Layers:
    """The same layers by the names that the module gives them."""
    called = {published_name(name): name for name in adaptable_layers(encoder)}
    return {called[name]: matrices for name, matrices in layers.items()}
