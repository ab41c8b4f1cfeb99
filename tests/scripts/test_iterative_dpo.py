"""Rounds of building and training on a tiny model: each from the one before, resumable, and what they cost."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch
import toys

from t2ialign.config.reader import load, read_yaml
from t2ialign.errors import InputError

SCRIPT = Path(__file__).parents[2] / "scripts" / "iterative_dpo.py"
PROMPTS = ["a red circle", "a blue square", "a cat", "a dog"]


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("iterative_dpo", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # as an import would; dataclasses look there
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def job(tmp_path: Path, sd15_folder: Path) -> list[str]:
    """The arguments of two rounds of two steps of two pairs."""
    extra = 'data: {name: pairs, path: ".", cache: {latents: false, text: false}}\n'
    config = toys.write_config(tmp_path / "c.yaml", model=sd15_folder, pairs=tmp_path, run_dir=tmp_path / "unused")
    text = config.read_text().replace(f"data: {{name: pairs, path: {tmp_path}}}\n", extra)
    config.write_text(text.replace("steps: 3, effective_batch: 4", "steps: 2, effective_batch: 2"))
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(PROMPTS))
    paths = ["--out", str(tmp_path / "out"), "--prompts", str(prompts)]
    counts = ["--rounds", "2", "--images-per-prompt", "2", "--steps", "2", "--batch", "4"]
    return [str(config), *paths, "--reward", "brightness", *counts]


def test_prompts_are_dealt_once_each(script):
    dealt = script.deal([*PROMPTS, "a cat"], 3, seed=0)
    assert sorted(prompt for own in dealt for prompt in own) == sorted(PROMPTS)
    assert [len(own) for own in dealt] == [2, 1, 1]
    for rounds in (0, 5):
        with pytest.raises(InputError, match="give 1 to 4"):
            script.deal(PROMPTS, rounds, seed=0)


def test_every_round_starts_from_the_one_before_and_goes_on_after_a_stop(
    script, job: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    out = tmp_path / "out"
    train, trained = script.train, []

    def stops(config):
        if len(trained) == 1:
            raise KeyboardInterrupt
        trained.append(config.run_dir)
        return train(config)

    monkeypatch.setattr(script, "train", stops)
    with pytest.raises(KeyboardInterrupt):
        script.main(job)
    made = (out / "round1" / "pairs" / "pairs.csv").stat().st_mtime_ns
    monkeypatch.setattr(script, "train", train)
    assert script.main(job) == 0
    assert (out / "round1" / "pairs" / "pairs.csv").stat().st_mtime_ns == made
    written, _ = read_yaml(out / "round1" / "training" / "config.yaml")
    assert written["lora"]["init"] == str(out / "round0" / "training" / "lora")
    record = json.loads((out / "round1" / "pairs" / "images" / "generation.json").read_text())
    assert str(out / "round0" / "training" / "lora") in json.dumps(record)
    first, second = toys.saved_lora(out / "round0" / "training"), toys.saved_lora(out / "round1" / "training")
    key = next(key for key in first if ".lora_A." in key)
    # two AdamW steps of 1e-3 move an entry by at most about 2e-3, so the second round began where the first ended
    assert (second[key] - first[key]).abs().max() < 5e-3 < first[key].abs().max()
    assert any(not torch.equal(first[name], second[name]) for name in first)

    summary = json.loads((out / "summary.json").read_text())
    # a round: 2 prompts x 2 images x 2 DDIM steps x 2 for guidance; 2 steps x 2 pairs x 2 images x 3 passes
    assert [one["passes"] for one in summary["rounds"]] == [{"generation": 16, "training": 24}] * 2
    assert summary["passes"] == {"generation": 32, "training": 48, "all": 80}
    assert "80 passes of an image through the denoiser" in capsys.readouterr().out


def test_one_round_of_as_many_steps_costs_as_much(script, job: list[str]):
    config = Path(job[0])
    two = script.training_passes(load(config, [])) * 2
    assert script.training_passes(load(config, ["train.steps=4"])) == two


def test_a_config_without_lora_or_pairs_and_a_wrong_option_are_told(script, job: list[str], capsys, tmp_path: Path):
    assert script.main([*job, "lora=null"]) == 2
    assert "iterative DPO trains a LoRA" in capsys.readouterr().err
    assert script.main([*job, "train.stepz=4"]) == 2
    assert "did you mean 'steps'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
