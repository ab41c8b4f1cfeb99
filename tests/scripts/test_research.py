"""What made assets/ still runs: every stage for a step or two, and its state survives a stop."""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path

import pretrain_shapes
import pytest
import torch
import train_shapes_judge
from checkpoints import load_state, save_state
from torch import nn

ROOT = Path(__file__).parents[2]
THIRD_PARTY = "t2ialign/rewards/weights.py"
"""Opens pickles of others, of tensors only and by their checksum."""


def pretrain(monkeypatch: pytest.MonkeyPatch, run: Path, *arguments: str) -> None:
    options = ("--run", run, "--batch", "2", "--scenes", "6", "--assets", run / "assets", *arguments)
    monkeypatch.setattr(sys, "argv", ["pretrain_shapes.py", *map(str, options)])
    pretrain_shapes.main()


@pytest.mark.slow
def test_pre_training_runs_stage_by_stage_and_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    pretrain(monkeypatch, tmp_path, "vae", "--steps", "1")
    pretrain(monkeypatch, tmp_path, "vae", "--steps", "2")
    assert "resumed at step 1" in capsys.readouterr().out
    pretrain(monkeypatch, tmp_path, "text", "--steps", "1")
    pretrain(monkeypatch, tmp_path, "unet", "--steps", "2", "--focus")
    pretrain(monkeypatch, tmp_path, "export")
    assert (
        json.loads((tmp_path / "assets" / "model_index.json").read_text())["_class_name"] == "StableDiffusionPipeline"
    )
    pretrain(monkeypatch, tmp_path, "evaluate", "--prompts", "2", "--guidance", "1")
    assert "| 2 test prompts | n | g=1 |" in capsys.readouterr().out
    assert not list(tmp_path.rglob("*.pt"))


@pytest.mark.slow
def test_pre_training_of_sdxl_runs_stage_by_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assets = tmp_path / "assets"
    for stage, *options in (
        ("vae", "--steps", "1"), ("text", "--steps", "1"), ("unet", "--steps", "1"), ("export",),
    ):  # fmt: skip
        pretrain(monkeypatch, tmp_path, stage, *options, "--assets", str(assets / "shapes-sd"))
    for stage, *options in (("text", "--steps", "1"), ("unet", "--steps", "2", "--focus"), ("export",)):
        named = ("--family", "sdxl", "--assets", str(assets / "shapes-sdxl"))
        pretrain(monkeypatch, tmp_path, stage, *options, *named)
    assert (assets / "shapes-sdxl" / "vae" / "diffusion_pytorch_model.safetensors").is_symlink()


@pytest.mark.slow
def test_the_judge_is_trained_stage_by_stage_and_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    def judge(stage: str, steps: int = 1) -> None:
        sizes = ("--steps", steps, "--batch", 4, "--images", 3)
        monkeypatch.setattr(sys, "argv", ["train_shapes_judge.py", stage, *map(str, ("--folder", tmp_path, *sizes))])
        train_shapes_judge.main()

    monkeypatch.setattr(train_shapes_judge, "JUDGE", tmp_path / "exported")
    for stage in ("images", "vision", "judge"):
        judge(stage)
    judge("judge", steps=2)
    assert "judge: continues at step 1" in capsys.readouterr().out
    judge("export")
    assert json.loads((tmp_path / "exported" / "training.json").read_text())["steps"] == 2
    assert not list(tmp_path.rglob("*.pt"))


def test_a_state_comes_back_as_it_was(tmp_path: Path):
    layer = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=1e-3)
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    tied = layer.weight.detach()
    state = {"optimizers": [optimizer.state_dict()], "step": 7, "seconds": 1.5, "modules": {"a": tied, "b": tied}}
    save_state(tmp_path / "state.safetensors", state)
    found = load_state(tmp_path / "state.safetensors")
    assert (found["step"], found["seconds"]) == (7, 1.5)
    torch.testing.assert_close(found["modules"], state["modules"], rtol=0, atol=0)
    moments = state["optimizers"][0]["state"]
    assert list(found["optimizers"][0]["state"]) == list(moments)  # keys are integers still
    for key, values in moments.items():
        torch.testing.assert_close(found["optimizers"][0]["state"][key], values, rtol=0, atol=0)
    torch.optim.AdamW(layer.parameters()).load_state_dict(found["optimizers"][0])


def test_no_pickles_are_written_or_read():
    found = []
    for folder in ("t2ialign", "unigenbench", "scripts"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
                if called in ("torch.save", "torch.load") or called.startswith(("pickle.", "joblib.", "dill.")):
                    found.append(f"{path.relative_to(ROOT).as_posix()}:{node.lineno}: {called}")
    assert [line for line in found if not line.startswith(THIRD_PARTY)] == []
