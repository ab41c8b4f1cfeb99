"""How often shapes-judge prefers the right one of two held-out pictures."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np
from judge_examples import draw_in_parts
from judge_pairs import changed
from PIL import Image

from t2ialign.rewards.base import PairwiseReward
from t2ialign.rewards.registry import validated
from t2ialign.shapes.caption import describe, prompts
from t2ialign.shapes.families import FAMILIES
from t2ialign.shapes.render import render
from t2ialign.shapes.reward import faithfulness
from t2ialign.shapes.scene import sample_scene

SEED = 2027
SEEDS = 4
"""Pictures that are drawn of a caption."""
MARGIN = 0.3
"""Least difference of the verified scores."""
GUIDANCE, STEPS = 1.5, 10
"""Those of online training on Shapes."""


class Decided(NamedTuple):
    """A caption with the better and the worse picture, as the verifier scores them."""

    caption: str
    better: Image.Image
    worse: Image.Image


def held_out_pairs(folder: Path, count: int) -> list[Decided]:
    """Half drawn by assets/shapes-sd, several seeds of a caption, half rendered; all captions of the test split."""
    rng = np.random.default_rng(SEED)
    captions = prompts("test", count // SEEDS, SEED)
    pixels = draw_in_parts(
        folder / "held_out_pairs", [caption for caption in captions for _ in range(SEEDS)], SEED, (GUIDANCE,), STEPS
    )
    drawn = [
        pair
        for caption, group in zip(captions, pixels.reshape(len(captions), SEEDS, *pixels.shape[1:]), strict=True)
        for one, other in combinations([Image.fromarray(picture) for picture in group], 2)
        if (pair := decided(caption, one, other)) is not None
    ]
    half = [drawn[at] for at in rng.permutation(len(drawn))[: count // 2]]
    rendered = _rendered(rng)
    return half + [next(rendered) for _ in range(count - len(half))]


def _rendered(rng: np.random.Generator) -> Iterator[Decided]:
    """A scene with a held-out caption beside one that differs in a fact, or in all."""
    families = list(FAMILIES)
    while True:
        scene = sample_scene(rng)
        caption = describe(scene, families[rng.integers(len(families))], rng, "test")
        other = sample_scene(rng) if rng.random() < 0.25 else changed(scene, rng)
        pair = None if caption is None else decided(caption, render(scene, rng), render(other, rng))
        if pair is not None:
            yield pair


def decided(caption: str, one: Image.Image, other: Image.Image) -> Decided | None:
    """The pair, better picture first; None where the verified scores are nearer than MARGIN."""
    first, second = (score or 0.0 for score in faithfulness([one, other], [caption] * 2))
    if abs(first - second) < MARGIN - 1e-9:
        return None
    return Decided(caption, one, other) if first > second else Decided(caption, other, one)


def evaluate_pairs(judge: Path, folder: Path, count: int, batch: int = 64) -> None:
    """Asks about each pair in both orders, and prints what was preferred."""
    pairs = held_out_pairs(folder, count)
    options = {"name": "vlm.prefers", "model": f"hf:{judge}", "format": "plain", "batch_size": batch, "max_tokens": 200}
    reward = validated("reward", options).load()
    assert isinstance(reward, PairwiseReward)
    captions, better, worse = (list(part) for part in zip(*pairs, strict=True))
    began = time.monotonic()
    orders = [reward(better, worse, captions), reward(worse, better, captions)]
    seconds = (time.monotonic() - began) / (2 * len(pairs))
    given = np.array([[np.nan if score is None else score for score in order] for order in orders])
    right = np.stack([given[0] == 1, given[1] == 0], 1).mean(1)
    low, high = _interval(right, captions)
    print(f"{len(pairs)} pairs in both orders, {seconds * 1000:.0f} ms a question at {batch} together")
    print(f"the right one is preferred: {right.mean():.3f}, 95 % interval {low:.3f} to {high:.3f}")
    drawn = min(count // 2, len(pairs))
    print(f"of drawn pairs {right[:drawn].mean():.3f}, of rendered pairs {right[drawn:].mean():.3f}")
    print(f"first shown wins: {np.nanmean(given):.3f}; ties {np.mean(given == 0.5):.3f}")
    print(f"unreadable: {np.isnan(given).mean():.3f}; both orders agree {np.mean(given[0] + given[1] == 1):.3f}")


def _interval(right: np.ndarray, captions: list[str], rounds: int = 2000) -> tuple[float, float]:
    """95 % interval of the mean, by resampling captions."""
    _, group = np.unique(captions, return_inverse=True)
    total, each = np.bincount(group, right), np.bincount(group)
    chosen = np.random.default_rng(0).integers(len(total), size=(rounds, len(total)))
    low, high = np.quantile(total[chosen].sum(1) / each[chosen].sum(1), (0.025, 0.975))
    return float(low), float(high)
