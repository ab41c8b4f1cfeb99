"""Every file in docs/examples/ does what its first lines say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from toys import pair_folder, write_config

from t2ialign import load_config, load_reward, open_model, train
from t2ialign.config.component import import_reference
from t2ialign.rng import Draws
from t2ialign.schedules import Schedule
from t2ialign.training.trackers import read_metrics
from t2ialign.types import Batch, Conditioning

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs" / "examples"


@pytest.fixture
def config(tmp_path: Path, sd15_folder: Path) -> Path:
    """Three steps of four pairs on a tiny model; its run is in tmp_path/run."""
    pairs = pair_folder(tmp_path / "pairs")
    return write_config(tmp_path / "config.yaml", model=sd15_folder, pairs=pairs, run_dir=tmp_path / "run")


def trained(config: Path, override: str) -> list[dict]:
    """The metrics of a run with one override."""
    read = load_config(config, [override])
    train(read)
    return list(read_metrics(read.run_dir / "metrics.jsonl"))


def test_an_objective_of_ones_own_trains_and_starts_at_its_target(config: Path):
    lines = trained(config, f"objective={{name: '{EXAMPLES / 'my_objective.py'}:Hinge', beta: 300, target: 2}}")
    assert len(lines) == 3
    assert lines[0]["loss"] == pytest.approx(2)  # the policy is the reference, so every margin is 0
    assert lines[0]["margin"] == pytest.approx(0)


def test_the_hinge_by_hand():
    # chosen improved by 0.2, rejected by 0.1: margin = 10 / 2 * (-0.1 + 0.2) = 0.5; loss = 1 - 0.5
    loss = import_reference(f"{EXAMPLES / 'my_objective.py'}:hinge_loss")
    losses, margin = loss(torch.tensor([[0.8, 0.9]]), torch.tensor([[1.0, 1.0]]), 10.0, 1.0)
    torch.testing.assert_close(margin, torch.tensor([0.5]))
    torch.testing.assert_close(losses, torch.tensor([0.5]))


def test_a_noiser_of_ones_own_trains(config: Path):
    lines = trained(config, f"noiser={{name: '{EXAMPLES / 'my_noiser.py'}:NoisyMoreOften', power: 0.5}}")
    assert len(lines) == 3


def test_the_noiser_draws_noisy_timesteps_more_often(sd15_folder: Path):
    noiser = import_reference(f"{EXAMPLES / 'my_noiser.py'}:NoisyMoreOften")(name="noisy")
    policy, _ = open_model(str(sd15_folder))
    schedule: Schedule = policy.schedule
    keys = torch.arange(400)
    batch = Batch(keys, keys, torch.zeros(400, 2, 4, 1, 1), Conditioning(torch.zeros(400, 1, 1, 1)))
    noised = noiser(batch, policy, schedule, Draws(0, keys))
    # the mean of sqrt(u) is 2/3, its standard deviation sqrt(1/18) = 0.24, so that of 400 draws 0.012
    assert noised.timesteps.double().mean() / schedule.num_train_timesteps == pytest.approx(2 / 3, abs=0.05)
    assert torch.equal(noised.timesteps[:, 0], noised.timesteps[:, 1])


def test_rewards_of_ones_own_score_images():
    flat, half = Image.new("RGB", (8, 8), "white"), Image.new("RGB", (8, 8), "white")
    half.paste((0, 0, 0), (0, 0, 4, 8))
    contrast = load_reward(f"{EXAMPLES / 'my_reward.py'}:contrast")
    assert contrast([flat, half], ["", ""]) == [None, 127.5]
    grey = load_reward(f"{EXAMPLES / 'my_reward.py'}:CloseToGrey", grey=200)
    assert grey([flat], [""]) == [-55.0]


def test_a_prompt_set_of_ones_own_is_valid(tmp_path: Path):
    script = [sys.executable, EXAMPLES / "my_prompt_set.py", tmp_path / "mine.csv"]
    subprocess.run(script, check=True, cwd=ROOT)
    command = [sys.executable, "-m", "unigenbench", "validate", "--data", tmp_path / "mine.csv", "--strict"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_training_generating_and_scoring_from_python(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    main = import_reference(f"{EXAMPLES / 'library_use.py'}:main")
    main(str(config), str(tmp_path / "mine"), "train.steps=2")
    assert sorted(path.name for path in (tmp_path / "mine").glob("*.png")) == [
        "aligned_0.png",
        "aligned_1.png",
        "base_0.png",
        "base_1.png",
    ]
    assert {line.split()[0] for line in capsys.readouterr().out.splitlines()} == {"base", "aligned"}


def test_every_example_is_in_this_test():
    text = Path(__file__).read_text(encoding="utf-8")
    assert not [path.name for path in EXAMPLES.glob("*.py") if path.name not in text]
