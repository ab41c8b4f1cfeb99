"""Whatever a user's file raises or returns, one message or valid scores."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from t2ialign.errors import EnvironmentProblem, InputError, Stopped, UserError
from t2ialign.rewards.base import PointwiseReward
from t2ialign.rewards.registry import load_reward

WHITE, BLACK = Image.new("RGB", (8, 8), "white"), Image.new("RGB", (8, 8), "black")


def write(folder: Path, text: str) -> str:
    path = folder / "my_reward.py"
    path.write_text(text)
    return str(path)


def returning(answer) -> PointwiseReward:
    return PointwiseReward("mine", lambda images, prompts: answer)


RAISED = [
    "ZeroDivisionError",
    "SystemExit",
    "GeneratorExit",
    "StopIteration",
    "RecursionError",
    "OSError",
    "MemoryError",
]


@pytest.mark.parametrize("raised", [*RAISED, "type('Own', (BaseException,), {})"])
@pytest.mark.parametrize(
    "code",
    [
        "raise {}",
        "def f(images, prompts):\n    raise {}",
        "async def f(images, prompts):\n    raise {}",
        "class f:\n    def __init__(self):\n        raise {}\n    def __call__(self, images, prompts): ...",
    ],
    ids=["import", "call", "async call", "constructor"],
)
def test_whatever_is_raised_is_one_message(tmp_path, raised, code):
    file = write(tmp_path, code.format(raised))
    with pytest.raises(UserError, match=r"my_reward\.py:\d: (reward .* )?raised \w+") as caught:
        load_reward(f"{file}:f")([WHITE], ["a"])
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == (3 if raised in ("OSError", "MemoryError") and code != "raise {}" else 2)


@pytest.mark.parametrize("stop", [KeyboardInterrupt, Stopped])
def test_ctrl_c_is_no_failure_of_the_reward(stop):
    def interrupted(images, prompts):
        raise stop

    with pytest.raises(stop):
        PointwiseReward("mine", interrupted)([WHITE], ["a"])


@pytest.mark.parametrize("text", ["def f(:", "\0", "é = 'é", "def f(images, prompts):\n  x\n y"])
def test_a_file_that_is_not_python_is_one_message(tmp_path, text):
    path = tmp_path / "my_reward.py"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(InputError, match="my_reward"):
        load_reward(f"{path}:f")


def test_a_missing_package_is_the_environment(tmp_path):
    with pytest.raises(
        EnvironmentProblem, match=r"my_reward\.py:1: raised ModuleNotFoundError: No module named 'no_such"
    ):
        load_reward(f"{write(tmp_path, 'import no_such_package')}:f")


class Hostile:
    def __repr__(self):
        raise ValueError

    def __len__(self):
        raise RuntimeError


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary()
    | st.just(10**400)
    | st.builds(Hostile)
    | st.fractions()
    | st.decimals()
    | st.complex_numbers()
    | st.sampled_from([np.array(0.5), np.zeros((2, 3)), np.array(["x"]), np.array([object()]), torch.zeros(0)]),
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=6,
)


@given(ANYTHING, st.integers(1, 3))
@settings(deadline=None)
def test_whatever_is_answered_is_scores_or_one_message(answer, count):
    images, prompts = [WHITE] * count, ["a"] * count
    outcome = scores_or_message(returning(answer), images, prompts)
    if isinstance(outcome, str):
        assert "\n" not in outcome
        assert "reward 'mine'" in outcome
    else:
        assert len(outcome) == count
        assert all(score is None or (type(score) is float and math.isfinite(score)) for score in outcome)


def scores_or_message(reward: PointwiseReward, images, prompts) -> list[float | None] | str:
    try:
        return reward(images, prompts)
    except UserError as error:
        return str(error)
