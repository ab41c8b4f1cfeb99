"""What is said of a run before it starts is so: its facts, its recipe, its time."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from online_runs import config_of
from rich.console import Console
from toys import pair_folder, write_config

from t2ialign.config.reader import load
from t2ialign.training.plan import plan
from t2ialign.training.recipe import nearest_recipe, published_overrides
from t2ialign.training.train import train

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"


@pytest.fixture
def config(tmp_path: Path, sd15_folder: Path) -> Path:
    """Three steps of four pairs; a fifth pair has lost an image."""
    pairs = pair_folder(tmp_path / "pairs", 5)
    (tmp_path / "pairs" / "4_rejected.png").unlink()
    extra = ""
    path = write_config(tmp_path / "c.yaml", model=sd15_folder, pairs=pairs, run_dir=tmp_path / "run", extra=extra)
    path.write_text(path.read_text().replace("pairs.csv}", "pairs.csv, on_bad: drop}"))
    return path


def facts(lines: list[str]) -> dict[str, str]:
    """Word -> what stands behind it; lines below belong to the word above."""
    found: dict[str, str] = {}
    word = ""
    for line in lines:
        word = line[:8].strip() or word
        found[word] = f"{found[word]}\n{line[9:]}" if word in found else line[9:]
    return found


def test_a_run_begins_with_its_facts(config: Path, tmp_path: Path):
    said = Console(record=True, width=300, file=(tmp_path / "log").open("w"))
    train(load(config, ["train.steps=1"]), console=said)
    lines = said.export_text().splitlines()
    assert len(lines[: lines.index(next(line for line in lines if line.startswith("result")))]) <= 10
    found = facts(lines)
    assert "(sd15, " in found["model"]
    assert "LoRA rank 2 on attention, " in found["trains"]
    assert found["method"] == "dpo on data pairs, noiser forward; reads reference"
    assert found["device"].endswith("; 1 process")
    assert "4 of 5 rows used\n  left out: 1 x image missing, first: " in found["data"]
    assert found["steps"] == "1 of 4 examples (2 x 2): 4 examples, 1 epochs"
    assert found["passes"] == "6 UNet passes an example (2 without gradient + 2 forward + 2 backward): 24 a step"
    assert found["result"].startswith(f"{tmp_path / 'run' / 'lora'}; the run writes about ")


def test_a_plan_says_the_same_facts_and_more_and_writes_nothing(config: Path, tmp_path: Path):
    before = sorted(tmp_path.rglob("*"))
    found = facts(plan(load(config), world_size=2).lines())
    assert sorted(tmp_path.rglob("*")) == before
    assert found["device"].endswith("; 2 processes")
    assert "(1 x 2 x 2 processes)" in found["steps"]
    assert "activations" in found["memory"]
    assert "while data are encoded" in found["memory"]
    assert "checkpoints" in found["disk"]
    assert "if it fits (data.cache): latents" in found["disk"]
    assert found["time"].startswith("not measured; --probe")
    assert "nothing is watched while training" in found["warning"]


LORA = "train.gradient_checkpointing=true, a smaller train.micro_batch, train.precision=bf16, train.quantize=nf4"
WHOLE = "train.precision=bf16, optim.name=adamw8bit, train.shard=fsdp2 with more processes"
LESS = ["train.gradient_checkpointing=true", "train.micro_batch=1"]


@pytest.mark.parametrize(("keys", "cheaper"), [([], LORA), (["lora=null", *LESS], WHOLE)])
def test_a_stage_that_does_not_fit_is_named_with_what_to_set(
    keys: list[str], cheaper: str, config: Path, monkeypatch: pytest.MonkeyPatch
):
    planned = plan(load(config, keys))
    assert planned.memory is not None
    room = planned.memory.training.total - 1
    monkeypatch.setattr("t2ialign.training.plan.device_memory", lambda _: room)
    (warning,) = (one for one in planned.warnings() if " in a step are more than the " in one)
    assert warning.endswith(f"; try {cheaper}")


@pytest.mark.parametrize("capability", ["AVX2", "AVX512"])
def test_bf16_on_a_processor_without_it_is_warned_of(capability: str, config: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: capability)
    planned = plan(load(config, ["train.precision=bf16"]))._replace(device=torch.device("cpu"))
    assert any("has no bf16" in one for one in planned.warnings()) == (capability == "AVX2")


def test_what_is_not_on_this_machine_is_said_not_guessed(config: Path):
    found = facts(plan(load(config, ["backbone.pretrained=someone/never-downloaded"])).lines())
    assert found["memory"].startswith("not known")
    assert "disk" not in found


@pytest.mark.slow
@pytest.mark.parametrize("keys", [["train.micro_batch=1"], ["noiser={name: inversion, steps: 2}"]])
def test_a_probe_times_steps_and_writes_nothing(keys: list[str], config: Path, tmp_path: Path):
    before = sorted(tmp_path.rglob("*"))
    planned = plan(load(config, keys), with_probe=True)
    assert sorted(tmp_path.rglob("*")) == before
    assert planned.probe is not None
    assert planned.probe.step > 0
    assert planned.probe.preparing > 0
    assert " s a step: " in facts(planned.lines())["time"]
    assert (planned.probe.peak is None) is not torch.cuda.is_available()


@pytest.mark.slow
def test_a_probe_of_an_online_run_asks_no_reward(sd15_folder: Path, tmp_path: Path):
    (tmp_path / "never.py").write_text("def never(images, prompts):\n    raise AssertionError('asked')\n")
    config = config_of(tmp_path, sd15_folder, f"rewards=[{tmp_path / 'never.py'}:never]")
    planned = plan(config, with_probe=True)
    assert planned.probe is not None
    assert planned.probe.step > 0
    assert "rewards are not in it" in facts(planned.lines())["time"]
    assert planned.memory is not None
    assert "while rollouts are made" in planned.memory.others


@pytest.mark.parametrize("name", ["dpo_sd15", "npo_sdxl", "tdpo_sd15", "shapes_smpo", "pref_grpo_sd15"])
def test_a_shipped_config_is_its_own_recipe(name: str):
    found = nearest_recipe(load(CONFIGS / f"{name}.yaml"))
    assert found is not None
    assert found.path.stem == name
    assert all(difference.here == difference.shipped for difference in found.differences)


def test_a_recipe_is_set_beside_the_shipped_and_the_published_one():
    found = nearest_recipe(load(CONFIGS / "dpo_sdxl.yaml", ["optim.lr=1e-4", "lora.rank=8", "run_dir=elsewhere"]))
    assert found is not None
    assert [tuple(difference) for difference in found.differences] == [
        ("lora", "rank 8, alpha 64, attention", "rank 64, alpha 64, attention", "none"),
        ("optim.lr", "0.0001", "1e-05", "2.048e-05"),
        ("train.effective_batch", "64", "64", "2048"),
        ("data.prompt_dropout", "0.1", "0.1", "0.2"),
    ]


def test_published_overrides_are_read_from_the_head_of_a_config():
    assert published_overrides(CONFIGS / "inpo_sd15.yaml") == [
        *("lora=null", "optim.lr=1.024e-5", "optim.warmup_steps=200", "train.effective_batch=1024"),
        *("data.prompt_dropout=0.2", "noiser.grid=released", "noiser.eta=0.1"),
    ]
    assert published_overrides(CONFIGS / "self_npo_sd15.yaml")[-1] == "optim.weight_decay=1e-3"
    assert published_overrides(CONFIGS / "tdpo_sdxl.yaml") == []


def test_an_objective_of_ones_own_has_no_recipe(config: Path):
    own = ROOT / "docs" / "examples" / "my_objective.py"
    planned = plan(load(config, [f"objective={{name: '{own}:Hinge', beta: 300}}"]))
    assert planned.recipe is None
    assert planned.memory is not None
