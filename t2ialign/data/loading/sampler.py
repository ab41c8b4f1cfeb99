"""The order of training data, as a pure function: which examples stand at a position of an endless stream.

The cursor counts examples. With one bucket the k-th example is permutation(seed, epoch)[k], whatever the micro-batch.
With several buckets (image shapes that cannot share a batch) an epoch is planned as micro-batches of one bucket each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch

from t2ialign.rng import generator

GROUPS_MIXED = 4
ROWS_MIXED = 256
"""Row groups and rows among which `group_permutation` shuffles at least; no more than a reader of Parquet holds."""


class Group(NamedTuple):
    """One micro-batch: examples that share a bucket."""

    keys: list[int]
    """Global sample numbers, counted over all groups. [m]"""
    examples: list[int]
    """Indices into the data set. [m]"""
    bucket: int
    epochs: list[int]
    """Which pass through the bucket each example belongs to. [m]"""


def permutation(seed: int, bucket: int, epoch: int, size: int) -> np.ndarray:
    """The order in which a bucket's examples are seen in an epoch. [size] int64"""
    return torch.randperm(size, generator=generator(seed, "order", bucket, epoch)).numpy()


def group_permutation(seed: int, bucket: int, epoch: int, groups: np.ndarray) -> np.ndarray:
    """An order in which the groups come in turn, a few mixed at a time: GROUPS_MIXED, and as many more as ROWS_MIXED
    rows take.

    Args:
        groups: of each of the bucket's examples. [size] int64

    Returns:
        the examples in their order. [size] int64
    """
    random = generator(seed, "order", bucket, epoch)
    members = np.split(np.argsort(groups, kind="stable"), np.flatnonzero(np.diff(np.sort(groups))) + 1)
    found: list[np.ndarray] = []
    mixed: list[np.ndarray] = []
    turns = torch.randperm(len(members), generator=random).tolist()
    for place, group in enumerate(turns, start=1):
        mixed.append(members[group])
        is_full = len(mixed) >= GROUPS_MIXED and sum(map(len, mixed)) >= ROWS_MIXED
        if is_full or place == len(turns):
            rows = np.concatenate(mixed)
            found.append(rows[torch.randperm(len(rows), generator=random).numpy()])
            mixed = []
    return np.concatenate(found)


