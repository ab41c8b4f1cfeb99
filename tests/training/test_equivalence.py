"""However a batch is cut up, stored or looked at, training is the same."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from jobs import torchrun, two_ranks
from rich.console import Console
from toys import (
    assert_same_gradients,
    batch,
    dpo,
    engine,
    gradients,
    lora_policy,
    pair_folder,
    saved_lora,
    write_config,
)

from t2ialign.config.reader import load
from t2ialign.training import checkpoint
from t2ialign.training.core import open_processes
from t2ialign.training.offline import OfflineLoop
from t2ialign.training.trackers import read_metrics
from t2ialign.training.train import open_run, train

QUIET = Console(quiet=True)


def one_step(folder: Path, run_dir: Path, cuts: list[list[int]], **how: Any) -> tuple[list[torch.Tensor], dict]:
    policy = lora_policy(folder, moved=0.1, **how)
    made = engine(policy, run_dir, accumulation=len(cuts))
    for keys in cuts:
        metrics = made.update(lambda keys=keys: dpo(policy, batch(policy, keys)))
    return gradients(made), metrics or {}


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
@pytest.mark.parametrize(("dtype", "relative"), [(torch.float32, 1e-4), (torch.float64, 1e-9)])
def test_accumulation_does_not_change_the_gradient(
    family: str, dtype: torch.dtype, relative: float, sd15_folder: Path, sdxl_folder: Path, tmp_path: Path
):
    folder = sdxl_folder if family == "sdxl" else sd15_folder
    expected, metrics = one_step(folder, tmp_path, [[0, 1, 2, 3]], family=family, dtype=dtype)
    for cuts in ([[0], [1], [2], [3]], [[0, 1, 2], [3]]):
        found, other = one_step(folder, tmp_path, cuts, family=family, dtype=dtype)
        assert_same_gradients(found, expected, relative=relative)
        for key in ("loss", "margin", "grad_norm", "implicit_accuracy", "samples_seen"):
            assert other[key] == pytest.approx(metrics[key], rel=relative), key


def test_every_row_has_noise_of_its_own_and_depends_on_nothing_else(sd15_folder: Path):
    policy = lora_policy(sd15_folder, moved=0.1)
    row = batch(policy, [7])
    same = replace(row, keys=torch.tensor([7, 8]), latents=row.latents.expand(2, -1, -1, -1, -1))
    same = replace(same, cond=row.cond.map(lambda t: t.expand(2, *t.shape[1:])))
    both, alone = dpo(policy, same).losses, dpo(policy, row).losses
    torch.testing.assert_close(both[:1], alone, atol=1e-5, rtol=1e-5)
    assert abs(both[1] - both[0]) > 1e-3  # the same pair under another key


@pytest.mark.slow
def test_one_process_equals_two(sd15_folder: Path, tmp_path: Path):
    both = two_ranks(sd15_folder, tmp_path)
    policy = lora_policy(sd15_folder, moved=0.1)
    made = engine(policy, tmp_path / "alone")
    metrics = made.update(lambda: dpo(policy, batch(policy, list(range(8)), weights=[1.0] * 7 + [0.0])))
    assert metrics is not None
    for found in both:
        assert_same_gradients(found["gradients"], gradients(made))
        for key in ("loss", "margin", "grad_norm", "samples_seen"):
            assert found["metrics"][key] == pytest.approx(metrics[key], rel=1e-4), key
    assert all(torch.equal(one, other) for one, other in zip(*(f["gradients"] for f in both), strict=True))
    assert checkpoint.newest(tmp_path / "checkpoints", pytest.fail) is not None


def losses(run_dir: Path) -> list[float]:
    return [row["loss"] for row in read_metrics(run_dir / "metrics.jsonl") if "loss" in row]


@pytest.fixture
def job(sd15_folder: Path, tmp_path: Path):
    """Trains the tiny config with overrides in a folder of its own; returns that folder."""
    pairs = pair_folder(tmp_path / "pairs")

    def start(name: str, *overrides: str) -> Path:
        run_dir = tmp_path / name
        config = write_config(tmp_path / f"{name}.yaml", model=sd15_folder, pairs=pairs, run_dir=run_dir)
        train(load(config, list(overrides)), console=QUIET)
        return run_dir

    return start


def test_validation_does_not_change_training(job, tmp_path: Path):
    (tmp_path / "prompts.txt").write_text("a red circle\na cat\n")
    plain = job("plain", "lora.dropout=0.2")
    looked = job(
        "looked",
        "lora.dropout=0.2",
        f"validate.prompts={tmp_path / 'prompts.txt'}",
        "validate.every_steps=1",
        "validate.inference_steps=2",
    )
    assert sorted(path.name for path in (looked / "validation").glob("*.png")) == [
        f"step-{k:06d}.png" for k in range(4)
    ]
    assert losses(plain) == losses(looked)
    one, other = saved_lora(plain), saved_lora(looked)
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("drawn", ["data.prompt_dropout=0.3", "data.flip=0.5"])
def test_cached_equals_encoded_in_each_step(job, drawn: str):
    cached = job("cached", drawn)
    fresh = job("fresh", drawn, "data.cache={latents: false, text: false}")
    assert list((cached / "cache").rglob("*.safetensors"))
    assert not list((fresh / "cache").rglob("*.safetensors"))
    assert losses(fresh) == pytest.approx(losses(cached), rel=1e-5)
    one, other = saved_lora(cached), saved_lora(fresh)
    for name, tensor in one.items():
        assert (other[name] - tensor).norm() <= 1e-3 * tensor.norm() + 1e-6, name


def test_micro_batch_workers_and_recomputation_do_not_change_training(job):
    first = job("first")
    for name, overrides in {
        "single": ["train.micro_batch=1"],
        "four": ["train.micro_batch=4"],
        "recomputed": ["train.gradient_checkpointing=true"],
    }.items():
        assert losses(job(name, *overrides)) == pytest.approx(losses(first), rel=1e-4), name
    assert losses(job("workers", "train.loader_workers=2")) == losses(first)


def test_cached_gradients_equal_fresh_ones(sd15_folder: Path, tmp_path: Path):
    pairs = pair_folder(tmp_path / "pairs", 4)
    found = []
    for name, extra in (("cached", []), ("fresh", ["data.cache={latents: false, text: false}"])):
        config = write_config(tmp_path / f"{name}.yaml", model=sd15_folder, pairs=pairs, run_dir=tmp_path / name)
        _, core, loop = open_run(load(config, [*extra, "train.micro_batch=4"]), open_processes())
        assert isinstance(loop, OfflineLoop)
        dpo(core.policy, next(iter(loop.batches(core)))).losses.mean().backward()
        found.append([p.grad for p in core.policy.trained_parameters().values() if p.grad is not None])
    assert_same_gradients(*found)


def test_the_same_run_twice_is_the_same_bit_by_bit(job):
    one, other = job("one"), job("other")
    assert losses(one) == losses(other)
    assert all(torch.equal(tensor, saved_lora(other)[name]) for name, tensor in saved_lora(one).items())


def test_a_run_that_starts_from_a_lora_measures_against_it(job, tmp_path: Path):
    first = job("first")
    again = job("again", f"lora.init={first / 'lora'}", "objective.beta=5000")
    assert losses(again)[0] == pytest.approx(math.log(2), abs=1e-7)  # policy = reference = the LoRA it started from
    started, ended = saved_lora(first), saved_lora(again)
    assert all((started[name] - ended[name]).abs().max() < 0.01 for name in started)
    assert any(not torch.equal(started[name], ended[name]) for name in started)


def test_full_fine_tuning_runs_stops_and_goes_on(job, tmp_path: Path):
    whole = job("whole", "lora=null", "optim.ema_decay=0.5")
    part = job("part", "lora=null", "optim.ema_decay=0.5", "train.steps=2")
    assert losses(part) == losses(whole)[:2]
    assert job("part", "lora=null", "optim.ema_decay=0.5") == part
    assert losses(part) == losses(whole)
    assert losses(whole)[0] == pytest.approx(math.log(2), abs=1e-6)
    for name in ("unet", "unet-ema"):
        one, other = (UNet2DConditionModel.from_pretrained(run / name).state_dict() for run in (whole, part))
        assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.slow
def test_the_command_under_a_launcher_of_two_processes_trains_the_same(job, sd15_folder: Path, tmp_path: Path):
    alone = job("alone")
    config = write_config(
        tmp_path / "both.yaml", model=sd15_folder, pairs=tmp_path / "pairs" / "pairs.csv", run_dir=tmp_path / "both"
    )
    torchrun("-m", "t2ialign", "train", str(config), "train.micro_batch=1", world=2)
    assert losses(tmp_path / "both") == pytest.approx(losses(alone), rel=1e-4)
    for name, tensor in saved_lora(alone).items():
        assert (saved_lora(tmp_path / "both")[name] - tensor).norm() <= 1e-3 * tensor.norm() + 1e-6, name
