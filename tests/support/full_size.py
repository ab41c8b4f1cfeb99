"""SDXL's own architecture with random weights, and what plain diffusers makes of LoRAs on it; a process each.

python full_size.py make FOLDER
python full_size.py t2ialign ARGUMENT ...
python full_size.py compare FOLDER LORA OTHER_LORA
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import bf16
import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from peft.tuners.lora import LoraLayer
from standins import tokenizer
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from t2ialign.cli.main import main

UNET_PARAMETERS = 2_567_463_684
"""Of the released SDXL base 1.0."""


def full_sdxl(folder: Path) -> None:
    """Writes SDXL's architecture with random weights, text encoders included, in bfloat16; only its words are few."""
    words = tokenizer(folder / "tokenizer")
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    pipeline = StableDiffusionXLPipeline(
        vae=AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            latent_channels=4,
            sample_size=1024,
            scaling_factor=0.13025,
        ),
        text_encoder=CLIPTextModel(_text(words, 768, 12, 12, "quick_gelu")),
        text_encoder_2=CLIPTextModelWithProjection(_text(words, 1280, 32, 20, "gelu")),
        tokenizer=words,
        tokenizer_2=tokenizer(folder / "tokenizer_2", pad_token="!"),
        unet=_unet(),
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            timestep_spacing="leading",
            steps_offset=1,
        ),
    )
    assert sum(parameter.numel() for parameter in pipeline.unet.parameters()) == UNET_PARAMETERS
    pipeline.save_pretrained(folder)


def _unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=128,
        block_out_channels=(320, 640, 1280),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=2,
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(5, 10, 20),
        cross_attention_dim=2048,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )


def _text(words: Any, width: int, layers: int, heads: int, activation: str) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=49408,
        hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=words.model_max_length,
        hidden_act=activation,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )


@torch.no_grad()
def compare(folder: Path, lora: Path, other: Path) -> None:
    """Checks that the LoRAs of two folders change the UNet by equal amounts, and that an image can be made."""
    pipeline = StableDiffusionXLPipeline.from_pretrained(folder, dtype=torch.bfloat16)
    pipeline.set_progress_bar_config(disable=True)
    deltas = [_delta(pipeline, folder) for folder in (lora, other)]
    assert deltas[0].keys() == deltas[1].keys()
    assert deltas[0]
    for name, delta in deltas[0].items():
        assert delta.abs().max() > 0, name
        torch.testing.assert_close(deltas[1][name], delta, atol=1e-6, rtol=1e-5)
    pipeline.load_lora_weights(lora, weight_name=_file(lora))
    image = pipeline("a red circle", num_inference_steps=1, height=256, width=256, output_type="pt").images[0]
    assert image.shape == (3, 256, 256)
    assert image.isfinite().all()


def _file(folder: Path) -> str:
    return next(folder.glob("*.safetensors")).name


def _delta(pipeline: StableDiffusionXLPipeline, folder: Path) -> dict[str, torch.Tensor]:
    """A corner of what a LoRA adds to each weight of the UNet, (alpha / r) B A, once diffusers has loaded it."""
    pipeline.load_lora_weights(folder, weight_name=_file(folder), adapter_name="one")
    found = {
        name: layer.scaling["one"]
        * (layer.lora_B["one"].weight[:64].float() @ layer.lora_A["one"].weight[:, :64].float())
        for name, layer in pipeline.unet.named_modules()
        if isinstance(layer, LoraLayer)
    }
    pipeline.unload_lora_weights()
    return found


if __name__ == "__main__":
    bf16.emulate()
    action, *arguments = sys.argv[1:]
    if action == "t2ialign":
        del sys.argv[1]
        main()
    else:
        {"make": full_sdxl, "compare": compare}[action](*map(Path, arguments))
