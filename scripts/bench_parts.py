"""What the benchmarks share: steps of real runs, the passes that they cannot do without, and interleaved timing."""

# diffusers annotates modules as unions, and its own None defaults are not in its annotations:
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from t2ialign.config.schema import Config
from t2ialign.policy import Policy
from t2ialign.rng import Draws
from t2ialign.runtime import configure_runtime
from t2ialign.shapes.caption import prompts
from t2ialign.shapes.render import render
from t2ialign.shapes.scene import sample_scene
from t2ialign.training.core import open_processes
from t2ialign.training.offline import OfflineLoop
from t2ialign.training.train import open_run
from t2ialign.types import Conditioning, flatten_views

WARMUP = 3
"""Calls that are not timed."""
BLOCKS = 5
"""Interleaved blocks of each part."""


def now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def interleave(parts: Mapping[str, Callable[[], None]], block: int) -> dict[str, list[float]]:
    """Seconds of a call of each part, in each of BLOCKS interleaved blocks of `block` calls."""
    for part in parts.values():
        for _ in range(WARMUP):
            part()
    times: dict[str, list[float]] = {name: [] for name in parts}
    for _ in range(BLOCKS):
        for name, part in parts.items():
            began = now()
            for _ in range(block):
                part()
            times[name].append((now() - began) / block)
    return times


class Ratio(NamedTuple):
    """Of the times of two parts, block by block."""

    of: str
    to: str
    target: str = ""

    def line(self, times: Mapping[str, list[float]]) -> str:
        """The median and each block's."""
        found = [one / other for one, other in zip(times[self.of], times[self.to], strict=True)]
        target = f", target {self.target}" if self.target else ""
        each = ", ".join(f"{ratio:.3f}" for ratio in found)
        return f"{self.of} over {self.to}: median {statistics.median(found):.3f} ({each}){target}"


def medians(times: Mapping[str, list[float]]) -> list[str]:
    """A line a part: its median, least and most."""
    return [
        f"{name}: {1000 * statistics.median(found):.1f} ms ({1000 * min(found):.1f} to {1000 * max(found):.1f})"
        for name, found in times.items()
    ]


class Steps:
    """Optimizer steps of `t2ialign train` with a config; a call makes one."""

    def __init__(self, config: Config) -> None:
        self.config = config
        _, self.core, loop = open_run(config, open_processes())
        assert isinstance(loop, OfflineLoop)
        self.loop = loop
        self._losses = loop.losses(self.core)

    def __call__(self) -> None:
        while self.core.engine.update(next(self._losses)) is None:
            pass

    def close(self) -> None:
        """Closes the record of the run; steps that follow are not recorded."""
        engine = self.core.engine
        if engine.tracker is not None:
            engine.tracker.close()
        engine.tracker = None


class Inputs(NamedTuple):
    """What a UNet is called with."""

    x_t: Tensor
    timesteps: Tensor
    cond: Conditioning
    geometry: Tensor | None


def passes(policy: Policy, inputs: Inputs, *, frozen: Sequence[str] = ("reference",)) -> None:
    """A forward pass of each of the frozen weights, and the policy's forward and backward pass."""
    autocast = torch.autocast(inputs.x_t.device.type, dtype=policy.autocast, enabled=policy.autocast is not None)
    for weights in frozen:
        with autocast, torch.no_grad(), policy.mixture(weights):
            policy.backbone.predict(policy.denoiser, *inputs)
    with autocast:
        prediction = policy.backbone.predict(policy.denoiser, *inputs)
    prediction.float().square().mean().backward()


def forget_gradients(policy: Policy) -> None:
    for parameter in policy.trained_parameters().values():
        parameter.grad = None


