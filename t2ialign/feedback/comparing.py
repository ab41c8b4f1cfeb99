"""What rewards say of two folders of images: means, differences and win rates, with intervals and p-values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from t2ialign.errors import DataError
from t2ialign.feedback.matching import Matched, Twin, match_folders
from t2ialign.feedback.pictures import SCORES
from t2ialign.feedback.scoring import open_picture, score_pictures
from t2ialign.feedback.summary import shared_value
from t2ialign.progress import track
from t2ialign.rewards.base import GroupwiseReward, PairwiseReward, PointwiseReward, Reward, Score, require_distinct
from t2ialign.statistics import Difference, paired_bootstrap, paired_p
from t2ialign.storage.journal import Journal
from unigenbench.formatting import plural
from unigenbench.statistics import holm

FEW_PROMPTS = 20
"""With fewer prompts bootstrap intervals are too narrow."""
VERDICTS = ".comparisons.journal"
"""Verdicts on pairs of images, in the second folder."""


class Verdict(NamedTuple):
    """A line of the journal: how probably the first of two images is the better, shown in this order."""

    reward: str
    """Its fingerprint."""
    first: str
    """Digest of the image and its prompt."""
    second: str
    score: float


@dataclass(frozen=True)
class RewardComparison:
    """One reward on the second folder against the first."""

    reward: str
    kind: str
    prefers: str
    """high or low scores"""
    images: int
    """Pairs of images that were compared."""
    prompts: int
    failed: int
    """Pairs of images of which one or both have no score."""
    means: tuple[float, float] | None
    """Of the first and of the second folder; None for a reward of pairs, which scores no image."""
    difference: Difference | None
    """Second - first, with the 95 % interval over prompts."""
    difference_p: float | None
    wins: int
    """Images of the second folder that beat their counterpart."""
    ties: int
    losses: int
    win_rate: Difference
    """(wins + ties / 2) / images, with the 95 % interval over prompts."""
    win_rate_p: float
    """Two-sided, against one half."""
    difference_p_holm: float | None = None
    """Adjusted for all rewards of the comparison."""
    win_rate_p_holm: float | None = None


@dataclass(frozen=True)
class FolderComparison:
    """Two folders of images on equal prompts and seeds."""

    first: Path
    second: Path
    matched: Matched
    rewards: list[RewardComparison]
    scores: dict[str, list[tuple[Score, Score]]]
    """Reward -> both scores of each pair of images; of a reward of pairs how probably each is the better."""
    warnings: list[str]

    def as_mapping(self) -> dict[str, Any]:
        """Everything but the images, for JSON."""
        return {
            "a": str(self.first),
            "b": str(self.second),
            "images": len(self.matched.twins),
            "prompts": len({twin.prompt for twin in self.matched.twins}),
            "matched_by": "prompt and seed" if self.matched.has_seeds else "prompt and name",
            "settings": {key: list(values) for key, values in self.matched.settings.items()},
            "rewards": [_as_mapping(one) for one in self.rewards],
            "warnings": self.warnings,
        }


def _as_mapping(one: RewardComparison) -> dict[str, Any]:
    return {key: value._asdict() if isinstance(value, Difference) else value for key, value in vars(one).items()}


def compare_folders(
    first: Path, second: Path, rewards: Sequence[Reward], *, seed: int = 0, max_failed: float = 0.05
) -> FolderComparison:
    """Sets two folders side by side; `t2ialign compare`.

    Args:
        first: folder of images, for example of the base model.
        second: folder of images of the same prompts and seeds.
        rewards: of any kinds; one whose weight is below 0 prefers low scores.
        seed: of the bootstrap and the permutations.
        max_failed: share of the pairs of images that may stay without a score.

    Raises:
        InputError: the folders do not match, see `match_folders`, or the rewards are not distinct.
        DataError: an image cannot be read, or too many have no score.
    """
    require_distinct(rewards)
    matched = match_folders(first, second)
    scores = {reward.name: _scores(reward, matched.twins, first, second) for reward in rewards}
    compared = [_compare(reward, matched.twins, scores[reward.name], seed, max_failed) for reward in rewards]
    return FolderComparison(first, second, matched, _adjusted(compared), scores, _warnings(matched, scores))


def _scores(reward: Reward, twins: Sequence[Twin], first: Path, second: Path) -> list[tuple[Score, Score]]:
    if isinstance(reward, PointwiseReward):
        sides = ([twin[side] for twin in twins] for side in (0, 1))
        tables = (folder / SCORES for folder in (first, second))
        known = [score_pictures(side, [reward], table)[reward.name] for side, table in zip(sides, tables, strict=True)]
        return list(zip(*known, strict=True))
    if isinstance(reward, PairwiseReward):
        return _preferences(reward, twins, second / VERDICTS)
    assert isinstance(reward, GroupwiseReward)
    return _group_scores(reward, twins)


def _preferences(reward: PairwiseReward, twins: Sequence[Twin], path: Path) -> list[tuple[Score, Score]]:
    """How probably either image is the better: the mean of both orders, so that no image gains by its place."""
    journal = Journal(path, Verdict, lambda verdict: verdict[:3])
    digests = [(twin.first.digest(), twin.second.digest()) for twin in twins]
    asked = [(twin, pair) for twin, pair in zip(twins, digests, strict=True)]
    asked += [(Twin(twin.second, twin.first), (b, a)) for twin, (a, b) in asked]
    missing = [one for one in asked if (reward.fingerprint, *one[1]) not in journal]
    batches = [missing[start : start + reward.batch_size] for start in range(0, len(missing), reward.batch_size)]
    for batch in track(batches, f"batches judged by {reward.name}", len(batches)):
        firsts, seconds = ([open_picture(twin[side]) for twin, _ in batch] for side in (0, 1))
        answers = reward(firsts, seconds, [twin.prompt for twin, _ in batch])
        known = [(pair, score) for (_, pair), score in zip(batch, answers, strict=True) if score is not None]
        journal.append(Verdict(reward.fingerprint, *pair, score) for pair, score in known)
    return [
        _both_orders(journal.get((reward.fingerprint, a, b)), journal.get((reward.fingerprint, b, a)))
        for a, b in digests
    ]


def _both_orders(there: Verdict | None, back: Verdict | None) -> tuple[Score, Score]:
    if there is None or back is None:
        return None, None
    first = (there.score + 1 - back.score) / 2
    return first, 1 - first


def _group_scores(reward: GroupwiseReward, twins: Sequence[Twin]) -> list[tuple[Score, Score]]:
    """Scores of all images of a prompt together, those of both folders in turn."""
    groups: dict[str, list[int]] = {}
    for place, twin in enumerate(twins):
        groups.setdefault(twin.prompt, []).append(place)
    scores: list[tuple[Score, Score]] = [(None, None)] * len(twins)
    for prompt, places in track(groups.items(), f"prompts judged by {reward.name}", len(groups)):
        answers = reward([image for place in places for image in _opened(twins[place])], prompt)
        for number, place in enumerate(places):
            scores[place] = (answers[2 * number], answers[2 * number + 1])
    return scores


def _opened(twin: Twin) -> list[Image.Image]:
    return [open_picture(picture) for picture in twin]


def _compare(
    reward: Reward, twins: Sequence[Twin], scores: Sequence[tuple[Score, Score]], seed: int, max_failed: float
) -> RewardComparison:
    known = [(twin, a, b) for twin, (a, b) in zip(twins, scores, strict=True) if a is not None and b is not None]
    failed = len(twins) - len(known)
    if failed > max_failed * len(twins) or not known:
        raise DataError(
            f"reward '{reward.name}' could not score {failed} of {len(twins)} pairs of images; at most "
            f"{max_failed:.0%} may fail (--max-failed). The same call asks for the failed ones again"
        )
    prompts = [twin.prompt for twin, _, _ in known]
    a, b = (np.array([one[side] for one in known]) for side in (1, 2))
    sign = np.sign(b - a) * np.sign(reward.weight)
    outcomes, half = (sign + 1) / 2, np.full(len(known), 0.5)
    over_half = paired_bootstrap(half, outcomes, seed=seed, clusters=prompts)
    scores_images = not isinstance(reward, PairwiseReward)
    return RewardComparison(
        reward=reward.name,
        kind=reward.kind,
        prefers="low" if reward.weight < 0 else "high",
        images=len(known),
        prompts=over_half.n,
        failed=failed,
        means=(float(a.mean()), float(b.mean())) if scores_images else None,
        difference=paired_bootstrap(a, b, seed=seed, clusters=prompts) if scores_images else None,
        difference_p=paired_p(a, b, seed=seed, clusters=prompts) if scores_images else None,
        wins=int((sign > 0).sum()),
        ties=int((sign == 0).sum()),
        losses=int((sign < 0).sum()),
        win_rate=Difference(0.5 + over_half.mean, 0.5 + over_half.low, 0.5 + over_half.high, over_half.n),
        win_rate_p=paired_p(half, outcomes, seed=seed, clusters=prompts),
    )


def _adjusted(compared: list[RewardComparison]) -> list[RewardComparison]:
    """With p-values adjusted for having asked several rewards."""
    if len(compared) < 2:
        return compared
    tested = [one for one in compared if one.difference_p is not None]
    differences = dict(
        zip([one.reward for one in tested], holm([one.difference_p or 0.0 for one in tested]), strict=True)
    )
    rates = holm([one.win_rate_p for one in compared])
    return [
        replace(one, difference_p_holm=differences.get(one.reward), win_rate_p_holm=rate)
        for one, rate in zip(compared, rates, strict=True)
    ]


def _warnings(matched: Matched, scores: Mapping[str, Sequence[tuple[Score, Score]]]) -> list[str]:
    found = []
    if not matched.has_seeds:
        found.append("no seeds are recorded, so that images of one prompt are matched by name; their noise may differ")
    prompts = len({twin.prompt for twin in matched.twins})
    if prompts < FEW_PROMPTS:
        found.append(f"intervals rest on {plural(prompts, 'prompt')} and are too narrow; have at least {FEW_PROMPTS}")
    for name, pairs in scores.items():
        same = shared_value([score for pair in pairs for score in pair])
        if same is not None:
            found.append(f"reward '{name}' gave {same:.6g} to all images, so it prefers none")
    return found
