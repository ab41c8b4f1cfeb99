"""What single files call a model's parts: names in the layout of the original repositories (CompVis, Stability).

Each function maps the names of a diffusers or transformers module's tensors (or layers) to those of the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

UNET_PREFIX = "model.diffusion_model."
VAE_PREFIX = "first_stage_model."
CLIP_PREFIX = {"sd15": "cond_stage_model.transformer.", "sdxl": "conditioner.embedders.0.transformer."}
"""Family -> where its (first) text encoder's tensors begin."""
OPEN_CLIP_PREFIX = "conditioner.embedders.1.model."
"""Where the tensors of SDXL's second text encoder begin."""

READS_TEXT = ".attn2.to_k.weight"
"""How tensors of a UNet end whose width is that of the token states, in either layout."""

_UNET_OUTSIDE = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
_VAE_RESNET = {"conv_shortcut": "nin_shortcut"}
_OPEN_CLIP_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
    "self_attn.q_proj": "attn.in_proj",
    "self_attn.k_proj": "attn.in_proj",
    "self_attn.v_proj": "attn.in_proj",
}
_OPEN_CLIP_OUTSIDE = {
    "text_projection.weight": "text_projection",
    "embeddings.position_embedding.weight": "positional_embedding",
    "embeddings.token_embedding": "token_embedding",
    "final_layer_norm": "ln_final",
}


def _renamed(name: str, names: Mapping[str, str]) -> str:
    """`name` with its first words replaced, if `names` has them."""
    for old, new in names.items():
        if name == old or name.startswith(f"{old}."):
            return new + name.removeprefix(old)
    return name


def holds_unet(names: Iterable[str]) -> bool:
    """Whether tensors are those of a UNet that reads text, alone or among others, by their names."""
    return any(name.endswith(READS_TEXT) for name in names)


def unet_names(names: Iterable[str]) -> dict[str, str]:
    """Names in a UNet2DConditionModel -> those in a file, after UNET_PREFIX."""
    names = list(names)
    found = {match[1] for name in names if (match := re.match(r"down_blocks\.0\.resnets\.(\d+)\.", name))}
    layers = len(found)  # resnets of a block on the way down; one more on the way up
    attending = {match[1] for name in names if (match := re.match(r"up_blocks\.(\d+)\.attentions\.", name))}
    return {name: _unet_name(name, layers, attending) for name in names}


def _unet_name(name: str, layers: int, attending: set[str]) -> str:
    part, _, rest = name.partition(".")
    if part == "mid_block":
        kind, index, rest = rest.split(".", 2)
        return f"middle_block.{2 * int(index) if kind == 'resnets' else 1}.{_resnet_name(kind, rest)}"
    if part not in ("down_blocks", "up_blocks") or len(rest.split(".", 3)) < 4:
        return _renamed(name, _UNET_OUTSIDE)
    block, kind, index, rest = rest.split(".", 3)
    first = int(block) * (layers + 1)
    if kind == "downsamplers":
        return f"input_blocks.{first + layers + 1}.0.{_renamed(rest, {'conv': 'op'})}"
    if kind == "upsamplers":
        return f"output_blocks.{first + layers}.{2 if block in attending else 1}.{rest}"
    place = first + int(index)
    end = f"{0 if kind == 'resnets' else 1}.{_resnet_name(kind, rest)}"
    return f"input_blocks.{place + 1}.{end}" if part == "down_blocks" else f"output_blocks.{place}.{end}"


def _resnet_name(kind: str, rest: str) -> str:
    return _renamed(rest, _RESNET) if kind == "resnets" else rest


def vae_names(names: Iterable[str]) -> dict[str, str]:
    """Names in an AutoencoderKL -> those in a file, after VAE_PREFIX."""
    names = list(names)
    found = {match[1] for name in names if (match := re.match(r"decoder\.up_blocks\.(\d+)\.", name))}
    return {name: _vae_name(name, len(found)) for name in names}


def _vae_name(name: str, blocks: int) -> str:
    coder, _, rest = name.partition(".")
    if rest.startswith("conv_norm_out"):
        return f"{coder}.{rest.removeprefix('conv_')}"
    match = re.fullmatch(r"(down|mid|up)_blocks?\.(?:(\d+)\.)?(resnets|attentions|\w+samplers)\.(\d+)\.(.+)", rest)
    if match is None:
        return name
    part, block, kind, index, end = match.groups()
    if kind == "attentions":
        return f"{coder}.mid.attn_1.{_renamed(end, _VAE_ATTENTION)}"
    if part == "mid":
        return f"{coder}.mid.block_{int(index) + 1}.{_renamed(end, _VAE_RESNET)}"
    place = int(block) if part == "down" else blocks - 1 - int(block)
    if kind == "resnets":
        return f"{coder}.{part}.{place}.block.{index}.{_renamed(end, _VAE_RESNET)}"
    return f"{coder}.{part}.{place}.{kind[:-2]}.{end}"  # downsamplers -> downsample


def clip_names(names: Iterable[str]) -> dict[str, str]:
    """Names in a CLIPTextModel -> those in a file, after CLIP_PREFIX."""
    return {name: f"text_model.{name.removeprefix('text_model.')}" for name in names}


def open_clip_names(names: Iterable[str]) -> dict[str, str]:
    """Names in a CLIPTextModelWithProjection -> those in a file, after OPEN_CLIP_PREFIX; q, k and v are one there."""
    return {name: _open_clip_name(name.removeprefix("text_model.")) for name in names}


def _open_clip_name(name: str) -> str:
    match = re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)", name)
    if match is None:
        return _renamed(name, _OPEN_CLIP_OUTSIDE)
    end = _renamed(match[2], _OPEN_CLIP_LAYER).replace("in_proj.", "in_proj_")
    return f"transformer.resblocks.{match[1]}.{end}"
