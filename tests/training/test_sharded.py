"""Full fine-tuning over two real processes is that of one, each with everything or with parts (FSDP2)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from diffusers import UNet2DConditionModel
from jobs import launched, two_ranks
from rich.console import Console
from toys import assert_same_gradients, batch, dpo, engine, full_policy, gradients, pair_folder, write_config

from t2ialign.config.reader import load
from t2ialign.training import checkpoint
from t2ialign.training.checkpoint_parts import is_in_parts
from t2ialign.training.trackers import read_metrics
from t2ialign.training.train import train

pytestmark = pytest.mark.slow
FULL = ("lora=null", "optim.ema_decay=0.5", "train.micro_batch=1", "optim.lr=1e-4")
PARTS = ("train.shard=fsdp2", "validate.inference_steps=2", "validate.every_steps=2")


@pytest.mark.parametrize("shard", ["none", "fsdp2"])
def test_two_processes_have_the_gradients_and_losses_of_one(shard: str, sdxl_folder: Path, tmp_path: Path):
    both = two_ranks(sdxl_folder, tmp_path / "two", shard)
    policy = full_policy(sdxl_folder, moved=0.01)
    made = engine(policy, tmp_path / "alone")
    metrics = made.update(lambda: dpo(policy, batch(policy, list(range(8)), weights=[1.0] * 7 + [0.0])))
    assert metrics is not None
    for found in both:
        assert_same_gradients(found["gradients"], gradients(made))
        for key in ("loss", "grad_norm", "samples_seen"):
            assert found["metrics"][key] == pytest.approx(metrics[key], rel=1e-4), key
    saved = checkpoint.newest(tmp_path / "two" / "checkpoints", pytest.fail)
    assert saved is not None
    assert is_in_parts(saved) == (shard == "fsdp2")


class Runs:
    """A tiny SDXL whose whole denoiser is trained, under several names."""

    def __init__(self, folder: Path, model: Path):
        self.folder, self.model, self.pairs = folder, model, pair_folder(folder / "pairs")
        (folder / "prompts.txt").write_text("a red circle\n")

    def start(self, name: str, *overrides: str, world: int = 1) -> None:
        """Trains the tiny config, here or over several processes."""
        config = self.folder / f"{name}.yaml"
        write_config(config, model=self.model, pairs=self.pairs, run_dir=self.folder / name)
        config.write_text(config.read_text().replace("name: sd15", "name: sdxl"))
        if world == 1:
            train(load(config, [*FULL, *overrides]), console=Console(quiet=True))
        else:
            launched(config, *FULL, *PARTS, *overrides, world=world)

    def rows(self, name: str, key: str) -> list[float]:
        return [row[key] for row in read_metrics(self.folder / name / "metrics.jsonl") if key in row]

    def assert_as_alone(self, name: str) -> None:
        """The run has the losses, the weights and the average of one that was not sharded."""
        for key in ("loss", "grad_norm"):
            assert self.rows(name, key) == pytest.approx(self.rows("alone", key), rel=1e-4), key
        for what in ("unet", "unet-ema"):
            one, other = (self.folder / run / what for run in (name, "alone"))
            assert settings(one) == settings(other)
            found, expected = (UNet2DConditionModel.from_pretrained(path).state_dict() for path in (one, other))
            assert found.keys() == expected.keys()
            for key, tensor in expected.items():
                # AdamW makes steps of size lr of gradients that are 0 but for rounding
                assert (found[key] - tensor).norm() <= 1e-4 * tensor.norm() + 1e-4 * len(tensor) ** 0.5, key


def settings(unet: Path) -> dict[str, object]:
    return json.loads((unet / "config.json").read_text())


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, sdxl_folder: Path) -> Runs:
    made = Runs(tmp_path_factory.mktemp("sharded"), sdxl_folder)
    made.start("alone")
    return made


def test_a_sharded_run_stops_and_goes_on_in_two_processes_validates_and_exports_what_one_does(runs: Runs):
    images = f"validate.prompts={runs.folder / 'prompts.txt'}"
    runs.start("parts", "train.steps=2", images, world=2)
    runs.start("parts", images, world=2)
    runs.assert_as_alone("parts")
    made = sorted(path.name for path in (runs.folder / "parts" / "validation").glob("*.png"))
    assert made == ["step-000000.png", "step-000002.png", "step-000003.png"]


def test_its_checkpoint_goes_on_in_one_process_and_one_of_a_process_in_parts(runs: Runs):
    runs.start("apart", "train.steps=2", "train.gradient_checkpointing=true", world=2)
    runs.start("apart", "train.shard=fsdp2")
    runs.assert_as_alone("apart")
    runs.start("together", "train.steps=2")
    runs.start("together", world=2)
    runs.assert_as_alone("together")


def test_a_damaged_part_is_named_and_passed_over(runs: Runs, tmp_path: Path):
    saved = shutil.copytree(runs.folder / "parts" / "checkpoints", tmp_path / "checkpoints")
    part = saved / "step-000003" / "__1_0.distcp"
    part.write_bytes(part.read_bytes()[:-1])
    said: list[str] = []
    found = checkpoint.newest(saved, lambda damaged: said.append(damaged.reason))
    assert found == saved / "step-000002"
    assert len(said) == 1
    assert said[0].startswith("__1_0.distcp has")
