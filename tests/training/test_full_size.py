"""The real sizes, with random weights: what only a full-size architecture can show."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import bf16
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file
from standins import tokenizer
from transformers import CLIPTextConfig, CLIPTextModel

from t2ialign.config.reader import load
from t2ialign.training.train import train


def full_sd15(folder: Path) -> Path:
    """SD1.5's own architecture (860 M parameters in the UNet) with random weights, in bfloat16 on disk."""
    words = tokenizer(folder / "words")
    text = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        max_position_embeddings=words.model_max_length,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
    )
    channels = (320, 640, 1280, 1280)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.set_default_dtype(torch.bfloat16)
        try:
            unet = UNet2DConditionModel(
                sample_size=64, cross_attention_dim=768, attention_head_dim=8, block_out_channels=channels
            )
            vae = AutoencoderKL(
                block_out_channels=(128, 256, 512, 512),
                layers_per_block=2,
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
                latent_channels=4,
                scaling_factor=0.18215,
            )
            encoder = CLIPTextModel(text)
        finally:
            torch.set_default_dtype(torch.float32)
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1
    )
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=encoder,
        tokenizer=words,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,  # type: ignore[arg-type]
        feature_extractor=None,  # type: ignore[arg-type]
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder / "model")
    return folder / "model"


@pytest.mark.slow
def test_full_size_sd15_trains_two_steps_and_its_lora_loads_in_plain_diffusers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    bf16.emulate(monkeypatch.setattr)
    model = full_sd15(tmp_path)
    for number in range(2):
        for side, colour in (("a", "red"), ("b", "blue")):
            Image.new("RGB", (128, 128), colour).save(tmp_path / f"{number}{side}.png")
    rows = "".join(f"picture {number},{number}a.png,{number}b.png\n" for number in range(2))
    (tmp_path / "pairs.csv").write_text("prompt,chosen,rejected\n" + rows)
    config = load(
        "configs/dpo_sd15.yaml",
        [
            f"backbone.pretrained={model}",
            f"data.path={tmp_path / 'pairs.csv'}",
            "data.resolution=128",
            f"run_dir={tmp_path / 'run'}",
            "lora.rank=8",
            "lora.alpha=4",
            "optim.lr=1e-3",
            "optim.warmup_steps=0",
            "train.steps=2",
            "train.effective_batch=1",
            "train.micro_batch=1",
            "train.precision=bf16",
            "validate.prompts=",
        ],
    )
    folder = train(config)

    saved = load_file(folder / "pytorch_lora_weights.safetensors")
    assert any(tensor.abs().max() > 0 for name, tensor in saved.items() if "lora_B" in name)
    pipeline = StableDiffusionPipeline.from_pretrained(model, torch_dtype=torch.bfloat16, safety_checker=None)
    latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1)).bfloat16()
    text = torch.randn(1, 77, 768, generator=torch.Generator().manual_seed(2)).bfloat16()
    with torch.no_grad():
        before = pipeline.unet(latents, 500, text).sample
        pipeline.load_lora_weights(folder)
        after = pipeline.unet(latents, 500, text).sample
    assert after.isfinite().all()
    assert not torch.equal(before, after)


def peak_of(*arguments: object) -> float:
    """Runs a Python process to its end; its peak resident memory in GB."""
    process = subprocess.Popen(
        [sys.executable, *map(str, arguments)], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )
    _, status, used = os.wait4(process.pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0, arguments
    return used.ru_maxrss * 1024 / 1e9


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_full_size_sdxl_takes_a_step_in_16_gb_and_its_lora_loads_in_plain_diffusers(tmp_path: Path, record_property):
    full_size = Path(__file__).parents[1] / "support" / "full_size.py"
    for side, colour in (("a", "red"), ("b", "blue")):
        Image.new("RGB", (256, 256), colour).save(tmp_path / f"{side}.png")
    (tmp_path / "pairs.csv").write_text("prompt,chosen,rejected\na red circle,a.png,b.png\n")
    model, run, kohya = (tmp_path / name for name in ("model", "run", "kohya"))
    changes = {
        "backbone.pretrained": model,
        "backbone.vae": "",
        "data.path": tmp_path / "pairs.csv",
        "data.resolution": 256,
        "run_dir": run,
        "lora.rank": 8,
        "lora.alpha": 4,
        "optim.lr": 1e-3,
        "optim.warmup_steps": 0,
        "train.steps": 1,
        "train.effective_batch": 1,
        "validate.prompts": "",
    }
    program = (full_size, "t2ialign")
    peaks = {
        "make": peak_of(full_size, "make", model),
        "train": peak_of(
            *program, "train", "configs/dpo_sdxl.yaml", *(f"{key}={value}" for key, value in changes.items())
        ),
        "export": peak_of(*program, "export", run, "--to", "kohya", "--out", kohya),
        "diffusers": peak_of(full_size, "compare", model, run / "lora", kohya),
    }
    shutil.rmtree(model)  # 7 GB, which pytest would keep
    for name, peak in peaks.items():
        record_property(f"peak_gb_{name}", round(peak, 2))
        print(f"{name}: {peak:.2f} GB at most")
    assert max(peaks.values()) <= 16, peaks
