"""Groups before rewards of each kind: who is asked about what, in which order, and nothing twice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Barrier
from time import sleep
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from t2ialign.config.online import AdvantageConfig
from t2ialign.errors import EnvironmentProblem
from t2ialign.rewards.base import GroupwiseReward, PairwiseReward, PointwiseReward
from t2ialign.rollouts.estimation import estimate
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


@pytest.mark.parametrize(
    ("verdict", "average"),
    [(lambda a, b: 1.0, 0.5), (lambda a, b: float(a > b), 1.0), (lambda a, b: 0.6 if a > b else 0.2, 0.7)],
)
def test_in_both_orders_each_pair_is_asked_twice_and_averaged(verdict, average: float, tmp_path: Path):
    calls = []

    def pair(images_a, images_b, prompts):
        calls.extend(zip(map(level, images_a), map(level, images_b), strict=True))
        return [verdict(level(a), level(b)) for a, b in zip(images_a, images_b, strict=True)]

    made = Judge(PairwiseReward("own", pair), open_journal(tmp_path), seed=3, order="both")
    made.ask(GROUPS)
    assert set(calls) == {(a, b) for levels in ((0, 30), (90, 60, 120)) for a in levels for b in levels if a != b}
    assert len(calls) == 8
    table = made.verdicts(GROUPS)
    assert table[0, 1, 0].item() == pytest.approx(average)  # 30 beats 0: p(first) and 1 - p(second)
    torch.testing.assert_close(table[1] + table[1].T, torch.ones(3, 3).fill_diagonal_(torch.nan), equal_nan=True)


def test_a_pair_with_one_order_missing_has_no_verdict(tmp_path: Path):
    def pair(images_a, images_b, prompts):
        return [None if level(a) > level(b) else 0.0 for a, b in zip(images_a, images_b, strict=True)]

    made = Judge(PairwiseReward("own", pair), open_journal(tmp_path), seed=3, order="both")
    made.ask(GROUPS)
    assert made.verdicts(GROUPS).isnan().all()
    assert made.first_shown_wins(GROUPS).tolist() == [4, 0]


@pytest.mark.parametrize(("verdict", "share"), [(0.9, 1.0), (0.5, 0.5), (0.2, 0.0)])
def test_it_is_counted_how_often_the_image_shown_first_wins(verdict: float, share: float, tmp_path: Path):
    made = Judge(PairwiseReward("own", lambda a, b, prompts: [verdict] * len(a)), open_journal(tmp_path), seed=3)
    assert made.first_shown_wins(GROUPS).tolist() == [0, 0]
    made.ask(GROUPS)
    assert made.first_shown_wins(GROUPS).tolist() == [4, 4 * share]
    judged = estimate([made], GROUPS, AdvantageConfig.model_validate({"of": "win_rate"}), lambda sums: sums)
    assert judged.metrics["first_shown_wins/own"] == share


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


def test_of_a_reward_that_takes_several_calls_each_answer_is_kept_as_it_comes(tmp_path: Path):
    asked = Asked()
    others = Barrier(3, timeout=10)

    def point(images, prompts):
        answers = asked.point(images, prompts)
        if level(images[0]) == 90:
            sleep(0.1)
            raise OSError("gone")
        if len(asked.calls) <= 5:
            others.wait()  # three calls are under way at once
        return answers

    reward = PointwiseReward("own", point, batch_size=32, calls=4)
    groups = [Group(0, "a", [grey(value) for value in (0, 30, 60, 90)])]
    made = Judge(reward, open_journal(tmp_path), seed=3)
    with pytest.raises(EnvironmentProblem, match="gone"):
        made.ask(groups)
    assert made.verdicts(groups).nan_to_num(-1).tolist() == [[0, 30, 60, -1]]
    reward.function = asked.point
    asked.calls.clear()
    again = Judge(reward, open_journal(tmp_path), seed=3)
    again.ask(groups)
    assert asked.calls == [(90, "a")]
    assert again.verdicts(groups).tolist() == [[0, 30, 60, 90]]
