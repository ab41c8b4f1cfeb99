"""Times a training step against the passes that its method cannot do without, and the loader against nothing.

python scripts/bench.py                 # the embedded models: time over floor, overhead in ms, loader rows/s
python scripts/bench.py --full-size     # SD1.5's own size with random weights, 256 px
"""

# diffusers annotates modules as unions, and its own None defaults are not in its annotations:
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from t2ialign.config.reader import load
from t2ialign.config.schema import Config, Optim
from t2ialign.data.base import Cache
from t2ialign.data.encoding.cache import encode
from t2ialign.data.kinds.pairs import PairData
from t2ialign.data.loading.loader import Batches
from t2ialign.noisers.forward import ForwardNoiser
from t2ialign.objectives.dpo import DiffusionDPO
from t2ialign.policy import Policy
from t2ialign.rng import Draws
from t2ialign.runtime import configure_runtime
from t2ialign.schedules import VPSchedule
from t2ialign.shapes.caption import prompts
from t2ialign.shapes.render import render
from t2ialign.shapes.scene import sample_scene
from t2ialign.training.core import Core, open_processes
from t2ialign.training.engine import Engine
from t2ialign.training.loop import train_steps
from t2ialign.training.offline import OfflineLoop, compute_loss
from t2ialign.training.train import open_run
from t2ialign.types import Conditioning, Posterior

WARMUP = 3
"""Steps that are not timed."""
REPEATS = 5
"""Interleaved pairs of (steps, floor)."""


class Timing(NamedTuple):
    """Seconds of one step, and of its floor, in each of the interleaved blocks."""

    steps: list[float]
    floors: list[float]

    def lines(self) -> list[str]:
        ratios = [step / floor for step, floor in zip(self.steps, self.floors, strict=True)]
        extra = [1000 * (step - floor) for step, floor in zip(self.steps, self.floors, strict=True)]
        return [
            f"step {1000 * statistics.median(self.steps):.1f} ms, floor {1000 * statistics.median(self.floors):.1f} ms",
            f"time over floor: median {statistics.median(ratios):.3f} ({', '.join(f'{r:.3f}' for r in ratios)})",
            f"overhead: median {statistics.median(extra):.1f} ms ({', '.join(f'{e:.1f}' for e in extra)})",
        ]


