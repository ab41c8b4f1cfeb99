"""Self-NPO from prompts and noise: a run without any image, and the same numbers as of data that has images."""

from __future__ import annotations

import math
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from toys import pair_folder, saved_lora

from t2ialign.backbones.stable_diffusion_model import StableDiffusionModel
from t2ialign.config.reader import load
from t2ialign.rng import Draws
from t2ialign.training.offline import OfflineLoop
from t2ialign.training.parallel import SingleProcess
from t2ialign.training.preflight import check
from t2ialign.training.trackers import read_metrics
from t2ialign.training.train import open_run, train
from t2ialign.types import Noised

SELF_NPO = """
lora: {rank: 2, alpha: 4}
noiser: {name: self_rollout, rollout_steps: 2, grid_steps: 4, weights: ema, start: noise, guidance_scale: -4}
objective: {name: denoising, space: x0, loss: pseudo_huber}
optim: {lr: 1e-3, ema_decay: 0.9}
train: {steps: 2, effective_batch: 4, micro_batch: 2}
"""


def config_of(folder: Path, family: str, model: Path, kind: str, *overrides: str) -> Any:
    """A run over the prompts of four pairs of 64 px, of whose table `kind` reads what it needs."""
    table = folder / "pairs" / "pairs.csv"
    if not table.is_file():
        pair_folder(folder / "pairs", 4)
    path = folder / f"{kind}.yaml"
    path.write_text(
        f"run_dir: {folder / kind}\nbackbone: {{name: {family}, pretrained: {model}}}\n"
        f"data: {{name: {kind}, path: {table}}}{SELF_NPO}"
    )
    return load(path, list(overrides))


def losses(config: Any) -> list[float]:
    train(config, console=Console(quiet=True))
    return [row["loss"] for row in read_metrics(config.run_dir / "metrics.jsonl") if "loss" in row]


def rollouts(config: Any) -> list[Noised]:
    """What the noiser makes of the first two micro-batches."""
    run = open_run(config, SingleProcess())
    assert isinstance(run.loop, OfflineLoop)
    policy = run.core.policy
    batches = islice(run.loop.batches(run.core), 2)
    return [config.noiser(batch, policy, policy.schedule, Draws(config.seed, batch.keys)) for batch in batches]


@pytest.mark.parametrize("family", ["sd15", pytest.param("sdxl", marks=pytest.mark.slow)])
def test_rollouts_and_losses_are_those_of_images_that_are_not_read(
    family: str, sd15_folder: Path, sdxl_folder: Path, tmp_path: Path
):
    model = sdxl_folder if family == "sdxl" else sd15_folder
    configs = [config_of(tmp_path, family, model, kind) for kind in ("singles", "prompts")]
    for images, alone in zip(*map(rollouts, configs), strict=True):
        for one, other in zip(vars(images).values(), vars(alone).values(), strict=True):
            assert torch.equal(one, other)
    images, alone = map(losses, configs)
    assert images == alone
    assert len(alone) == 2
    assert all(math.isfinite(loss) for loss in alone)


def test_a_run_of_a_text_file_runs_no_vae(sd15_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def run(*_: Any) -> None:
        raise AssertionError("the VAE runs")

    monkeypatch.setattr(StableDiffusionModel, "encode_images", run)
    (tmp_path / "p.txt").write_text("# of no images\na red circle\na blue square\n")
    config = config_of(
        tmp_path, "sd15", sd15_folder, "prompts", f"data.path={tmp_path / 'p.txt'}", "data.resolution=32"
    )
    assert len(losses(config)) == 2
    assert any(tensor.abs().max() > 0 for name, tensor in saved_lora(config.run_dir).items() if "lora_B" in name)


def test_latents_of_prompts_alone_take_no_disk(sd15_folder: Path, tmp_path: Path):
    disks = [
        check(config_of(tmp_path, "sd15", sd15_folder, kind, "data.cache.latents=true"), 1).disk
        for kind in ("singles", "prompts")
    ]
    assert [disk is not None and disk.cache > 0 for disk in disks] == [True, False]
