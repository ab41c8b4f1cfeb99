"""The study of an exploitable reward: its commands are valid, its figures are those of the runs."""

from pathlib import Path

import numpy as np
import pytest
import reward_hacking
from methods import flawed
from PIL import Image

from t2ialign.config.reader import load
from t2ialign.shapes.render import render_array
from t2ialign.shapes.scene import Scene, Thing

ROOT = Path(__file__).parents[2]


def test_every_arm_is_a_config_that_loads_and_no_two_are_equal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(ROOT)
    seen = set()
    for name, arm in reward_hacking.arms().items():
        words = reward_hacking.command(tmp_path, name, arm, 120)
        config = load(words[words.index("train") + 1], words[words.index("train") + 2 :])
        assert config.train.steps // config.validation.every_steps == reward_hacking.POINTS
        seen.add(config.model_copy(update={"run_dir": tmp_path}).model_dump_json())
    assert len(seen) == len(reward_hacking.arms()) == 11


def row(step: int, true: float, trained: float) -> dict:
    one, other = f"validation/{reward_hacking.TRUE}", f"validation/{reward_hacking.TRAINED}"
    return {
        "step": step, f"{one}/policy": true, f"{one}/base": 0.6, f"{one}/standard_error": 0.02,
        f"{other}/policy": trained, f"{other}/base": 0.33, f"{other}/standard_error": 0.001,
    }  # fmt: skip


def test_a_reward_is_exploited_once_it_is_up_and_the_true_one_down_by_two_errors():
    drawn = {"step": 5, "iteration": 4, "rollout/diversity": 0.8, "rollout/saturation": 0.4}
    rows = [
        row(0, 0.6, 0.33),
        drawn,
        row(10, 0.65, 0.34),
        row(20, 0.57, 0.35),
        row(30, 0.55, 0.331),
        row(40, 0.55, 0.34),
    ]
    points = reward_hacking.curve(rows)
    assert [point["step"] for point in points] == [0, 10, 20, 30, 40]
    assert "rollout/diversity" not in points[0]
    assert points[1]["rollout/diversity"] == 0.8
    assert points[2]["true_gain"] == pytest.approx(-0.03)
    assert reward_hacking.hacked_at(points) == 40
    assert reward_hacking.hacked_at(points[:4]) is None
    told = reward_hacking.tables({"judge": points}, reward_hacking.arms())
    assert "| win rate of pairwise verdicts | 0 | 0.600 | 0.650 | 0.550 ± 0.040 | 0.3300 | 0.3400 | 1.00 | 40 |" in told


def picture(color: str, background: str) -> Image.Image:
    scene = Scene(background, (Thing("circle", color, "large", 32, 32),))
    return Image.fromarray(render_array(scene, np.random.default_rng(0)))


def test_the_flawed_score_rises_with_colour_and_the_judge_follows_the_prompt():
    right, wrong = picture("red", "white"), picture("blue", "white")
    plain, vivid = picture("red", "white"), picture("red", "navy")
    assert flawed.vividness(plain) < flawed.vividness(vivid)
    low, high = flawed.score([plain, vivid], ["a red circle"] * 2)
    assert low is not None
    assert high is not None
    assert flawed.LOWEST < low < high < flawed.LOWEST + 2 * flawed.RANGE
    assert flawed.prefers([right, wrong], [wrong, right], ["a red circle"] * 2) == [1.0, 0.0]
    assert flawed.score([right], ["no caption of Shapes at all"]) == [None]