def pairs_folder(folder: Path, count: int, side: int = 64) -> Path:
    """Random scenes as pairs: what is in them does not matter for the time."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    lines = ["prompt,chosen,rejected"]
    for row, prompt in enumerate(prompts("train", count, 0)):
        for view in ("chosen", "rejected"):
            render(sample_scene(rng), rng).resize((side, side)).save(folder / f"{row}_{view}.png")
        lines.append(f'"{prompt}",{row}_chosen.png,{row}_rejected.png')
    (folder / "pairs.csv").write_text("\n".join(lines) + "\n")
    return folder / "pairs.csv"


class Floor:
    """The passes a DPO step needs and nothing else: reference forward, policy forward and backward, no optimizer."""

    def __init__(self, config: Config, core: Core, loop: OfflineLoop) -> None:
        self.policy, backbone = core.policy, core.policy.backbone
        batch = next(iter(loop.batches(core))).to(core.policy.device)
        noised = config.noiser(batch, core.policy, backbone.schedule, Draws(0, batch.keys))
        views = noised.x_t.shape[1]
        cond = batch.cond.map(lambda t: t.expand(len(t), views, *t.shape[2:]).flatten(0, 1))
        geometry = None if batch.geometry is None else batch.geometry.flatten(0, 1)
        self.inputs = (noised.x_t.flatten(0, 1), noised.timesteps.flatten(), cond, geometry)
        self.accumulation = core.engine.accumulation

    def __call__(self) -> None:
        autocast = torch.autocast(
            self.inputs[0].device.type, dtype=self.policy.autocast, enabled=self.policy.autocast is not None
        )
        backbone, module = self.policy.backbone, self.policy.denoiser
        for _ in range(self.accumulation):
            with autocast, torch.no_grad(), self.policy.mixture("reference"):
                backbone.predict(module, *self.inputs)
            with autocast:
                prediction = backbone.predict(module, *self.inputs)
            prediction.float().square().mean().backward()
        for parameter in self.policy.trained_parameters().values():
            parameter.grad = None


class Interleaved:
    """A hook of the real loop: times blocks of its steps, and after each block as many floors."""

    def __init__(self, floor: Floor, block: int) -> None:
        self.floor, self.block = floor, block
        self.timing = Timing([], [])
        self.began = 0.0

    def __call__(self, engine: Engine) -> None:
        done = engine.step - WARMUP
        if done > 0 and done % self.block == 0:
            self.timing.steps.append((now() - self.began) / self.block)
            began = now()
            for _ in range(self.block):
                self.floor()
            self.timing.floors.append((now() - began) / self.block)
        if done >= 0 and done % self.block == 0:
            self.began = now()


def now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def time_steps(config: Config, block: int) -> Timing:
    """Runs the loop of `t2ialign train` on the config, and the floor between its blocks."""
    _, core, loop = open_run(config, open_processes())
    assert isinstance(loop, OfflineLoop)
    core.policy.backbone.release_encoders()
    floor = Floor(config, core, loop)
    floor()
    hook = Interleaved(floor, block)
    loop.run(core, [hook])
    if core.engine.tracker is not None:
        core.engine.tracker.close()
    return hook.timing


def embedded(folder: Path, model: str, block: int) -> Timing:
    """One of the shipped models at the demo's micro-batch of 32 pairs."""
    family = "sdxl" if model.endswith("xl") else "sd15"
    table = pairs_folder(folder / "pairs", 64)
    changes = [
        f"backbone.name={family}", f"backbone.pretrained={model}", f"data.path={table}",
        f"run_dir={folder / Path(model).name}", f"train.steps={WARMUP + REPEATS * block}",
        "train.effective_batch=32", "train.micro_batch=32", "checkpoint.every_steps=1000000",
    ]  # fmt: skip
    return time_steps(load("configs/shapes_dpo.yaml", changes), block)


def full_size(folder: Path, block: int) -> Timing:
    """SD1.5's UNet (860 M parameters, random weights, bfloat16), LoRA rank 64, one pair of 256 px a step."""
    table = pairs_folder(folder / "pairs", 8, side=256)
    changes = [
        f"backbone.pretrained={full_sd15(folder / 'model')}", f"data.path={table}", "data.resolution=256",
        f"run_dir={folder / 'run'}", f"train.steps={WARMUP + REPEATS * block}", "train.effective_batch=1",
        "train.micro_batch=1", "train.precision=bf16", "train.gradient_checkpointing=false", "validate.prompts=",
        "checkpoint.every_steps=1000000",
    ]  # fmt: skip
    return time_steps(load("configs/dpo_sd15.yaml", changes), block)


