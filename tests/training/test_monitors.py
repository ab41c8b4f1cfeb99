"""Signs that an online run goes wrong: what the record has to hold for each, and what a run does about them."""

from __future__ import annotations

from pathlib import Path

import pytest
from online_runs import config_of, rows
from rich.console import Console

from t2ialign.config.online import Monitor
from t2ialign.errors import QualityError
from t2ialign.training.monitors import low_preferred, signs
from t2ialign.training.train import train

LIMITS = Monitor.model_validate({"every_iterations": 2})


def record(key: str, values: list[float]) -> list[dict[str, float]]:
    return [{"step": step, key: value} for step, value in enumerate(values, start=1)]


@pytest.mark.parametrize(
    ("key", "values", "said"),
    [
        ("rollout/diversity", [2.0, 2.0, 1.5, 1.0, 1.0], "diversity: rollout/diversity went from 2 to 1"),
        ("rollout/diversity", [2.0, 2.0, 1.5, 1.5, 1.5], None),  # 0.75 of the start
        ("rollout/saturation", [0.2, 0.2, 0.3, 0.4, 0.4], "saturation: rollout/saturation went from 0.2 to 0.4"),
        ("rollout/saturation", [0.2, 0.2, 0.29, 0.29], None),
        ("rollout/flat_groups", [0.0, 0.5, 0.75], "flat_groups: 62% of groups have no difference"),
        ("rollout/flat_groups", [0.9, 0.4, 0.5], None),  # only the last two count
        ("clipped", [0.1, 0.7, 0.8], "clipped: 75% of steps are clipped"),
        ("first_shown_wins/own", [0.5, 0.6, 0.62], "order: own prefers the image that is shown first in 61% of pairs"),
        ("first_shown_wins/own", [0.9, 0.44, 0.5], None),  # their mean is 0.47
        ("kl", [0.1, 5.0, 7.0], None),  # no limit unless one is given
    ],
)
def test_a_sign_is_there_where_the_last_iterations_are_beyond_the_limit(
    key: str, values: list[float], said: str | None
):
    found = signs(record(key, values), LIMITS)
    if said is None:
        assert found == {}
    else:
        sign, _, text = said.partition(": ")
        assert list(found) == [sign]
        assert text in found[sign]


def test_a_distance_is_a_sign_where_a_limit_is_given():
    limits = Monitor.model_validate({"every_iterations": 2, "distance": 5.9})
    assert signs(record("kl", [0.1, 5.0, 7.0]), limits) == {"distance": "the distance from the reference (kl) is 6"}
    assert signs(record("kl", [0.1, 5.0, 6.0]), limits) == {}


def held_out(values: list[float], trained: list[float], error: float = 0.02) -> list[dict[str, float]]:
    """A validation every second step, and what is trained in each."""
    found: list[dict[str, float]] = []
    for place, value in enumerate(values):
        found += [{"step": 2 * place + 1 + k, "reward/own": trained[place]} for k in range(2)]
        found.append(
            {"step": 2 * (place + 1), "validation/held/policy": value, "validation/held/standard_error": error}
        )
    return found


def test_a_held_out_reward_that_falls_while_the_trained_one_rises_is_a_sign():
    found = signs(held_out([0.70, 0.80, 0.75], [0.5, 0.6, 0.7]), LIMITS)
    assert found["held_out"] == (
        "held of fixed prompts fell from 0.8 (step 4) to 0.75, 2.5 standard errors, while the trained own rose from "
        "0.6 to 0.7"
    )
    assert signs(held_out([0.70, 0.80, 0.77], [0.5, 0.6, 0.7]), LIMITS) == {}  # 1.5 standard errors
    assert signs(held_out([0.70, 0.80, 0.75], [0.5, 0.6, 0.55]), LIMITS) == {}  # both fell: it is not exploited


def test_where_low_scores_are_preferred_a_rise_is_the_loss():
    rows_ = held_out([0.70, 0.60, 0.65], [0.5, 0.4, 0.3])
    low = low_preferred([("own", -1.0)], [("held", -0.5)])
    assert low == {"reward/own", "validation/held"}
    assert signs(rows_, LIMITS, low)["held_out"] == (
        "held of fixed prompts rose from 0.6 (step 4) to 0.65, 2.5 standard errors, while the trained own fell from "
        "0.4 to 0.3"
    )
    assert signs(held_out([0.70, 0.80, 0.60], [0.5, 0.6, 0.4]), LIMITS, low) == {}  # its best is the last
    assert signs(rows_, LIMITS) == {}  # high preferred: the trained one fell


def test_of_win_rates_a_fall_of_the_held_out_reward_is_sign_enough():
    rows_ = [{key: value for key, value in row.items() if key != "reward/own"} for row in held_out([0.8, 0.7], [0, 0])]
    assert "what is trained are win rates" in signs(rows_, LIMITS)["held_out"]


def test_a_sign_is_said_once_or_ends_the_run_saved(
    sd15_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    limits = ["monitor.every_iterations=1", "monitor.saturation=1.0001", "monitor.diversity=100", "train.steps=4"]
    warned = config_of(tmp_path, sd15_folder, *limits, name="warned")
    train(warned, console=Console(width=400))
    assert capsys.readouterr().out.count("warning: images of a prompt become alike: rollout/diversity went from") == 1
    stopped = config_of(tmp_path, sd15_folder, *limits, "monitor.stop=[diversity]", name="stopped")
    with pytest.raises(QualityError, match=r"stopped after step 2, saved: images of a prompt become alike"):
        train(stopped, console=Console(quiet=True))
    assert [row["step"] for row in rows(stopped) if "loss" in row] == [1, 2]
    train(config_of(tmp_path, sd15_folder, *limits, name="stopped"), console=Console(quiet=True))
    assert [row.get("loss") for row in rows(stopped)] == [row.get("loss") for row in rows(warned)]
