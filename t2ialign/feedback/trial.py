"""Tries a reward on a few images: what it says, whether it says it again, how fast, and in which order of a pair."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import numpy as np
from PIL.Image import Image

from t2ialign.errors import DataError, InputError
from t2ialign.feedback.pictures import read_pictures
from t2ialign.feedback.scoring import open_picture
from t2ialign.rewards.base import GroupwiseReward, PairwiseReward, PointwiseReward, Reward, Score
from t2ialign.shapes.caption import captions
from t2ialign.shapes.render import render
from t2ialign.shapes.scene import DARK_BACKGROUNDS, sample_scene

TOLERANCE = 1e-4
"""Relative, by which the same image may get another number in another batch."""


class Group(NamedTuple):
    """Images of one prompt."""

    prompt: str
    images: list[Image]


@dataclass
class Trial:
    """What was seen of a reward."""

    name: str
    kind: str
    item: str
    """What an answer belongs to: image or pair."""
    scores: list[Score] = field(default_factory=list)
    repeats: float = 0.0
    """Largest difference between two equal calls; infinite where only one of them has a number."""
    seconds: float = 0.0
    """Of the second call."""
    agreement: float = math.nan
    """Share of the pairs answered in both orders whose verdicts agree."""
    first_wins: float = math.nan
    """Share of all answers in which the image shown first wins, ties one half."""
    broken: list[str] = field(default_factory=list)
    """What a reward has to keep and this one does not."""

    @property
    def numbers(self) -> list[float]:
        return [score for score in self.scores if score is not None]


def shapes_groups(count: int, seed: int = 0) -> list[Group]:
    """`count` prompts of Shapes, each with a picture of it on a bright and one on a dark background, the second of
    another scene."""
    rng = np.random.default_rng(seed)
    groups = []
    while len(groups) < count:
        scenes = sample_scene(rng), sample_scene(rng)
        told = captions(scenes[0], rng)
        if told and [scene.background in DARK_BACKGROUNDS for scene in scenes] in ([True, False], [False, True]):
            prompt = told[sorted(told)[rng.integers(len(told))]]
            groups.append(Group(prompt, [render(scene, rng) for scene in scenes]))
    return groups


def folder_groups(folder: Path, count: int) -> list[Group]:
    """The first prompts of a folder with all their images, until `count` images are reached.

    Raises:
        InputError, DataError: the folder or an image cannot be read.
    """
    groups: dict[str, Group] = {}
    pictures = read_pictures(folder)
    chosen = {picture.prompt for picture in pictures[:count]}
    for picture in pictures:
        if picture.prompt in chosen:
            group = groups.setdefault(picture.prompt, Group(picture.prompt, []))
            if sum(len(one.images) for one in groups.values()) < max(count, 2):
                group.images.append(open_picture(picture))
    return [group for group in groups.values() if group.images]


def try_reward(reward: Reward, groups: Sequence[Group]) -> Trial:
    """Calls the reward as its kind is called, each question twice, pairs in both orders.

    Raises:
        DataError: it compares images, and no prompt has two.
        EnvironmentProblem: a server is away, or a package is missing.
    """
    trial = Trial(reward.name, reward.kind, reward.item)
    try:
        if isinstance(reward, PairwiseReward):
            _try_pairs(reward, groups, trial)
        else:
            _try_images(reward, groups, trial)
    except InputError as error:
        trial.broken.append(str(error))
    return trial


def _try_images(reward: Reward, groups: Sequence[Group], trial: Trial) -> None:
    trial.scores = _of_images(reward, groups)
    began = perf_counter()
    again = _of_images(reward, groups)
    trial.seconds = perf_counter() - began
    trial.repeats = _difference(trial.scores, again)
    if not trial.numbers:
        trial.broken.append(f"it has no number for any of {len(again)} images")
    elif len(trial.numbers) > 1 and len(set(trial.numbers)) == 1:
        trial.broken.append(f"it gave {trial.numbers[0]:g} to all {len(trial.numbers)} images, so it prefers none")
    elif trial.repeats == 0:
        backwards = [Group(group.prompt, group.images[::-1]) for group in reversed(groups)]
        if _difference(trial.scores, _of_images(reward, backwards)[::-1]) > TOLERANCE:
            trial.broken.append("what it says of an image depends on the image's place in the call")


def _of_images(reward: Reward, groups: Sequence[Group]) -> list[Score]:
    if isinstance(reward, GroupwiseReward):
        return [score for group in groups for score in reward(group.images, group.prompt)]
    assert isinstance(reward, PointwiseReward)
    images = [image for group in groups for image in group.images]
    return reward(images, [group.prompt for group in groups for _ in group.images])


def _try_pairs(reward: PairwiseReward, groups: Sequence[Group], trial: Trial) -> None:
    pairs = [
        (first, second, group.prompt)
        for group in groups
        for number, first in enumerate(group.images)
        for second in group.images[number + 1 :]
    ]
    if not pairs:
        raise DataError(f"reward '{reward.name}' compares images, and no prompt has two of them; give more images")
    firsts, seconds, prompts = (list(column) for column in zip(*pairs, strict=True))
    there = reward(firsts, seconds, prompts)
    began = perf_counter()
    again = reward(firsts, seconds, prompts)
    trial.seconds = perf_counter() - began
    back = reward(seconds, firsts, prompts)
    trial.repeats = _difference(there, again)
    trial.scores = [*there, *back]
    _read_orders(trial, there, back)


def _read_orders(trial: Trial, there: Sequence[Score], back: Sequence[Score]) -> None:
    both = [(a, b) for a, b in zip(there, back, strict=True) if a is not None and b is not None]
    numbers = trial.numbers
    if not numbers:
        trial.broken.append(f"it has no verdict on any of {len(there)} pairs")
        return
    trial.first_wins = sum(_winner(number) for number in numbers) / len(numbers)
    if both:
        trial.agreement = sum(_winner(a) == 1 - _winner(b) for a, b in both) / len(both)
    if set(map(_winner, numbers)) == {0.5}:
        trial.broken.append("it calls every pair a tie")
    elif trial.agreement == 0 and trial.first_wins in (0.0, 1.0):
        place = "first" if trial.first_wins else "second"
        trial.broken.append(f"it prefers the image shown {place}, whichever it is")


def _winner(verdict: float) -> float:
    """1 where the first image wins, 0 where the second does, 0.5 for a tie."""
    return 0.5 if verdict == 0.5 else float(verdict > 0.5)


def _difference(scores: Sequence[Score], others: Sequence[Score]) -> float:
    """Largest, relative to the numbers' size."""
    largest = 0.0
    for a, b in zip(scores, others, strict=True):
        if a is None or b is None:
            largest = max(largest, math.inf if a is not b else 0.0)
        else:
            largest = max(largest, abs(a - b) / max(1.0, abs(a), abs(b)))
    return largest