def full_sd15(folder: Path) -> Path:
    """The embedded model's folder with a UNet of SD1.5's own size and a text encoder of its width."""
    small = StableDiffusionPipeline.from_pretrained("assets/shapes-sd")
    words = CLIPTextConfig.from_pretrained("assets/shapes-sd/text_encoder")
    words.hidden_size, words.intermediate_size, words.num_attention_heads = 768, 3072, 12
    torch.set_default_dtype(torch.bfloat16)
    try:
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
        text = CLIPTextModel(words)
    finally:
        torch.set_default_dtype(torch.float32)
    StableDiffusionPipeline(
        vae=small.vae, text_encoder=text, tokenizer=small.tokenizer, unet=unet, scheduler=small.scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(folder)  # fmt: skip
    return folder


class Nothing:
    """A backbone of SDXL's latent and text sizes whose denoiser costs nothing."""

    name, latent_channels, vae_factor, resolution = "nothing", 4, 8, 1024
    fingerprint = "nothing"

    def __init__(self) -> None:
        self.denoiser = nn.Module()
        self.denoiser.scale = nn.Parameter(torch.ones(()))
        self.schedule = VPSchedule(torch.linspace(0.999, 0.005, 1000), "epsilon", 1.0)

    def encode_images(self, pixels: Tensor) -> Posterior:
        return Posterior(torch.zeros(len(pixels), 4, 128, 128), torch.ones(len(pixels), 4, 128, 128))

    def encode_prompts(self, prompts: list[str]) -> Conditioning:
        return Conditioning(torch.zeros(len(prompts), 77, 2048), torch.zeros(len(prompts), 1280))

    def null(self) -> Conditioning:
        return self.encode_prompts([""])

    def geometry(self, original: tuple[int, int], crop: tuple[int, int], target: tuple[int, int]) -> Tensor:
        return torch.tensor([*original, *crop, *target], dtype=torch.float32)

    def predict(self, denoiser: Any, x_t: Tensor, *_: Any) -> Tensor:
        return denoiser.scale * x_t


def loader_rows(folder: Path, count: int = 64, steps: int = 32, micro_batch: int = 4, workers: int = 2) -> float:
    """Images of SDXL's latent size that the whole loop takes a second when the UNet costs nothing."""
    backbone: Any = Nothing()
    source = PairData.model_validate({"name": "pairs", "path": pairs_folder(folder / "pairs_xl", count)}).open()
    encoded = encode(
        source, backbone, resolution=1024, folder=folder / "cache", device=torch.device("cpu"), cache=Cache()
    )
    policy = Policy(backbone, full_finetune=True, keeps_reference=True)
    engine = Engine(
        policy=policy, optimizer=torch.optim.SGD(policy.denoiser.parameters(), lr=0.0),
        optim=Optim.model_validate({"lr": 1e-9}),
        steps=steps + WARMUP, accumulation=1, run_dir=folder / "loader", seed=0, identity={},
    )  # fmt: skip
    stamps: list[float] = []
    batches = Batches(encoded, seed=0, micro_batch=micro_batch, workers=workers)
    objective = DiffusionDPO.model_validate({"name": "dpo", "beta": 1.0})
    losses = (lambda batch=batch: compute_loss(policy, batch, ForwardNoiser(), objective, 0) for batch in batches)
    train_steps(engine, losses, save_every=10**9, hooks=[lambda _: stamps.append(now())])
    return 2 * micro_batch * steps / (stamps[-1] - stamps[WARMUP - 1])


def report(options: argparse.Namespace, folder: Path) -> Iterator[str]:
    """The lines, as they are measured."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} CPU cores"
    yield f"torch {torch.__version__}, {torch.get_num_threads()} thread(s), {device}, {platform.machine()}"
    yield f"load average at the start: {os.getloadavg()[0]:.2f}"
    if options.full_size:
        yield from ("", "SD1.5 at full size, random weights, bfloat16, LoRA rank 64, one pair of 256 px")
        yield from full_size(folder, options.block).lines()
        return
    for model in options.models:
        yield from ("", f"{model}, LoRA rank 16 on all layers, 32 pairs")
        yield from embedded(folder, model, options.block).lines()
    rows = loader_rows(folder)
    yield from ("", f"loader with a UNet that costs nothing, SDXL-size latents and text: {rows:.0f} rows/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full-size", action="store_true", help="SD1.5's own size instead of the embedded models")
    shipped = sorted(str(index.parent) for index in Path("assets").glob("*/model_index.json"))
    parser.add_argument("--models", nargs="+", default=shipped, help="folders; the shipped models if not said")
    parser.add_argument("--block", type=int, default=8, help="steps timed together")
    parser.add_argument("--out", type=Path, help="a text file that gets the lines too")
    options = parser.parse_args()
    configure_runtime()
    with tempfile.TemporaryDirectory(prefix="bench") as folder:
        lines = []
        for line in report(options, Path(folder)):
            print(line, flush=True)
            lines.append(line)
    if options.out is not None:
        options.out.write_text("\n".join([f"$ python scripts/bench.py {' '.join(sys.argv[1:])}", *lines]) + "\n")


if __name__ == "__main__":
    main()
