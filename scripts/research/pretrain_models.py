"""The parts of shapes-sd and shapes-sdxl: VAE, tokenizer, text encoders, UNet, scheduler; untrained or averaged."""

# diffusers annotates tuples as tuple[str] and modules as unions:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any, TypeVar

import torch
from checkpoints import load_state
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiffusionPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.models.attention_processor import AttnProcessor
from pretrain_loop import device
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from t2ialign.shapes.families import FAMILIES, WORDS

MAX_LENGTH = 24
FAMILIES_OF_MODELS = ("sd", "sdxl")
M = TypeVar("M", bound=nn.Module)


def checkpoint(options: argparse.Namespace, stage: str) -> Path:
    """Where a stage is kept; both families share the VAE."""
    return options.run / f"{stage}{'_xl' if options.family == 'sdxl' and stage != 'vae' else ''}.safetensors"


def build_vae() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 64, 96),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=64,
        mid_block_add_attention=False,
    )


def build_tokenizer(folder: Path) -> CLIPTokenizer:
    """CLIP's byte-pair encoding, learnt from captions; every word of the world is one token."""
    vocab, merges = folder / "vocab.json", folder / "merges.txt"
    if not vocab.exists():
        folder.mkdir(parents=True, exist_ok=True)
        letters = sorted(pre_tokenizers.ByteLevel.alphabet())
        bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
        bpe.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
        texts = [
            " ".join(wording.replace("{", "").replace("}", "") for f in FAMILIES.values() for wording in f.wordings)
        ]
        words = re.findall("[a-z]+", texts[0]) + [word for words in WORDS.values() for word in words] + ["an", "shape"]
        bpe.train_from_iterator(
            sorted(set(" ".join(words).split())) * 2,
            trainers.BpeTrainer(vocab_size=2000, min_frequency=1, end_of_word_suffix="</w>", show_progress=False),
        )
        learnt = json.loads(bpe.to_str())["model"]["merges"]
        pairs = [pair if isinstance(pair, list) else pair.split(" ") for pair in learnt]
        tokens = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair) for pair in pairs)]
        tokens = [*dict.fromkeys(tokens), "<|startoftext|>", "<|endoftext|>"]
        merges.write_text("#version: 0.2\n" + "".join(f"{left} {right}\n" for left, right in pairs))
        vocab.write_text(json.dumps({token: i for i, token in enumerate(tokens)}, ensure_ascii=False))
    entries = json.loads(vocab.read_text())
    pairs = [tuple(line.split(" ")) for line in merges.read_text().splitlines()[1:]]
    return CLIPTokenizer(vocab=entries, merges=pairs, model_max_length=MAX_LENGTH, pad_token="<|endoftext|>")


def build_texts(tokenizer: CLIPTokenizer, family: str) -> dict[str, nn.Module]:
    """The text encoders by name: "text", and for SDXL also "text_2", whose projection is the pooled embedding."""
    width = 128 if family == "sd" else 96
    config = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=3 * width, projection_dim=width,
        num_hidden_layers=3, num_attention_heads=4, max_position_embeddings=MAX_LENGTH, hidden_act="quick_gelu",
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        attn_implementation="eager",
    )  # fmt: skip
    if family == "sd":
        return {"text": CLIPTextModel(config).to(device())}
    return {"text": CLIPTextModel(config).to(device()), "text_2": CLIPTextModelWithProjection(config).to(device())}


def read_texts(modules: nn.ModuleDict, ids: Tensor) -> list[Any]:
    """What each text encoder makes of the texts."""
    return [modules[name](ids, output_hidden_states=True) for name in ("text", "text_2") if name in modules]


def conditioning(read: list[Any]) -> tuple[Tensor, Tensor | None]:
    """What the UNet gets of a text, as in diffusers: states [B, L, D] and, for SDXL, pooled [B, P]."""
    if len(read) == 1:
        return read[0].last_hidden_state, None
    return torch.cat([output.hidden_states[-2] for output in read], dim=-1), read[1].text_embeds


def summaries(read: list[Any], ids: Tensor, tokenizer: CLIPTokenizer) -> list[Tensor]:
    """One vector a text from each encoder, for the parse prediction: of what the UNet will get. [B, D] each"""
    if len(read) == 1:
        return [read[0].pooler_output]
    ends = (ids == tokenizer.eos_token_id).int().argmax(1)
    return [read[0].hidden_states[-2][torch.arange(len(ids)), ends], read[1].text_embeds]


def tokens(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    found = tokenizer(captions, padding="max_length", truncation=True, max_length=MAX_LENGTH, return_tensors="pt")
    return found.input_ids.to(device())


def build_unet(family: str) -> UNet2DConditionModel:
    """SD1.5's or SDXL's architecture, small: two levels of 8 x 8 and 4 x 4 latents, cross-attention at both."""
    of_family = {
        "sd": {"block_out_channels": (64, 128), "cross_attention_dim": 128, "norm_num_groups": 16},
        "sdxl": {
            "block_out_channels": (48, 96), "cross_attention_dim": 192, "norm_num_groups": 16,
            "use_linear_projection": True, "addition_embed_type": "text_time", "addition_time_embed_dim": 16,
            "projection_class_embeddings_input_dim": 6 * 16 + 96,
        },
    }  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=8,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        attention_head_dim=(2, 4),
        **of_family[family],
    )
    unet.set_attn_processor(AttnProcessor())  # faster than SDPA on a CPU at 8 x 8
    return unet.to(device())


def build_scheduler() -> DDIMScheduler:
    return DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False,
        steps_offset=1,
    )  # fmt: skip


def load_ema(options: argparse.Namespace, stage: str, name: str, module: M) -> M:
    """The averaged weights of one module of a finished or running stage."""
    state = load_state(checkpoint(options, stage), str(device()))["ema"]
    own = {key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")}
    module.load_state_dict(own, strict=False)
    return module.to(device())


def pipeline_of(options: argparse.Namespace) -> DiffusionPipeline:
    """The averaged weights of the finished stages as a diffusers pipeline."""
    tokenizer = build_tokenizer(options.run / "tokenizer")
    vae = load_ema(options, "vae", "vae", build_vae())
    vae.register_to_config(scaling_factor=json.loads((options.run / "scaling_factor.json").read_text()))
    unet = load_ema(options, "unet", "unet", build_unet(options.family))
    texts = {
        name: load_ema(options, "unet", name, text) for name, text in build_texts(tokenizer, options.family).items()
    }
    shared = {"vae": vae, "tokenizer": tokenizer, "unet": unet, "scheduler": build_scheduler()}
    if options.family == "sd":
        return StableDiffusionPipeline(
            **shared, text_encoder=texts["text"], safety_checker=None, feature_extractor=None,
            requires_safety_checker=False,
        )  # fmt: skip
    vae.register_to_config(force_upcast=False)
    return StableDiffusionXLPipeline(
        **shared, text_encoder=texts["text"], text_encoder_2=texts["text_2"], tokenizer_2=tokenizer,
        add_watermarker=False,
    )  # fmt: skip