def describe_trial(trial: Trial) -> str:
    """What `t2ialign reward test` prints of a reward."""
    lines = [f"{trial.name}: {trial.kind}"]
    if trial.numbers:
        low, high, mean = min(trial.numbers), max(trial.numbers), sum(trial.numbers) / len(trial.numbers)
        failed = len(trial.scores) - len(trial.numbers)
        lines.append(f"numbers: {low:.4g} to {high:.4g}, mean {mean:.4g}; {failed} of {len(trial.scores)} failed")
        lines.append("again: the same" if trial.repeats == 0 else f"again: differs by up to {trial.repeats:.2g}")
    if trial.seconds:
        asked = len(trial.scores) // (2 if trial.item == "pair" else 1)
        rate = asked / trial.seconds
        lines.append(f"speed: {rate:.3g} {trial.item}s a second ({trial.seconds:.3g} s for {asked})")
    if trial.item == "pair" and trial.numbers:
        agreement = "unknown" if math.isnan(trial.agreement) else f"{trial.agreement:.0%}"
        answered = len(trial.numbers) / len(trial.scores)
        advice = "" if abs(trial.first_wins - 0.5) <= 0.05 else "; ask in both orders (order: both)"
        lines.append(
            f"both orders: agreement {agreement}, first shown wins {trial.first_wins:.0%}, "
            f"answered {answered:.0%}{advice}"
        )
    lines += [f"broken: {what}" for what in trial.broken]
    return "\n  ".join(lines)
