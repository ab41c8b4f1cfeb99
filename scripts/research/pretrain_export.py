"""Writes the pre-trained model as a diffusers folder, and measures what it draws of held-out prompts."""

# diffusers annotates tuples as tuple[str] and modules as unions:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path

import numpy as np
import torch
from checkpoints import load_state
from diffusers import DiffusionPipeline
from diffusers.models.attention_processor import AttnProcessor
from pretrain_loop import STAGES, device, log
from pretrain_models import checkpoint, pipeline_of

from t2ialign.shapes.caption import family_of, prompts
from t2ialign.shapes.scene import Scene
from t2ialign.shapes.verify import verify


def export(options: argparse.Namespace) -> None:
    """Writes the averaged weights as a fp16 diffusers folder, under a temporary name first."""
    pipeline = pipeline_of(options).to(dtype=torch.float16)
    target: Path = options.assets
    temporary = target.with_name(f".{target.name}.new")
    shutil.rmtree(temporary, ignore_errors=True)
    pipeline.save_pretrained(temporary)
    for folder in temporary.glob("tokenizer*"):
        for name in ("vocab.json", "merges.txt"):  # for releases of transformers that do not read tokenizer.json
            shutil.copy(options.run / "tokenizer" / name, folder / name)
    if options.family == "sdxl":
        share_vae(temporary, target.parent / "shapes-sd")
    if (target / "README.md").exists():
        shutil.copy(target / "README.md", temporary / "README.md")
    old = target.with_name(f".{target.name}.old")
    if target.exists():
        os.replace(target, old)
    os.replace(temporary, target)
    shutil.rmtree(old, ignore_errors=True)
    stages = {stage: load_state(checkpoint(options, stage)) for stage in STAGES}
    times = ", ".join(f"{stage} {s['step']} steps in {s['seconds'] / 60:.1f} min" for stage, s in stages.items())
    log(f"exported {target}: {sum(f.stat().st_size for f in target.rglob('*')) / 1e6:.1f} MB; {times}")


def share_vae(folder: Path, other: Path) -> None:
    """Puts a link to the same VAE weights of the other folder in the place of a copy.

    Raises:
        ValueError: the other folder's VAE is another one.
    """
    name = "vae/diffusion_pytorch_model.safetensors"
    if (folder / name).read_bytes() != (other / name).read_bytes():
        raise ValueError(f"{other / name}: not the VAE of this run; export the sd family first")
    (folder / name).unlink()
    (folder / name).symlink_to(Path("../..") / other.name / name)


def evaluate(options: argparse.Namespace) -> None:
    """Prints the share of held-out prompts that are fully right, per family and guidance scale."""
    pipeline = DiffusionPipeline.from_pretrained(options.assets, torch_dtype=torch.float32).to(device())
    pipeline.unet.set_attn_processor(AttnProcessor())
    pipeline.set_progress_bar_config(disable=True)
    asked = prompts(options.split, options.prompts, seed=0)
    table: dict[str, dict[float, list[bool]]] = {}
    shares: dict[float, list[float]] = {}
    unreadable: dict[float, int] = {}
    for guidance in options.guidance:
        draws = torch.Generator("cpu").manual_seed(options.seed)
        for start in range(0, len(asked), 64):
            batch = asked[start : start + 64]
            images = pipeline(batch, num_inference_steps=20, guidance_scale=guidance, generator=draws).images
            for prompt, image in zip(batch, images, strict=True):
                verdicts = verify(prompt, image)
                for row in (family_of(prompt), "all"):
                    table.setdefault(row, {}).setdefault(guidance, []).append(verdicts.all_right)
                for verdict in verdicts.verdicts:
                    row = verdict.criterion
                    table.setdefault(row, {}).setdefault(guidance, []).append(verdict.right)
                shares.setdefault(guidance, []).append(verdicts.share)
                unreadable[guidance] = unreadable.get(guidance, 0) + (not isinstance(verdicts.seen, Scene))
    print(f"| {len(asked)} {options.split} prompts | n |" + "".join(f" g={g:g} |" for g in options.guidance))
    print("|---|---|" + "---|" * len(options.guidance))
    for row, cells in sorted(table.items(), key=lambda item: (item[0] != "all", item[0][0].isupper(), item[0])):
        n = len(next(iter(cells.values())))
        print(f"| {row} | {n} |" + "".join(f" {np.mean(right):.3f} |" for right in cells.values()))
    print(f"| unreadable | {len(asked)} |" + "".join(f" {count / len(asked):.3f} |" for count in unreadable.values()))
    print(f"| share of constraints | {len(asked)} |" + "".join(f" {np.mean(s):.3f} |" for s in shares.values()))
