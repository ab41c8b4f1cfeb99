"""Pointwise, pairwise and groupwise rewards, sync and async, as functions and as config classes."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from t2ialign.errors import InputError
from t2ialign.rewards import registry
from t2ialign.rewards.base import GroupwiseReward, PairwiseReward, RewardConfig
from t2ialign.rewards.registry import load_pointwise, load_reward, parse_reward

WHITE, BLACK = Image.new("RGB", (8, 8), "white"), Image.new("RGB", (8, 8), "black")


def write(folder: Path, text: str) -> str:
    path = folder / "my_reward.py"
    path.write_text(text)
    return str(path)


JUDGE = """
def judge(images_a, images_b, prompts):
    return [0.5 + (a.width - b.width) / 100 for a, b in zip(images_a, images_b)]
"""
RANKER = """
def ranker(images, prompt):
    order = sorted(image.width for image in images)
    return [order.index(image.width) for image in images]
"""
ANY = """
class Any:
    reward_kind = "pairwise"
    def __call__(self, *all): ...
"""
HEAVY = """
class Heavy:
    def __init__(self):
        raise SystemExit
    def __call__(self, images, prompts): ...
"""
ASYNC = """
import asyncio
LOOPS = set()

async def one():
    LOOPS.add(id(asyncio.get_running_loop()))
    return float(len(LOOPS))

async def f(images, prompts):
    return await asyncio.gather(*(one() for _ in images))

async def fails(images, prompts):
    raise SystemExit("no")
"""
CHANNEL = """
from t2ialign.rewards.base import PointwiseReward, RewardConfig

class Channel(RewardConfig):
    channel: int = 0

    def load(self):
        return PointwiseReward(self.name, self.score, fingerprint=self.fingerprint())

    def score(self, images, prompts):
        return [image.getpixel((0, 0))[self.channel] for image in images]
"""
WIDE = Image.new("RGB", (18, 8))


def test_the_kind_follows_from_the_parameters_an_attribute_or_the_section(tmp_path):
    file = write(tmp_path, JUDGE + RANKER + ANY)
    assert parse_reward(f"{file}:judge").kind == "pairwise"
    assert parse_reward(f"{file}:ranker").kind == "groupwise"
    assert parse_reward(f"{file}:Any").kind == "pairwise"
    assert parse_reward(f"{file}:Any,kind=groupwise").kind == "groupwise"
    assert parse_reward("brightness").kind == "pointwise"


def test_pairwise_and_groupwise_rewards_are_loaded_and_called(tmp_path):
    file = write(tmp_path, JUDGE + RANKER)
    judge = parse_reward(f"{file}:judge=0.5,batch_size=2").load()
    assert isinstance(judge, PairwiseReward)
    assert judge([WIDE, WHITE, WHITE], [WHITE, WHITE, WIDE], ["a", "b", "c"]) == [0.6, 0.5, 0.4]
    assert judge.weight == 0.5
    ranker = parse_reward(f"{file}:ranker").load()
    assert isinstance(ranker, GroupwiseReward)
    assert ranker([WIDE, WHITE], "a") == [1.0, 0.0]
    assert ranker([], "a") == []


@pytest.mark.parametrize("answer", [[1.2], [-0.1]])
def test_a_pairwise_answer_is_a_probability(answer):
    with pytest.raises(InputError, match="for a pair; return a list with a number from 0 to 1 or None per pair"):
        PairwiseReward("judge", lambda images_a, images_b, prompts: answer)([WHITE], [BLACK], ["a"])


def test_whoever_cannot_use_a_kind_says_so_before_anything_is_built(tmp_path):
    file = write(tmp_path, JUDGE + HEAVY)
    with pytest.raises(
        InputError, match=r"judge' is pairwise; score needs a pointwise reward, def name\(images, prompts\)"
    ):
        load_pointwise([f"{file}:Heavy", f"{file}:judge"], "score")


def test_an_async_reward_is_waited_for_on_one_loop(tmp_path):
    file = write(tmp_path, ASYNC)
    reward = load_reward(f"{file}:f", batch_size=2)
    assert reward([WHITE] * 5, ["a"] * 5) == [1.0] * 5
    with pytest.raises(InputError, match="raised SystemExit: no"):
        load_reward(f"{file}:fails")([WHITE], ["a"])
    assert reward([WHITE], ["a"]) == [1.0]


def test_a_config_class_of_the_users_own_is_a_reward_with_checked_options(tmp_path):
    file = write(tmp_path, CHANNEL)
    assert load_reward(f"{file}:Channel", channel=2)([Image.new("RGB", (8, 8), (1, 2, 3))], ["a"]) == [3.0]
    with pytest.raises(InputError, match="channel: Input should be a valid integer"):
        load_reward(f"{file}:Channel", channel="red")
    assert parse_reward(f"{file}:Channel,channel=1").fingerprint() != parse_reward(f"{file}:Channel").fingerprint()


def test_a_section_and_a_text_are_the_same_reward(tmp_path):
    file = write(tmp_path, "def f(images, prompts, a=1):\n    return [a] * len(images)\n")
    section = registry.validated("reward", {"name": f"{file}:f", "weight": 2, "a": 3})
    assert section == parse_reward(f"{file}:f=2,a=3")
    assert section.model_dump() == {
        "name": f"{file}:f",
        "weight": 2.0,
        "kind": "pointwise",
        "batch_size": 32,
        "order": "random",
        "a": 3,
    }
    assert isinstance(section, RewardConfig)
