"""What rewards say of groups of images: every verdict is journalled as it comes, and never asked for twice."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from t2ialign.rewards.base import GroupwiseReward, PairwiseReward, PointwiseReward, Reward, Score
from t2ialign.rng import keyed_seed
from t2ialign.storage.journal import Journal

JOURNAL = "verdicts.jsonl"


class Group(NamedTuple):
    """The images of one prompt in one iteration."""

    number: int
    """Counted over the iterations and processes of the run."""
    prompt: str
    images: Sequence[Image.Image | None]
    """None where an image could not be made. [G]"""


class Verdict(NamedTuple):
    """A line of the journal."""

    group: int
    first: int
    """Which image of the group, or the one that was shown first."""
    second: int
    """The one that was shown second; -1 where images are scored one by one."""
    reward: str
    """Its fingerprint."""
    score: float


VerdictKey = tuple[int, int, int, str]


def verdict_key(verdict: Verdict) -> VerdictKey:
    """What a verdict is about."""
    return verdict[:4]


def open_journal(run_dir: Path, rank: int = 0) -> Journal[Verdict, VerdictKey]:
    """The verdicts of a process of a run."""
    name = JOURNAL if rank == 0 else JOURNAL.replace(".", f"-{rank}.")
    return Journal(run_dir / name, Verdict, verdict_key)


class Judge:
    """Asks a reward about groups of images.

    Args:
        reward: of any kind.
        journal: where verdicts are kept.
        seed: of the order in which the two images of a pair are shown.
    """

    def __init__(self, reward: Reward, journal: Journal[Verdict, VerdictKey], seed: int):
        self.reward = reward
        self._journal = journal
        self._seed = seed

    def ask(self, groups: Sequence[Group]) -> None:
        """Asks for what the journal does not hold.

        Raises:
            InputError, EnvironmentProblem: see `Reward`; what was answered before is kept.
        """
        if isinstance(self.reward, PairwiseReward):
            self._ask_pairs(self.reward, groups)
        elif isinstance(self.reward, GroupwiseReward):
            for group in groups:
                self._ask_group(self.reward, group)
        elif isinstance(self.reward, PointwiseReward):
            self._ask_images(self.reward, groups)

    def verdicts(self, groups: Sequence[Group]) -> Tensor:
        """Scores of the images [P, G], or of a pairwise reward how probably i beats j [P, G, G]; NaN is missing."""
        if isinstance(self.reward, PairwiseReward):
            return torch.stack([self._table(group) for group in groups])
        rows = [[self._known(group.number, place, -1) for place in range(len(group.images))] for group in groups]
        return torch.tensor(rows)

    def shown_first(self, group: int, low: int, high: int) -> tuple[int, int]:
        """A pair of images in the order in which it is shown: at random, the same in every run of the seed."""
        swapped = keyed_seed(self._seed, "order", group, low, high) % 2
        return (high, low) if swapped else (low, high)

    def _known(self, group: int, first: int, second: int) -> float:
        entry = self._journal.get((group, first, second, self.reward.fingerprint))
        return torch.nan if entry is None else entry.score

    def _is_new(self, group: int, first: int, second: int) -> bool:
        return (group, first, second, self.reward.fingerprint) not in self._journal

    def _keep(self, answers: Iterable[tuple[tuple[int, int, int], Score]]) -> None:
        fingerprint = self.reward.fingerprint
        self._journal.append(Verdict(*key, fingerprint, score) for key, score in answers if score is not None)

    def _ask_images(self, reward: PointwiseReward, groups: Sequence[Group]) -> None:
        asked = [
            ((group.number, place, -1), image, group.prompt)
            for group in groups
            for place, image in enumerate(group.images)
            if image is not None and self._is_new(group.number, place, -1)
        ]
        for start in range(0, len(asked), reward.batch_size):
            keys, images, prompts = zip(*asked[start : start + reward.batch_size], strict=True)
            self._keep(zip(keys, reward(images, prompts), strict=True))

    def _ask_group(self, reward: GroupwiseReward, group: Group) -> None:
        made = [place for place, image in enumerate(group.images) if image is not None]
        if all(not self._is_new(group.number, place, -1) for place in made):
            return
        scores = reward([image for image in group.images if image is not None], group.prompt)
        self._keep(((group.number, place, -1), score) for place, score in zip(made, scores, strict=True))

    def _ask_pairs(self, reward: PairwiseReward, groups: Sequence[Group]) -> None:
        asked = [
            ((group.number, first, second), group.images[first], group.images[second], group.prompt)
            for group in groups
            for first, second in self._shown(group)
            if self._is_new(group.number, first, second)
        ]
        for start in range(0, len(asked), reward.batch_size):
            keys, firsts, seconds, prompts = zip(*asked[start : start + reward.batch_size], strict=True)
            self._keep(zip(keys, reward(firsts, seconds, prompts), strict=True))

    def _shown(self, group: Group) -> list[tuple[int, int]]:
        """All pairs of the group's images, each in the order in which it is shown."""
        made = [place for place, image in enumerate(group.images) if image is not None]
        return [self.shown_first(group.number, low, high) for low in made for high in made if low < high]

    def _table(self, group: Group) -> Tensor:
        table = torch.full((len(group.images), len(group.images)), torch.nan)
        for first, second in self._shown(group):
            score = self._known(group.number, first, second)
            table[first, second], table[second, first] = score, 1 - score
        return table
