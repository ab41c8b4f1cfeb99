"""What rewards say of groups of images: every verdict is journalled as it comes, and never asked for twice."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from t2ialign.rewards.base import GroupwiseReward, Order, PairwiseReward, PointwiseReward, Reward, Score
from t2ialign.rng import generator, keyed_seed
from t2ialign.rollouts.pairing import regular_pairs
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
        seed: of the order in which the two images of a pair are shown, and of who is compared with whom.
        partners: images that each image of a group is compared with; default: all others.
        order: of the two images of a pair: drawn for each, or both orders, whose mean is the verdict.
    """

    def __init__(
        self,
        reward: Reward,
        journal: Journal[Verdict, VerdictKey],
        seed: int,
        *,
        partners: int | None = None,
        order: Order = "random",
    ):
        self.reward = reward
        self._journal = journal
        self._seed = seed
        self._partners = partners
        self._order = order

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

    def first_shown_wins(self, groups: Sequence[Group]) -> Tensor:
        """How many pairs have a verdict, and in how many the image shown first wins, ties one half. [2]"""
        known = [self._known(group.number, *pair) for group in groups for pair in self._shown(group)]
        scores = torch.tensor([score for score in known if not math.isnan(score)], dtype=torch.float64)
        return torch.stack([torch.tensor(float(len(scores))).double(), ((scores - 0.5).sign() / 2 + 0.5).sum()])

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
        self._ask_batches(reward, asked)

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
        self._ask_batches(reward, asked)

    def _ask_batches(self, reward: PointwiseReward | PairwiseReward, asked: Sequence[tuple[Any, ...]]) -> None:
        """Asks, and keeps each answer as it comes: of a reward that takes several calls at once one by one.

        Args:
            asked: the key of a verdict, and the arguments of the question.
        """

        def ask(batch: Sequence[tuple[Any, ...]]) -> None:
            keys, *columns = zip(*batch, strict=True)
            self._keep(zip(keys, reward(*columns), strict=True))

        if reward.calls == 1:
            for start in range(0, len(asked), reward.batch_size):
                ask(asked[start : start + reward.batch_size])
            return
        with ThreadPoolExecutor(reward.calls) as pool:
            done, _ = wait([pool.submit(ask, [one]) for one in asked], return_when=FIRST_EXCEPTION)
            pool.shutdown(cancel_futures=True)  # after a failure only what is under way still comes to its end
        for one in done:
            one.result()

    def _shown(self, group: Group) -> list[tuple[int, int]]:
        """The pairs of the group's images that are judged, each in the order in which it is shown."""
        made = [place for place, image in enumerate(group.images) if image is not None]
        pairs = regular_pairs(made, self._partners, generator(self._seed, "pairs", group.number))
        shown = [self.shown_first(group.number, low, high) for low, high in pairs]
        return [*shown, *((second, first) for first, second in shown)] if self._order == "both" else shown

    def _table(self, group: Group) -> Tensor:
        table = torch.full((len(group.images), len(group.images)), torch.nan)
        for first, second in self._shown(group):
            score = self._known(group.number, first, second)
            table[first, second] = score
            if self._order == "random":
                table[second, first] = 1 - score
        # in both orders the place of an image cancels; a pair that lacks one of them is missing
        return table if self._order == "random" else (table + 1 - table.T) / 2
