"""The door for rewards: what is found by which name, what a function may answer, and what is told when it may not."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from t2ialign.config.component import COMPONENTS, import_reference
from t2ialign.errors import InputError
from t2ialign.rewards import registry
from t2ialign.rewards.base import PointwiseReward
from t2ialign.rewards.registry import load_pointwise, load_reward, parse_reward

WHITE, BLACK = Image.new("RGB", (8, 8), "white"), Image.new("RGB", (8, 8), "black")


def write(folder: Path, text: str) -> str:
    path = folder / "my_reward.py"
    path.write_text(text)
    return str(path)


def returning(answer) -> PointwiseReward:
    return PointwiseReward("mine", lambda images, prompts: answer)


def test_a_plain_function_in_a_users_file_is_enough(tmp_path):
    file = write(tmp_path, "def width(images, prompts):\n    return [image.width for image in images]\n")
    assert load_reward(f"{file}:width")([WHITE, Image.new("RGB", (3, 5))], ["a", "b"]) == [8.0, 3.0]


def test_a_function_may_take_further_keywords(tmp_path):
    file = write(tmp_path, "def f(images, prompts, scale=1.0, **meta):\n    return [scale] * len(images)\n")
    assert load_reward(f"{file}:f")([WHITE], ["a"]) == [1.0]
    assert load_reward(f"{file}:f", scale=3)([WHITE], ["a"]) == [3.0]


def test_a_class_is_built_once_with_its_options(tmp_path):
    file = write(
        tmp_path,
        "class R:\n    built = 0\n    def __init__(self, value):\n        R.built += 1\n        self.value = value\n"
        "    def __call__(self, images, prompts):\n        return [self.value + R.built] * len(images)\n",
    )
    reward = load_reward(f"{file}:R", value=10)
    assert reward([WHITE], ["a"]) == reward([BLACK], ["b"]) == [11.0]


def test_a_module_beside_the_user_is_found(tmp_path, monkeypatch):
    (tmp_path / "beside_me.py").write_text("def f(images, prompts):\n    return [0.5 for _ in images]\n")
    monkeypatch.chdir(tmp_path)
    assert load_reward("beside_me:f")([WHITE], ["a"]) == [0.5]


def test_an_entry_point_is_found_by_name(monkeypatch):
    class Point:
        name = "vivid"

        def load(self):
            return lambda images, prompts: [0.25] * len(images)

    monkeypatch.setattr(registry, "entry_points", lambda group: [Point()] if group == "t2ialign.rewards" else [])
    assert load_reward("vivid")([WHITE], ["a"]) == [0.25]


def test_an_unknown_name_is_answered_with_the_likely_one_and_the_list():
    with pytest.raises(InputError, match=r"unknown reward 'sharpnes'; did you mean 'sharpness'\? Known: aesthetic, .*"):
        load_reward("sharpnes")


def test_a_file_without_a_function_says_what_is_missing():
    with pytest.raises(InputError, match=r"write my_reward\.py:FUNCTION"):
        load_reward("my_reward.py")


def test_options_that_are_not_taken_are_named(tmp_path):
    file = write(tmp_path, "class R:\n    def __init__(self, model='x'):\n        pass\n")
    with pytest.raises(InputError, match="unexpected keyword argument 'modle'; its options: model"):
        load_reward(f"{file}:R", modle="y")


def test_what_is_not_pointwise_is_refused_with_its_place(tmp_path):
    file = write(tmp_path, "\ndef judge(images_a, images_b, prompts):\n    return []\n")
    with pytest.raises(InputError, match=r"is pairwise; load_reward needs a pointwise reward, def name\(images, "):
        load_reward(f"{file}:judge")
    with pytest.raises(InputError, match=r"my_reward\.py:2: .*takes \(images_a, images_b, prompts\); a pointwise"):
        load_reward(f"{file}:judge", kind="pointwise")


def test_something_that_cannot_be_called_is_refused(tmp_path):
    with pytest.raises(InputError, match="is 3; name a function"):
        load_reward(f"{write(tmp_path, 'f = 3')}:f")


@pytest.mark.parametrize(
    "answer",
    [
        [0.5, 2],
        (0.5, 2),
        np.array([0.5, 2.0], np.float32),
        torch.tensor([0.5, 2.0], dtype=torch.bfloat16),
        [torch.tensor(0.5), torch.tensor([2.0])],
        torch.tensor([[0.5], [2.0]]),
        [np.float64(0.5), np.int64(2)],
    ],
    ids=["list", "tuple", "array", "tensor", "tensors", "column", "numpy numbers"],
)
def test_lists_arrays_and_tensors_of_numbers_are_understood(answer):
    assert returning(answer)([WHITE, BLACK], ["a", "b"]) == [0.5, 2.0]


def test_a_failure_is_never_a_number():
    answer = [None, math.nan, math.inf, -math.inf, 0.0]
    assert returning(answer)([WHITE] * 5, ["a"] * 5) == [None, None, None, None, 0.0]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ([0.5], "got 2 images and returned 1 value; return a list with one number or None per image"),
        ([], "got 2 images and returned 0 values"),
        (0.5, "returned float 0.5"),
        (None, "returned NoneType None"),
        ("ab", "returned str 'ab'"),
        ({"a": 1, "b": 2}, "returned dict"),
        (torch.tensor(0.5), "returned 1 value"),
        (["0.5", 1.0], r"returned '0.5' \(str\) for an image"),
        ([True, False], r"returned True \(bool\) for an image"),
        ([np.bool_(True), 1.0], "for an image"),
        ([torch.ones(3), 1.0], "for an image"),
        ([1j, 1.0], r"\(complex\) for an image"),
    ],
)
def test_an_answer_that_is_not_a_number_per_image_is_refused(answer, message):
    with pytest.raises(InputError, match=message):
        returning(answer)([WHITE, BLACK], ["a", "b"])


def test_a_refused_answer_names_file_and_line(tmp_path):
    file = write(tmp_path, "import math\n\n\ndef reward(images, prompts):\n    return [1.0]\n")
    with pytest.raises(InputError, match=r"my_reward\.py:4: reward '.*:reward' got 2 images and returned 1 value;"):
        load_reward(f"{file}:reward")([WHITE, BLACK], ["a", "b"])


def test_an_exception_of_the_function_is_one_message_with_its_place():
    def broken(images, prompts):
        raise ZeroDivisionError("theirs")

    with pytest.raises(InputError, match=r"test_reward_door\.py:\d+: reward 'broken' raised ZeroDivisionError: theirs"):
        PointwiseReward("broken", broken)([WHITE], ["a"])


def test_calls_are_made_in_batches_of_the_stated_size_and_in_order():
    sizes = []

    def count(images, prompts):
        sizes.append(len(images))
        return [float(prompt) for prompt in prompts]

    reward = PointwiseReward("count", count, batch_size=3)
    assert reward([WHITE] * 7, [str(i) for i in range(7)]) == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert sizes == [3, 3, 1]


def test_no_images_make_no_call():
    assert returning(1 / 3)([], []) == []


def test_the_fingerprint_changes_with_name_options_and_source(tmp_path):
    file = write(tmp_path, "def f(images, prompts, a=1):\n    return [a] * len(images)\n")
    first = load_reward(f"{file}:f").fingerprint
    assert load_reward(f"{file}:f").fingerprint == first
    assert load_reward(f"{file}:f", a=2).fingerprint != first
    write(tmp_path, "def f(images, prompts, a=1):\n    return [a + 1] * len(images)\n")
    assert load_reward(f"{file}:f").fingerprint != first


def test_a_command_lines_reward_has_weight_and_options(tmp_path):
    file = write(tmp_path, "def f(images, prompts, a=1):\n    return [a] * len(images)\n")
    reward = parse_reward(f"{file}:f=-0.5,a=7")
    (loaded,) = load_pointwise([reward], "the test")
    assert reward.weight == loaded.weight == -0.5
    assert reward.name == loaded.name == f"{file}:f"
    assert reward.options() == {"a": 7}
    assert loaded([WHITE], ["a"]) == [7.0]
    assert parse_reward("brightness").weight == 1.0


@pytest.mark.parametrize("text", ["brightness=", "brightness=much", "brightness=0", "brightness=nan", "brightness,x"])
def test_a_command_lines_reward_is_checked(text):
    with pytest.raises(InputError, match=f"reward '{text}'"):
        parse_reward(text)


@pytest.mark.parametrize("name", sorted(name for name in COMPONENTS["reward"] if not name.startswith("shapes.")))
def test_every_known_name_leads_somewhere(name):
    assert callable(import_reference(COMPONENTS["reward"][name]))
