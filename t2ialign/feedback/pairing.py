"""Which scored images of a prompt become preference pairs."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from t2ialign.errors import DataError, InputError
from t2ialign.feedback.summary import shared_value
from t2ialign.rewards.base import Score
from t2ialign.rng import keyed_seed


@dataclass(frozen=True)
class Pairing:
    """Which images of a prompt become a pair.

    Two images are a tie if their scores differ by no more than `margin`.
    """

    keep: Literal["best_worst", "all"] = "best_worst"
    """The best against the worst image of a prompt, or every two."""
    margin: float = 0.0
    """At least 0, in units of the score."""
    ties: Literal["drop", "keep"] = "drop"
    """Whether ties are written too; among equal scores chance, fixed by the seed, says which is called chosen."""
    flip: float = 0.0
    """Share of pairs whose label is turned around, for studies of label noise; which, the seed and the row say."""

    def __post_init__(self):
        if self.keep not in ("best_worst", "all") or self.ties not in ("drop", "keep"):
            raise InputError(f"keep '{self.keep}', ties '{self.ties}': keep is best_worst or all, ties is drop or keep")
        if not self.margin >= 0:
            raise InputError(f"margin {self.margin}: give a number of at least 0")
        if not 0 <= self.flip < 1:
            raise InputError(f"flip {self.flip}: give a share of at least 0 and below 1")
        if self.keep == "all" and self.flip:
            raise InputError(
                f"keep all, flip {self.flip:g}: the ranking written beside the pairs has no labels to turn around; "
                "use keep best_worst, or flip 0"
            )


class Pair(NamedTuple):
    """Two images of a prompt, by position."""

    chosen: int
    rejected: int
    margin: float
    """Score of the chosen minus score of the rejected, at least 0; of a flipped pair at most 0."""
    flipped: bool = False
    """The label was turned around on purpose."""


def compare(members: Sequence[int], scores: Sequence[Score], keep: str, seed: int) -> list[Pair]:
    """The comparisons among one prompt's images, ties included, chosen before rejected; failed images take no part.

    Args:
        members: positions of the prompt's images in `scores`.
        seed: orders images of equal score.
    """
    ranked = sorted(
        ((score, keyed_seed(seed, "tie", i), i) for i in members if (score := scores[i]) is not None),
        key=lambda entry: (-entry[0], entry[1]),
    )
    if len(ranked) < 2:
        return []
    twos = [(ranked[0], ranked[-1])] if keep == "best_worst" else itertools.combinations(ranked, 2)
    return [Pair(better[2], worse[2], better[0] - worse[0]) for better, worse in twos]


def combine(scores: Mapping[str, Sequence[Score]], weights: Mapping[str, float]) -> list[Score]:
    """One score an image: the weighted reward, or the weighted sum of several in standard deviations.

    Scales of rewards cannot be compared, so with two or more each is first brought to mean 0 and standard deviation 1
    over all images. An image that any of them could not score has none.

    Raises:
        DataError: a reward gave all images the same score.
    """
    for name, values in scores.items():
        same = shared_value(values)
        if same is not None:
            raise DataError(
                f"reward '{name}' gave {same:.6g} to all {sum(v is not None for v in values)} images, so it prefers "
                "none. Usually an exception is swallowed inside it, or its weights are not loaded"
            )
    if len(scores) == 1:
        ((name, values),) = scores.items()
        return [None if value is None else weights[name] * value for value in values]
    standard = {name: _standardised(values) for name, values in scores.items()}
    rows = zip(*([None if v is None else weights[name] * v for v in standard[name]] for name in scores), strict=True)
    return [None if None in row else float(sum(row)) for row in rows]


def _standardised(values: Sequence[Score]) -> list[Score]:
    known = [value for value in values if value is not None]
    if not known:
        return list(values)
    mean, spread = statistics.fmean(known), statistics.pstdev(known) or 1.0
    return [None if value is None else (value - mean) / spread for value in values]


class PairingCounts(NamedTuple):
    """What became of everything. images = scored + failed; prompts = paired + tied + unscored;
    comparisons = decided + ties; pairs = decided, plus ties if they are kept."""

    images: int
    scored: int
    failed: int
    prompts: int
    paired: int
    tied: int
    """Prompts whose comparisons were all dropped as ties."""
    unscored: int
    """Prompts with fewer than two scored images."""
    comparisons: int
    decided: int
    ties: int
    pairs: int
    flipped: int = 0
    """Of the pairs."""


def pair_up(
    prompts: Sequence[str], scores: Sequence[Score], pairing: Pairing, seed: int
) -> tuple[list[Pair], PairingCounts]:
    """The pairs of all prompts, in the order of the prompts, and what became of the rest."""
    groups: dict[str, list[int]] = {}
    for position, prompt in enumerate(prompts):
        groups.setdefault(prompt, []).append(position)
    pairs: list[Pair] = []
    comparisons = decided = paired = unscored = 0
    for members in groups.values():
        compared = compare(members, scores, pairing.keep, seed)
        clear = [pair for pair in compared if pair.margin > pairing.margin]
        kept = compared if pairing.ties == "keep" else clear
        pairs += kept
        comparisons += len(compared)
        decided += len(clear)
        paired += bool(kept)
        unscored += not compared
    pairs = [_flipped(pair, row, pairing.flip, seed) for row, pair in enumerate(pairs)]
    scored = sum(score is not None for score in scores)
    return pairs, PairingCounts(
        images=len(prompts),
        scored=scored,
        failed=len(prompts) - scored,
        prompts=len(groups),
        paired=paired,
        tied=len(groups) - paired - unscored,
        unscored=unscored,
        comparisons=comparisons,
        decided=decided,
        ties=comparisons - decided,
        pairs=len(pairs),
        flipped=sum(pair.flipped for pair in pairs),
    )


def _flipped(pair: Pair, row: int, share: float, seed: int) -> Pair:
    """The pair, turned around if chance says so, whatever the other rows are."""
    if keyed_seed(seed, "flip", row) / 2**63 >= share:
        return pair
    return Pair(pair.rejected, pair.chosen, -pair.margin, flipped=True)
