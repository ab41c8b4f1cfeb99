"""Writes a diffusers folder as one file in the layout in which SD1.5 and SDXL checkpoints are published."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
UNET_LAYER = re.compile(r"(down|mid|up)_blocks?\.(?:(\d+)\.)?(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.*)")
VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def _renamed(key: str, names: dict[str, str]) -> str:
    for old, new in names.items():
        if key.startswith(old + "."):
            return new + key.removeprefix(old)
    return key


def _unet_key(key: str, layers: int, up_attends: dict[int, bool]) -> str:
    found = re.fullmatch(
        r"(down|mid|up)_blocks?\.(?:(\d+)\.)?(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.*)", key
    )
    if found is None:
        return _renamed(key, UNET_ENDS)
    part, block, kind, index, rest = found[1], int(found[2] or 0), found[3], int(found[4]), found[5]
    rest = _renamed(rest, RESNET) if kind == "resnets" else rest
    first = block * (layers + 1)
    if part == "mid":
        return f"middle_block.{2 * index if kind == 'resnets' else 1}.{rest}"
    if part == "down":
        if kind == "downsamplers":
            return f"input_blocks.{1 + first + layers}.0.op.{rest.removeprefix('conv.')}"
        return f"input_blocks.{1 + first + index}.{0 if kind == 'resnets' else 1}.{rest}"
    if kind == "upsamplers":
        return f"output_blocks.{first + layers}.{2 if up_attends[block] else 1}.{rest}"
    return f"output_blocks.{first + index}.{0 if kind == 'resnets' else 1}.{rest}"


def unet_layer_names(names: list[str], layers_per_block: int = 1) -> dict[str, str]:
    """Names of a UNet's layers in diffusers -> in the layout of published single files."""
    up_attends = {block: any(name.startswith(f"up_blocks.{block}.attentions") for name in names) for block in range(9)}
    return {name: _unet_key(f"{name}.weight", layers_per_block, up_attends).removesuffix(".weight") for name in names}


def _unet(tensors: dict[str, Tensor], layers: int) -> dict[str, Tensor]:
    up_attends = {block: any(key.startswith(f"up_blocks.{block}.attentions") for key in tensors) for block in range(9)}
    return {f"model.diffusion_model.{_unet_key(key, layers, up_attends)}": part for key, part in tensors.items()}


def _vae(tensors: dict[str, Tensor], blocks: int) -> dict[str, Tensor]:
    written = {}
    for key, tensor in tensors.items():
        key = key.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        key = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", key)
        key = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", key)
        key = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", key)
        key = re.sub(r"up_blocks\.(\d)\.resnets", lambda m: f"up.{blocks - 1 - int(m[1])}.block", key)
        key = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{blocks - 1 - int(m[1])}.upsample", key)
        if "mid_block.attentions.0." in key:
            stem, end = key.split("mid_block.attentions.0.")
            end = _renamed(end, VAE_ATTENTION)
            key = f"{stem}mid.attn_1.{end}"
            if tensor.ndim == 2:
                tensor = tensor[:, :, None, None]
        written[f"first_stage_model.{key}"] = tensor.contiguous()
    return written


def _clip(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}text_model.{key.removeprefix('text_model.')}": tensor for key, tensor in tensors.items()}


def _open_clip(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    names = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
    names |= {"self_attn.out_proj": "attn.out_proj"}
    ends = {
        "embeddings.position_embedding.weight": "positional_embedding",
        "embeddings.token_embedding": "token_embedding",
    }
    ends |= {"final_layer_norm": "ln_final"}
    written: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        found = re.fullmatch(r"text_model\.encoder\.layers\.(\d+)\.(.*)", key)
        if key == "text_projection.weight":
            written["text_projection"] = tensor.T.contiguous()
        elif found is None:
            end = key.removeprefix("text_model.")
            written[ends.get(end) or _renamed(end, ends)] = tensor
        elif found[2].startswith(("self_attn.k_proj", "self_attn.v_proj")):
            continue
        elif found[2].startswith("self_attn.q_proj"):
            kind = found[2].rpartition(".")[2]
            parts = [tensors[key.replace("q_proj", f"{letter}_proj")] for letter in "qkv"]
            written[f"transformer.resblocks.{found[1]}.attn.in_proj_{kind}"] = torch.cat(parts)
        else:
            written[f"transformer.resblocks.{found[1]}.{_renamed(found[2], names)}"] = tensor
    return {f"conditioner.embedders.1.model.{key}": tensor for key, tensor in written.items()}


def write_single_file(folder: Path, path: Path, *, layers_per_block: int = 1, vae_blocks: int = 4) -> Path:
    """Writes the weights of a diffusers folder of either family as one safetensors file, and returns its path."""
    tensors = _unet(load_file(folder / "unet" / "diffusion_pytorch_model.safetensors"), layers_per_block)
    tensors |= _vae(load_file(folder / "vae" / "diffusion_pytorch_model.safetensors"), vae_blocks)
    text = load_file(folder / "text_encoder" / "model.safetensors")
    second = folder / "text_encoder_2" / "model.safetensors"
    if second.is_file():
        tensors |= _clip(text, "conditioner.embedders.0.transformer.") | _open_clip(load_file(second))
    else:
        tensors |= _clip(text, "cond_stage_model.transformer.")
    save_file(tensors, path)
    return path
