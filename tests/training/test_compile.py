"""What `train.compile` compiles, and that the compiled network under its mixtures of weights learns the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from online_runs import STEPS, config_of, rows
from rich.console import Console
from toys import backbone, pair_folder, write_config

from t2ialign.config.reader import load
from t2ialign.training.core import build_policy
from t2ialign.training.trackers import read_metrics
from t2ialign.training.train import train


@pytest.mark.parametrize(
    ("value", "kinds"),
    [
        ("false", set()),
        ("blocks", {"BasicTransformerBlock"}),
        ("whole", {"UNet2DConditionModel"}),
        ("true", {"UNet2DConditionModel"}),
    ],
)
def test_blocks_or_the_whole_denoiser_is_compiled(
    value: str, kinds: set[str], sd15_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    compiled: list[torch.nn.Module] = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: compiled.append(module))
    path = write_config(tmp_path / "x.yaml", model=sd15_folder, pairs=tmp_path, run_dir=tmp_path / "x")
    config = load(path, [f"train.compile={value}"])
    policy = build_policy(config, backbone(sd15_folder), keeps_reference=False)
    assert {type(module).__name__ for module in compiled} == kinds
    named = [module for module in policy.denoiser.modules() if type(module).__name__ in kinds]
    assert compiled == named  # all of them


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch):
    """Compiles with torch's tracer and without its code generator, which takes minutes on a CPU."""

    def compile_(module: Any) -> None:
        module._compiled_call_impl = torch.compile(module._call_impl, backend="eager")

    monkeypatch.setattr(torch.nn.Module, "compile", compile_)


@pytest.mark.slow
@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("value", ["blocks", "whole"])
def test_a_compiled_denoiser_learns_what_it_does_uncompiled(value: str, sd15_folder: Path, tmp_path: Path):
    pairs = pair_folder(tmp_path / "pairs")
    losses = []
    for name in ("false", value):
        path = write_config(tmp_path / f"{name}.yaml", model=sd15_folder, pairs=pairs, run_dir=tmp_path / name)
        train(load(path, [f"train.compile={name}"]), console=Console(quiet=True))
        losses.append([row["loss"] for row in read_metrics(tmp_path / name / "metrics.jsonl")])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert losses[0][-1] != losses[0][0]


@pytest.mark.slow
@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("value", ["blocks", "whole"])
def test_compiled_ratios_start_at_1(value: str, sd15_folder: Path, tmp_path: Path):
    """Trajectories are drawn and learnt by the same compiled network, with accumulation."""
    config = config_of(tmp_path, sd15_folder, *STEPS, "train.steps=1", f"train.compile={value}")
    train(config, console=Console(quiet=True))
    (row,) = [row for row in rows(config) if "loss" in row]
    assert row["ratio_deviation"] < 1e-5
    assert row["grad_norm"] > 0