class Order:
    """The endless stream of groups of a data set.

    A bucket's examples are seen in one permutation after another; its group j is that stream's j-th run of
    `micro_batch` examples. The groups that end within epoch e of their bucket make up epoch e, in which the buckets
    alternate at random. So every example is seen once in every permutation, remainders are carried into the next epoch,
    and a position is reached without walking to it.

    Args:
        buckets: indices into the data set, a bucket; none empty.
        seed: of the permutations.
        micro_batch: examples of a group, m >= 1.
        curriculum_scores: of each row of the data set; the first pass through a bucket is then by falling score, what
            is equally easy at random, and only later passes are random.
        row_groups: what is read at once with each row of the data set; rows are then shuffled within a few groups, and
            groups among each other, so that each is read once in a pass.
    """

    def __init__(
        self,
        buckets: Sequence[Sequence[int]],
        *,
        seed: int,
        micro_batch: int,
        curriculum_scores: Sequence[float] | None = None,
        row_groups: Sequence[int] | None = None,
    ):
        if micro_batch < 1 or not buckets or any(len(bucket) == 0 for bucket in buckets):
            raise ValueError(
                f"micro_batch is {micro_batch}, buckets have {[len(b) for b in buckets]} examples; all >= 1"
            )
        self.buckets = buckets
        self.seed = seed
        self.micro_batch = micro_batch
        self.curriculum_scores = None if curriculum_scores is None else np.asarray(curriculum_scores, np.float64)
        self.row_groups = None if row_groups is None else np.asarray(row_groups)
        self._permutations: dict[tuple[int, int], np.ndarray] = {}
        self._turns: tuple[int, np.ndarray] | None = None

    def group(self, number: int) -> Group:
        """The micro-batch at a position of the stream, number >= 0."""
        m = self.micro_batch
        bucket, j = self._bucket_group(number)
        positions = range(j * m, (j + 1) * m)
        examples = [self._example(bucket, position) for position in positions]
        epochs = [position // len(self.buckets[bucket]) for position in positions]
        return Group(list(range(number * m, (number + 1) * m)), examples, bucket, epochs)

    def groups(self, *, cursor: int = 0, rank: int = 0, world_size: int = 1) -> Iterator[Group]:
        """A rank's share of the stream, without end, from the `cursor`-th example on.

        Raises:
            ValueError: the cursor lies within a group.
        """
        if cursor % self.micro_batch:
            raise ValueError(
                f"cursor {cursor} is not a multiple of micro_batch {self.micro_batch}; go on with the micro-batch of "
                "before, or with one that divides it"
            )
        number = cursor // self.micro_batch + rank
        while True:
            yield self.group(number)
            number += world_size

    def visits(self, groups: int) -> list[int]:
        """Of each bucket, how many examples the first so many groups have."""
        epoch = self._epoch(groups)
        turns = self._epoch_turns(epoch)[: groups - self._groups_before(epoch)]
        return [
            self.micro_batch * (self._bucket_groups_before(bucket, epoch) + int(np.count_nonzero(turns == bucket)))
            for bucket in range(len(self.buckets))
        ]

    def _bucket_group(self, number: int) -> tuple[int, int]:
        """(bucket, which of its groups) at a position of the stream."""
        if len(self.buckets) == 1:
            return 0, number
        epoch = self._epoch(number)
        turns = self._epoch_turns(epoch)
        within = number - self._groups_before(epoch)
        bucket = int(turns[within])
        earlier = int(np.count_nonzero(turns[:within] == bucket))
        return bucket, self._bucket_groups_before(bucket, epoch) + earlier

    def _bucket_groups_before(self, bucket: int, epoch: int) -> int:
        return epoch * len(self.buckets[bucket]) // self.micro_batch

    def _groups_before(self, epoch: int) -> int:
        return sum(self._bucket_groups_before(bucket, epoch) for bucket in range(len(self.buckets)))

    def _epoch(self, number: int) -> int:
        """The epoch a position lies in: the last one that begins at or before it."""
        size = sum(len(bucket) for bucket in self.buckets)
        epoch = number * self.micro_batch // size  # never too late: rounding down only delays an epoch's groups
        while self._groups_before(epoch + 1) <= number:
            epoch += 1
        return epoch

    def _epoch_turns(self, epoch: int) -> np.ndarray:
        """The bucket of each group of an epoch."""
        if self._turns is None or self._turns[0] != epoch:
            counts = [
                self._bucket_groups_before(bucket, epoch + 1) - self._bucket_groups_before(bucket, epoch)
                for bucket in range(len(self.buckets))
            ]
            labels = np.repeat(np.arange(len(self.buckets)), counts)
            shuffled = torch.randperm(len(labels), generator=generator(self.seed, "turns", epoch)).numpy()
            self._turns = (epoch, labels[shuffled])
        return self._turns[1]

    def _example(self, bucket: int, position: int) -> int:
        """The example at a position of a bucket's own stream."""
        indices = self.buckets[bucket]
        epoch, within = divmod(position, len(indices))
        order = self._permutations.get((bucket, epoch))
        if order is None:
            order = self._pass(bucket, epoch)
            # the permutation before may still be needed by the next group, older ones are not
            self._permutations = {k: v for k, v in self._permutations.items() if k[0] != bucket or k[1] == epoch - 1}
            self._permutations[(bucket, epoch)] = order
        return indices[int(order[within])]

    def _pass(self, bucket: int, epoch: int) -> np.ndarray:
        """The order of a bucket's examples in one pass. [size]"""
        indices = self.buckets[bucket]
        if self.row_groups is None:
            order = permutation(self.seed, bucket, epoch, len(indices))
        else:
            order = group_permutation(self.seed, bucket, epoch, self.row_groups[np.asarray(indices)])
        if epoch > 0 or self.curriculum_scores is None:
            return order
        curriculum_scores = self.curriculum_scores[np.asarray(indices)[order]]
        return order[np.argsort(-curriculum_scores, kind="stable")]
