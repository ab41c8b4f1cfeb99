"""`t2ialign reward list | test`: what is known of each reward, and what a trial finds, broken promises by name."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from stub import Answer, serve
from vlm_server import after_probe, brighter, digits, grey

from t2ialign.cli import main as cli
from t2ialign.config.component import COMPONENTS
from t2ialign.errors import DataError
from t2ialign.feedback.trial import Group, describe_trial, folder_groups, shapes_groups, try_reward
from t2ialign.rewards.base import GroupwiseReward, PairwiseReward, PointwiseReward
from t2ialign.rewards.catalogue import ABOUT, catalogue, describe

GROUPS = shapes_groups(4)


def level(image: Image.Image) -> float:
    return image.convert("L").resize((1, 1)).getpixel((0, 0)) / 255  # type: ignore[operator]


def judge(verdict: Callable[[float, float], float | None]) -> PairwiseReward:
    def verdicts(images_a, images_b, prompts):
        return [verdict(level(a), level(b)) for a, b in zip(images_a, images_b, strict=True)]

    return PairwiseReward("own", verdicts)


def points(answer: Callable[..., object]) -> PointwiseReward:
    return PointwiseReward("own", lambda images, prompts: answer(images))


def test_every_named_reward_is_listed_with_all_that_is_to_be_known():
    assert set(ABOUT) == set(COMPONENTS["reward"])
    listed = {one.name: one for one in catalogue()}
    assert listed["shapes.prefers"].kind == listed["vlm.prefers"].kind == "pairwise"
    assert listed["brightness"].kind == "pointwise"
    assert listed["brightness"].weights == "needs none"
    assert listed["pickscore"].weights.startswith("not here: yuvalkirstain")
    assert all(all((one.about.range, one.about.source, one.about.verified)) for one in listed.values() if one.about)
    assert describe(listed["brightness"]).startswith("brightness: pointwise, 0 to 1; weights: needs none\n")


def test_the_renders_are_two_of_a_prompt_one_bright_and_one_dark():
    assert len(GROUPS) == 4
    for group in GROUPS:
        dark, bright = sorted(image.getpixel((0, 0))[2] for image in group.images)  # type: ignore[index]
        assert dark < 130 < bright
    assert shapes_groups(2)[0].prompt == GROUPS[0].prompt


def test_a_sound_reward_of_each_kind_is_not_called_broken():
    for reward in (
        points(lambda images: list(map(level, images))),
        judge(lambda a, b: float(a > b)),
        GroupwiseReward("own", lambda images, prompt: [level(image) for image in images]),
    ):
        trial = try_reward(reward, GROUPS)
        assert trial.broken == []
        assert trial.repeats == 0
        assert len(trial.numbers) == 8
        assert trial.seconds > 0
    assert "both orders" not in describe_trial(try_reward(points(lambda images: list(map(level, images))), GROUPS))


def test_both_orders_tell_a_fair_judge_from_one_that_looks_at_the_place():
    fair = try_reward(judge(lambda a, b: float(a > b)), GROUPS)
    assert (fair.agreement, fair.first_wins) == (1.0, 0.5)
    near, far = Group("a", [grey(100), grey(110)]), Group("b", [grey(0), grey(250)])
    leaning = try_reward(judge(lambda a, b: float(a > b - 0.3)), [near, far])  # of near images it takes the first
    assert (leaning.agreement, leaning.first_wins) == (0.5, 0.75)
    assert "first shown wins" in describe_trial(leaning)
    silent = try_reward(judge(lambda a, b: None if a > b else 0.2), GROUPS)
    assert silent.agreement != silent.agreement
    assert "agreement unknown, first shown wins 0%, answered 50%; ask in both orders" in describe_trial(silent)


BROKEN = {
    "raises": (points(lambda images: 1 / 0), "reward 'own' raised ZeroDivisionError"),
    "wrong length": (points(lambda images: [1.0]), "reward 'own' got 8 images and returned 1 value"),
    "text": (points(lambda images: ["good"] * len(images)), "reward 'own' returned 'good' (str) for an image"),
    "NaN": (points(lambda images: [float("nan")] * len(images)), "it has no number for any of 8 images"),
    "constant": (points(lambda images: [0.2] * len(images)), "it gave 0.2 to all 8 images, so it prefers none"),
    "its place": (points(lambda images: list(range(len(images)))), "depends on the image's place in the call"),
    "always first": (judge(lambda a, b: 1.0), "it prefers the image shown first, whichever it is"),
    "always second": (judge(lambda a, b: 0.1), "it prefers the image shown second, whichever it is"),
    "always a tie": (judge(lambda a, b: 0.5), "it calls every pair a tie"),
    "no verdict": (judge(lambda a, b: None), "it has no verdict on any of 4 pairs"),
    "no probability": (judge(lambda a, b: 2.0), "reward 'own' returned 2 for a pair"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_promise_is_named(case: str):
    reward, message = BROKEN[case]
    broken = try_reward(reward, GROUPS).broken
    assert len(broken) == 1
    assert message in broken[0]


def test_a_reward_that_changes_its_mind_is_told_and_not_called_broken():
    counter = itertools.count()
    trial = try_reward(points(lambda images: [next(counter) / 100 for _ in images]), GROUPS)
    assert trial.broken == []
    assert "again: differs by up to 0.08" in describe_trial(trial)


def test_images_of_a_folder_come_by_prompt(tmp_path: Path):
    for k in range(6):
        Image.new("RGB", (8, 8), (40 * k, 0, 0)).save(tmp_path / f"{k}.png")
        (tmp_path / f"{k}.txt").write_text(f"prompt {k % 3}")
    groups = folder_groups(tmp_path, 4)
    assert [(group.prompt, len(group.images)) for group in groups] == [
        ("prompt 0", 2),
        ("prompt 1", 1),
        ("prompt 2", 1),
    ]
    with pytest.raises(DataError, match="compares images, and no prompt has two of them"):
        try_reward(judge(lambda a, b: 1.0), [Group("a", groups[0].images[:1])])


def run(monkeypatch, capsys, *arguments: str) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["t2ialign", "reward", *arguments])
    with pytest.raises(SystemExit) as left:
        cli.main()
    return int(left.value.code or 0), capsys.readouterr().out


def test_the_command_tries_a_judge_over_a_socket_and_says_what_it_is_worth(monkeypatch, capsys):
    with serve(brighter) as server:
        code, said = run(monkeypatch, capsys, "test", f"vlm.prefers,model=m,url={server.url}")
    assert code == 0
    assert "agreement 100%, first shown wins 50%, answered 100%" in said
    assert "again: the same" in said
    with serve(after_probe(lambda _: digits(0.9))) as server:
        code, said = run(monkeypatch, capsys, "test", f"vlm.prefers,model=m,url={server.url}", "brightness")
    assert code == 1
    assert "broken: it prefers the image shown first, whichever it is" in said
    assert "brightness: pointwise" in said
    with serve(after_probe(lambda _: Answer("The", top_logprobs=[("The", 0.0)]))) as server:
        code, said = run(monkeypatch, capsys, "test", f"vlm.prefers,model=m,url={server.url}")
    assert code == 1
    assert "broken: it has no verdict on any of 8 pairs" in said


def test_the_command_lists_all(monkeypatch, capsys):
    code, said = run(monkeypatch, capsys, "list")
    assert code == 0
    assert all(f"{name}: " in said for name in ABOUT)
