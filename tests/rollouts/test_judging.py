"""Groups before rewards of each kind: who is asked about what, in which order, and nothing twice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from t2ialign.rewards.base import GroupwiseReward, PairwiseReward, PointwiseReward
from t2ialign.rollouts.judging import Group, Judge, Verdict, open_journal


def grey(value: int) -> Image.Image:
    return Image.new("RGB", (4, 4), (value,) * 3)


def level(image: Image.Image) -> float:
    return float(image.getpixel((0, 0))[0])  # type: ignore[index]


GROUPS = [Group(7, "dark", [grey(0), grey(30), None]), Group(9, "light", [grey(90), grey(60), grey(120)])]


class Asked:
    """Rewards that keep what they were asked."""

    def __init__(self, missing: float = -1):
        self.calls: list[Any] = []
        self.missing = missing

    def point(self, images, prompts):
        self.calls += zip(map(level, images), prompts, strict=True)
        return [None if level(image) == self.missing else level(image) for image in images]

    def pair(self, images_a, images_b, prompts):
        self.calls += zip(map(level, images_a), map(level, images_b), prompts, strict=True)
        return [
            None if level(a) == self.missing else float(level(a) > level(b)) for a, b in self._both(images_a, images_b)
        ]

    def group(self, images, prompt):
        self.calls.append(([level(image) for image in images], prompt))
        return [level(image) for image in images]

    def _both(self, images_a, images_b):
        return zip(images_a, images_b, strict=True)


def judge(reward: Any, folder: Path) -> Callable[[Sequence[Group]], Tensor]:
    """Asks and reads."""
    made = Judge(reward, open_journal(folder), seed=3)

    def verdicts(groups: Sequence[Group]) -> Tensor:
        made.ask(groups)
        return made.verdicts(groups)

    return verdicts


def test_images_are_scored_with_their_prompts_and_one_that_was_not_made_is_missing(tmp_path: Path):
    asked = Asked()
    scores = judge(PointwiseReward("own", asked.point, batch_size=2), tmp_path)(GROUPS)
    assert scores.nan_to_num(-1).tolist() == [[0, 30, -1], [90, 60, 120]]
    assert asked.calls == [(0, "dark"), (30, "dark"), (90, "light"), (60, "light"), (120, "light")]


def test_a_group_is_asked_about_as_a_whole(tmp_path: Path):
    asked = Asked()
    scores = judge(GroupwiseReward("own", asked.group), tmp_path)(GROUPS)
    assert scores.nan_to_num(-1).tolist() == [[0, 30, -1], [90, 60, 120]]
    assert asked.calls == [([0, 30], "dark"), ([90, 60, 120], "light")]


def test_each_pair_is_judged_once_in_a_random_order_and_read_both_ways(tmp_path: Path):
    asked = Asked()
    table = judge(PairwiseReward("own", asked.pair), tmp_path)(GROUPS)
    assert {(frozenset(call[:2]), call[2]) for call in asked.calls} == {
        (frozenset(pair), prompt)
        for *pair, prompt in [(0, 30, "dark"), (90, 60, "light"), (90, 120, "light"), (60, 120, "light")]
    }
    assert len(asked.calls) == 4
    assert table[1].nan_to_num(-1).tolist() == [[-1, 1, 0], [0, -1, 0], [1, 1, -1]]
    assert table[0, 1, 0] == 1
    assert table[0, 2].isnan().all()


def test_the_order_is_even_and_the_seeds(tmp_path: Path):
    reward = PairwiseReward("own", Asked().pair)
    one, again, other = (Judge(reward, open_journal(tmp_path), seed) for seed in (3, 3, 4))
    pairs = [(group, low, high) for group in range(100) for low in range(4) for high in range(low + 1, 4)]
    orders = [[which.shown_first(*pair)[0] == pair[1] for pair in pairs] for which in (one, again, other)]
    assert orders[0] == orders[1] != orders[2]
    assert 0.45 < sum(orders[0]) / len(pairs) < 0.55


def test_an_always_first_judge_moves_no_image_on_average(tmp_path: Path):
    first = PairwiseReward("first", lambda images_a, images_b, prompts: [1.0] * len(images_a))
    groups = [Group(number, "x", [grey(0)] * 4) for number in range(300)]
    table = judge(first, tmp_path)(groups)
    assert (table.nanmean((0, 2)) - 0.5).abs().max() < 0.05


@pytest.mark.parametrize("kind", ["point", "pair", "group"])
def test_what_was_answered_is_never_asked_again_and_failures_are(kind: str, tmp_path: Path):
    kinds = {"point": PointwiseReward, "pair": PairwiseReward, "group": GroupwiseReward}
    before, after = Asked(), Asked()
    first = judge(kinds[kind]("own", getattr(before, kind), fingerprint="f"), tmp_path)(GROUPS)
    again = judge(kinds[kind]("own", getattr(after, kind), fingerprint="f"), tmp_path)(GROUPS)
    assert before.calls
    assert after.calls == []
    torch.testing.assert_close(first, again, equal_nan=True)
    other = Asked()
    judge(kinds[kind]("own", getattr(other, kind), fingerprint="changed"), tmp_path)(GROUPS)
    assert len(other.calls) == len(before.calls)


@pytest.mark.parametrize("kind", ["point", "pair"])
def test_a_failed_answer_is_no_number_and_is_asked_for_again(kind: str, tmp_path: Path):
    kinds = {"point": PointwiseReward, "pair": PairwiseReward}
    failing, mended = Asked(missing=60), Asked()
    first = judge(kinds[kind]("own", getattr(failing, kind), fingerprint="f"), tmp_path)(GROUPS)
    again = judge(kinds[kind]("own", getattr(mended, kind), fingerprint="f"), tmp_path)(GROUPS)
    assert first[1].isnan().sum() > again[1].isnan().sum()
    assert {call[0] for call in mended.calls} == {60}


def test_processes_have_journals_of_their_own(tmp_path: Path):
    open_journal(tmp_path, 1).append([Verdict(1, 0, -1, "f", 0.5)])
    assert len(open_journal(tmp_path)) == 0
    assert len(open_journal(tmp_path, 1)) == 1
