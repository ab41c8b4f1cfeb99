"""Times a training step against the passes that its method cannot do without, and the loader against nothing.

python scripts/bench.py                 # the embedded models: time over floor, overhead in ms, loader rows/s
python scripts/bench.py --full-size     # SD1.5's own size with random weights, 256 px
"""

import argparse
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from bench_parts import WARMUP, Floor, Ratio, Steps, full_size_changes, interleave, machine, now, pairs_folder, run
from torch import Tensor, nn

from t2ialign.config.reader import load
from t2ialign.config.schema import Config, Optim
from t2ialign.data.base import Cache
from t2ialign.data.encoding.cache import encode
from t2ialign.data.kinds.pairs import PairData
from t2ialign.data.loading.loader import Batches
from t2ialign.noisers.forward import ForwardNoiser
from t2ialign.objectives.dpo import DiffusionDPO
from t2ialign.policy import Policy
from t2ialign.schedules import VPSchedule
from t2ialign.training.engine import Engine
from t2ialign.training.loop import train_steps
from t2ialign.training.offline import compute_loss
from t2ialign.types import Conditioning, Posterior


def time_steps(config: Config, block: int) -> list[str]:
    """Steps of the config against their floor: reference forward, policy forward and backward."""
    steps = Steps(config)
    times = interleave({"step": steps, "floor": Floor(steps)}, block)
    steps.close()
    extra = [1000 * (step - floor) for step, floor in zip(*times.values(), strict=True)]
    return [
        ", ".join(f"{name} {1000 * statistics.median(found):.1f} ms" for name, found in times.items()),
        Ratio("step", "floor").line(times),
        f"overhead: median {statistics.median(extra):.1f} ms ({', '.join(f'{e:.1f}' for e in extra)})",
    ]


def embedded(folder: Path, model: str, block: int) -> list[str]:
    """One of the shipped models at the demo's micro-batch of 32 pairs."""
    family = "sdxl" if model.endswith("xl") else "sd15"
    table = pairs_folder(folder / "pairs", 64)
    changes = [
        f"backbone.name={family}", f"backbone.pretrained={model}", f"data.path={table}",
        f"run_dir={folder / Path(model).name}", "train.effective_batch=32", "train.micro_batch=32",
    ]  # fmt: skip
    return time_steps(load("configs/shapes_dpo.yaml", changes), block)


def full_size(folder: Path, block: int) -> list[str]:
    """SD1.5's UNet (860 M parameters, random weights, bfloat16), LoRA rank 64, one pair of 256 px a step."""
    changes = [*full_size_changes(folder, 8), f"run_dir={folder / 'run'}"]
    return time_steps(load("configs/dpo_sd15.yaml", changes), block)


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
    yield from machine()
    if options.full_size:
        yield from ("", "SD1.5 at full size, random weights, bfloat16, LoRA rank 64, one pair of 256 px")
        yield from full_size(folder, options.block)
        return
    for model in options.models:
        yield from ("", f"{model}, LoRA rank 16 on all layers, 32 pairs")
        yield from embedded(folder, model, options.block)
    rows = loader_rows(folder)
    yield from ("", f"loader with a UNet that costs nothing, SDXL-size latents and text: {rows:.0f} rows/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full-size", action="store_true", help="SD1.5's own size instead of the embedded models")
    shipped = sorted(str(index.parent) for index in Path("assets").glob("*/model_index.json"))
    parser.add_argument("--models", nargs="+", default=shipped, help="folders; the shipped models if not said")
    parser.add_argument("--block", type=int, default=8, help="steps timed together")
    parser.add_argument("--out", type=Path, help="a text file that gets the lines too")
    run(report, parser.parse_args())


if __name__ == "__main__":
    main()
