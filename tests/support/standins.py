"""Complete diffusers folders of SD1.5's and SDXL's architecture, tiny and with random weights.

Everything a real folder holds is there (tokenizers, text encoders, VAE with factor 8, UNet, scheduler), so that tests
load them through the same code as the real models. The same seed writes the same weights.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

RESOLUTION = 64
"""px; latents are [4, 8, 8]"""
MAX_TOKENS = 16
"""Length of the text encoders' input, shorter than CLIP's 77 so that truncation is cheap to test."""
WORDS = ("a", "an", "the", "red", "green", "blue", "yellow", "circle", "square", "triangle", "left", "right", "of")
WORDS += ("above", "below", "two", "three", "photo", "cat", "dog")

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def _merges() -> list[tuple[str, str]]:
    """Byte-pair merges that build each of WORDS from its letters, left to right."""
    merges: dict[tuple[str, str], None] = {}
    for word in WORDS:
        pieces = [*word[:-1], word[-1] + "</w>"]
        while len(pieces) > 1:
            merges[(pieces[0], pieces[1])] = None
            pieces = [pieces[0] + pieces[1], *pieces[2:]]
    return list(merges)


def _byte_characters() -> list[str]:
    """The printable stand-ins of all 256 bytes, as GPT-2 and CLIP write them in their vocabularies."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + index) for index in range(len(others))]


def tokenizer(folder: Path, pad_token: str = "<|endoftext|>") -> CLIPTokenizer:
    """A CLIP tokenizer whose small vocabulary knows all bytes and WORDS."""
    folder.mkdir(parents=True, exist_ok=True)
    merges = _merges()
    letters = _byte_characters()
    tokens = [*letters, *(letter + "</w>" for letter in letters), *("".join(merge) for merge in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(merge) for merge in merges) + "\n")
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": MAX_TOKENS, "pad_token": pad_token}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return CLIPTokenizer.from_pretrained(folder)


def _text_config(words: CLIPTokenizer, width: int, projection: int, activation: str) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=projection,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=MAX_TOKENS,
        hidden_act=activation,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )


def _vae(scaling_factor: float, force_upcast: bool) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=4,
        sample_size=RESOLUTION,
        scaling_factor=scaling_factor,
        force_upcast=force_upcast,
    )


def _save(pipeline, folder: Path) -> Path:
    """Writes the folder; its scheduler file carries the keys of other schedulers that the released ones carry too."""
    pipeline.save_pretrained(folder)
    path = folder / "scheduler" / "scheduler_config.json"
    settings = {**json.loads(path.read_text()), "clip_sample": False, "set_alpha_to_one": False}
    path.write_text(json.dumps(settings))
    return folder


def tiny_sd15(folder: Path, *, seed: int = 0, prediction_type: str = "epsilon") -> Path:
    """Writes a folder of SD1.5's architecture with random weights, and returns it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        words = tokenizer(folder / "tokenizer")
        pipeline = StableDiffusionPipeline(
            vae=_vae(0.18215, force_upcast=False),
            text_encoder=CLIPTextModel(_text_config(words, 32, 32, "quick_gelu")),
            tokenizer=words,
            unet=UNet2DConditionModel(
                sample_size=RESOLUTION // 8,
                block_out_channels=(16, 32),
                down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
                up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
                layers_per_block=1,
                attention_head_dim=2,
                norm_num_groups=4,
                cross_attention_dim=32,
            ),
            scheduler=PNDMScheduler(**BETAS, skip_prk_steps=True, steps_offset=1, prediction_type=prediction_type),
            safety_checker=None,  # type: ignore[arg-type]
            feature_extractor=None,  # type: ignore[arg-type]
            requires_safety_checker=False,
        )
    return _save(pipeline, folder)


def tiny_sdxl(folder: Path, *, seed: int = 0, prediction_type: str = "epsilon") -> Path:
    """Writes a folder of SDXL's architecture (two text encoders, pooled text, sizes) with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        words = tokenizer(folder / "tokenizer")
        words_2 = tokenizer(folder / "tokenizer_2", pad_token="!")
        pooled, time_width = 24, 8
        pipeline = StableDiffusionXLPipeline(
            vae=_vae(0.13025, force_upcast=True),
            text_encoder=CLIPTextModel(_text_config(words, 32, 32, "quick_gelu")),
            text_encoder_2=CLIPTextModelWithProjection(_text_config(words_2, 40, pooled, "gelu")),
            tokenizer=words,
            tokenizer_2=words_2,
            unet=UNet2DConditionModel(
                sample_size=RESOLUTION // 8,
                block_out_channels=(16, 32),
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
                layers_per_block=1,
                transformer_layers_per_block=(1, 2),
                attention_head_dim=(2, 4),
                norm_num_groups=4,
                cross_attention_dim=32 + 40,
                use_linear_projection=True,
                addition_embed_type="text_time",
                addition_time_embed_dim=time_width,
                projection_class_embeddings_input_dim=6 * time_width + pooled,
            ),
            scheduler=EulerDiscreteScheduler(
                **BETAS, timestep_spacing="leading", steps_offset=1, prediction_type=prediction_type
            ),
            force_zeros_for_empty_prompt=True,
        )
    return _save(pipeline, folder)