class Floor:
    """The passes that steps need and nothing else, on one batch: no loader, no loss, no optimizer.

    Args:
        reference: whether the reference's is among them.
    """

    def __init__(self, steps: Steps, *, reference: bool = True) -> None:
        self.policy, self.frozen = steps.core.policy, ("reference",) if reference else ()
        batch = next(iter(steps.loop.batches(steps.core))).to(self.policy.device)
        noised = steps.config.noiser(batch, self.policy, self.policy.schedule, Draws(0, batch.keys))
        cond = flatten_views(batch.cond, len(batch), batch.views)
        geometry = None if batch.geometry is None else batch.geometry.flatten(0, 1)
        self.inputs = Inputs(noised.x_t.flatten(0, 1), noised.timesteps.flatten(), cond, geometry)
        self.accumulation = steps.core.engine.accumulation

    def __call__(self) -> None:
        for _ in range(self.accumulation):
            passes(self.policy, self.inputs, frozen=self.frozen)
        forget_gradients(self.policy)


def pairs_folder(folder: Path, count: int, side: int = 64) -> Path:
    """Random scenes as pairs with scores: what is in them does not matter for the time."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    lines = ["prompt,chosen,rejected,score_chosen,score_rejected"]
    for row, prompt in enumerate(prompts("train", count, 0)):
        for view in ("chosen", "rejected"):
            render(sample_scene(rng), rng).resize((side, side)).save(folder / f"{row}_{view}.png")
        lines.append(f'"{prompt}",{row}_chosen.png,{row}_rejected.png,1,0')
    (folder / "pairs.csv").write_text("\n".join(lines) + "\n")
    return folder / "pairs.csv"


def full_sd15(folder: Path) -> Path:
    """SD1.5's own architecture with random weights in bfloat16, and the embedded model's words."""
    small = StableDiffusionPipeline.from_pretrained("assets/shapes-sd")
    small.tokenizer.model_max_length = 77
    words = CLIPTextConfig(
        vocab_size=len(small.tokenizer), hidden_size=768, intermediate_size=3072, num_hidden_layers=12,
        num_attention_heads=12, max_position_embeddings=77, bos_token_id=small.tokenizer.bos_token_id,
        eos_token_id=small.tokenizer.eos_token_id,
    )  # fmt: skip
    torch.set_default_dtype(torch.bfloat16)
    try:
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
        vae = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4,
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        )  # fmt: skip
        text = CLIPTextModel(words)
    finally:
        torch.set_default_dtype(torch.float32)
    StableDiffusionPipeline(
        vae=vae, text_encoder=text, tokenizer=small.tokenizer, unet=unet, scheduler=small.scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def full_size_changes(folder: Path, pairs: int) -> list[str]:
    """What makes configs/*_sd15.yaml one pair of 256 px a step on SD1.5's own architecture, without checkpointing."""
    return [
        f"backbone.pretrained={full_sd15(folder / 'model')}",
        f"data.path={pairs_folder(folder / 'pairs', pairs, side=256)}", "data.resolution=256",
        "train.effective_batch=1", "train.micro_batch=1", "train.precision=bf16",
        "train.gradient_checkpointing=false", "train.steps=1000000", "validate.prompts=",
        "checkpoint.keep=1", "checkpoint.every_steps=1000000",
    ]  # fmt: skip


def machine() -> list[str]:
    """Two lines on what the figures were measured with."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} CPU cores"
    return [
        f"torch {torch.__version__}, {torch.get_num_threads()} thread(s), {device}, {platform.machine()}",
        f"load average at the start: {os.getloadavg()[0]:.2f}",
    ]


def publish(lines: Iterable[str], out: Path | None) -> None:
    """Prints lines as they are measured, and writes them to a file below the command that made them."""
    printed: list[str] = []
    for line in lines:
        print(line, flush=True)
        printed.append(line)
    if out is not None:
        out.write_text("\n".join([f"$ python {' '.join(sys.argv)}", *printed]) + "\n")


def run(report: Callable[[argparse.Namespace, Path], Iterable[str]], options: argparse.Namespace) -> None:
    """Publishes a report that is measured in a temporary folder, also in the file `options.out` if it is given."""
    configure_runtime()
    with tempfile.TemporaryDirectory(prefix="bench") as folder:
        publish(report(options, Path(folder)), options.out)
