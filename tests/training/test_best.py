"""The best weights by a reward of fixed prompts: kept with their score, over stops, for LoRA and full fine-tuning."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from online_runs import config_of, rows
from rich.console import Console
from safetensors.torch import load_file
from toys import saved_lora

from t2ialign.config.schema import OnlineConfig
from t2ialign.errors import InputError
from t2ialign.training.train import train

QUIET = Console(quiet=True)
SCORES = "def fixed(images, prompts):\n    return [SCORES.pop(0)] * len(images)\nSCORES = []\n"


@pytest.fixture
def scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What `scripted:fixed` answers, in order: at the start for base and policy, then for the policy."""
    (tmp_path / "scripted.py").write_text(SCORES)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("scripted", None)
    import scripted  # pyright: ignore[reportMissingImports]

    return scripted.SCORES


def validated(folder: Path, model: Path, *overrides: str, name: str = "run") -> OnlineConfig:
    prompts = folder / "fixed.txt"
    prompts.write_text("a red circle\na blue ring\n")
    return config_of(
        folder, model, f"validate.prompts={prompts}", "validate.rewards=[scripted:fixed]",
        "validate.best=scripted:fixed", "validate.every_steps=1", "validate.inference_steps=2", *overrides, name=name,
    )  # fmt: skip


def best(config: OnlineConfig) -> dict[str, Any]:
    return json.loads((config.run_dir / "best.json").read_text())


def test_the_weights_of_the_highest_score_are_kept(scores: list[float], sd15_folder: Path, tmp_path: Path):
    scores += [0.5, 0.5, 0.9, 0.9, 0.8]  # base, then steps 0 to 3: the first of equal ones stays
    config = validated(tmp_path, sd15_folder)
    train(config, console=QUIET)
    assert (best(config)["step"], best(config)["score"]) == (1, 0.9)
    short = config_of(tmp_path, sd15_folder, "train.steps=1", name="short")
    train(short, console=QUIET)
    kept = load_file(config.run_dir / "lora-best" / "pytorch_lora_weights.safetensors")
    for key, tensor in saved_lora(short.run_dir).items():
        assert torch.equal(kept[key], tensor)
    assert not torch.equal(kept[key], saved_lora(config.run_dir)[key])
    assert rows(config)[-1]["validation/scripted:fixed/policy"] == 0.8


def test_a_run_that_goes_on_knows_its_best(scores: list[float], sd15_folder: Path, tmp_path: Path):
    scores += [0.5, 0.5, 0.9]
    train(validated(tmp_path, sd15_folder, "train.steps=1"), console=QUIET)
    scores += [0.5, 0.7, 0.95]
    config = validated(tmp_path, sd15_folder, "train.steps=3")
    train(config, console=QUIET)
    assert (best(config)["step"], best(config)["score"]) == (3, 0.95)


def test_low_scores_are_the_best_of_a_reward_of_negative_weight(scores: list[float], sd15_folder: Path, tmp_path: Path):
    scores += [0.5, 0.5, 0.2, 0.4, 0.3]
    config = validated(tmp_path, sd15_folder, "validate.rewards=[scripted:fixed=-1]")
    train(config, console=QUIET)
    assert best(config)["step"] == 1


def test_the_average_is_what_is_measured_and_kept_if_asked(scores: list[float], sd15_folder: Path, tmp_path: Path):
    scores += [0.5, 0.5, 0.6, 0.7, 0.8]
    config = validated(tmp_path, sd15_folder, "optim.ema_decay=0.9", "validate.weights=ema")
    train(config, console=QUIET)
    kept, average = (
        load_file(config.run_dir / name / "pytorch_lora_weights.safetensors") for name in ("lora-best", "lora-ema")
    )
    assert all(torch.equal(kept[key], tensor) for key, tensor in average.items())


def test_a_whole_denoiser_is_kept_as_a_folder(scores: list[float], sd15_folder: Path, tmp_path: Path):
    scores += [0.5, 0.5, 0.9, 0.8, 0.7]
    config = validated(tmp_path, sd15_folder, "lora=null")
    train(config, console=QUIET)
    assert (config.run_dir / "unet-best" / "diffusion_pytorch_model.safetensors").is_file()
    assert best(config)["step"] == 1


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["validate.best=clip_score"], "best 'clip_score' needs prompts, and has to be one of rewards"),
        (["validate.weights=ema", "optim.ema_decay=null"], "validate.weights: ema needs optim.ema_decay"),
    ],
)
def test_what_cannot_be_measured_is_refused(overrides: list[str], message: str, sd15_folder: Path, tmp_path: Path):
    with pytest.raises(InputError, match=message):
        config_of(tmp_path, sd15_folder, *overrides)
