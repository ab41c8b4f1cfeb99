"""Batches without end, from a cursor: rows are read by workers, all draws are made here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset

from t2ialign.data.base import Source, StoredImage
from t2ialign.data.buckets import by_bucket
from t2ialign.data.encoding.dataset import Encoded, LoadedRows, Reader
from t2ialign.data.encoding.readers import Mirrored
from t2ialign.data.encoding.trajectories import Trajectories
from t2ialign.data.loading.sampler import Group, Order
from t2ialign.errors import UserError
from t2ialign.rng import Draws, keyed_seed
from t2ialign.types import Batch, Conditioning


class _Failure(NamedTuple):
    """An error of the user's data on its way out of a worker: torch would wrap a raised one in a traceback."""

    error: UserError


class _RowReader(Dataset):
    """Reads a micro-batch: rows by their indices, and which of them are mirrored."""

    def __init__(self, reader: Reader):
        self.reader = reader

    def __getitem__(self, visits: tuple[list[int], Mirrored]) -> LoadedRows | _Failure:
        try:
            return self.reader(*visits)
        except UserError as error:
            return _Failure(error)


class Batches:
    """One rank's batches, without end; the same whatever the number of workers.

    Args:
        encoded: the data set.
        seed: of order, posterior draws and prompt dropout.
        micro_batch: examples of a batch, all of one bucket.
        cursor: examples already seen, over all ranks.
        workers: processes that read ahead; 0 reads in this one.
        flip: share of visits at which an example's images are mirrored, in [0, 1).
        prompt_dropout: share of examples that get `null` for their prompt, in [0, 1).
        null: the unconditional conditioning. [1, L, D]
        epoch_indices: the examples of an epoch, by index; default: every example once.
        curriculum_scores: of each example, for a curriculum; see `Order`.
        row_groups: what is read at once with each row of the data set, to shuffle by; see `Order`.
        draws: fixed draws of each example, which later epochs repeat in turn; default: every visit draws anew.
        trajectories: stored inversions, of which each example gets one drawn level; its latent is then the mean of its
            posterior, which was inverted.
        pin_memory: page-locked memory, for copies to a GPU; default: where there is one.

    Raises:
        ValueError: prompt dropout without `null`, or with trajectories, which were inverted under the prompt.
    """

    def __init__(
        self,
        encoded: Encoded,
        *,
        seed: int,
        micro_batch: int,
        world_size: int = 1,
        rank: int = 0,
        cursor: int = 0,
        workers: int = 0,
        flip: float = 0.0,
        prompt_dropout: float = 0.0,
        null: Conditioning | None = None,
        epoch_indices: Sequence[int] | None = None,
        curriculum_scores: Sequence[float] | None = None,
        row_groups: Sequence[int] | None = None,
        draws: int | None = None,
        trajectories: Trajectories | None = None,
        pin_memory: bool | None = None,
    ):
        if prompt_dropout and null is None:
            raise ValueError(f"prompt_dropout is {prompt_dropout}, but no null conditioning was given")
        if prompt_dropout and trajectories is not None:
            raise ValueError("prompt_dropout leaves out the prompt under which stored trajectories were inverted")
        self.encoded = encoded
        self.seed = seed
        self.cursor = cursor
        self.rank, self.world_size = rank, world_size
        self.workers = workers
        self.flip = flip
        self.prompt_dropout = prompt_dropout
        self.null = None if null is None else null.to("cpu", torch.float32)
        self.draws = draws
        self.trajectories = trajectories
        self.pin_memory = torch.cuda.is_available() if pin_memory is None else pin_memory
        indices = range(len(encoded)) if epoch_indices is None else epoch_indices
        self._order = Order(
            by_bucket(indices, encoded.buckets),
            seed=seed,
            micro_batch=micro_batch,
            curriculum_scores=curriculum_scores,
            row_groups=row_groups,
        )

    def __iter__(self) -> Iterator[Batch]:
        """
        Raises:
            UserError: a row cannot be read or encoded.
            ValueError: the cursor lies within a micro-batch.
        """
        groups = self._order.groups(cursor=self.cursor, rank=self.rank, world_size=self.world_size)
        for group, raw in zip(groups, self._raw_rows(), strict=False):
            if isinstance(raw, _Failure):
                raise raw.error
            batch = self._batch(self._keys(group), torch.tensor(group.examples), self.encoded.complete(raw))
            yield _pinned(batch) if self.pin_memory else batch

    def _keys(self, group: Group) -> torch.Tensor:
        """What the randomness of a group's examples is keyed by. [m] int64"""
        if self.draws is None:
            return torch.tensor(group.keys)
        return fixed_keys(torch.tensor(group.examples), torch.tensor(group.epochs), self.draws)

    def _mirrored(self, group: Group) -> Mirrored:
        """Which of a group's examples are mirrored: drawn by row and epoch, or by row and fixed draw."""
        if not self.flip:
            return None
        turns = group.epochs if self.draws is None else [epoch % self.draws for epoch in group.epochs]
        visits = zip(group.examples, turns, strict=True)
        return [keyed_seed(self.seed, "flip", row, turn) < self.flip * 2**63 for row, turn in visits]

    def _raw_rows(self) -> Iterator[LoadedRows | _Failure]:
        groups = self._order.groups(cursor=self.cursor, rank=self.rank, world_size=self.world_size)
        loader = DataLoader(
            _RowReader(self.encoded.reader),
            batch_size=None,
            sampler=((group.examples, self._mirrored(group)) for group in groups),  # type: ignore[arg-type]
            num_workers=self.workers,
            collate_fn=_unchanged,  # type: ignore[arg-type]
            generator=torch.Generator(),  # the workers' seeds must not be drawn from the global generator
        )
        yield from loader

    def _batch(self, keys: torch.Tensor, rows: torch.Tensor, encoded: LoadedRows) -> Batch:
        draws = Draws(self.seed, keys)
        mean, std = encoded.posterior.mean, encoded.posterior.std
        if self.trajectories is not None:
            batch = assemble_batch(keys, rows, encoded, mean, self.encoded.views)
            return self.trajectories.add_to(batch, draws)
        latents = mean + std * draws.normal(tuple(mean.shape[1:]), "posterior")
        batch = assemble_batch(keys, rows, encoded, latents, self.encoded.views)
        if not self.prompt_dropout:
            return batch
        dropped = draws.uniform("dropout") < self.prompt_dropout
        return replace(batch, cond=_without_prompts(batch.cond, dropped, self.null))


def row_groups(source: Source) -> list[int]:
    """A number for each example of what is read at once with its first image: a row group of a Parquet file, an archive
    or, of image files and prompts, nothing."""
    numbers: dict[tuple[Path, int] | None, int] = {}
    found = []
    for example in (source[row] for row in range(len(source))):
        image = example.images[0] if example.images else None
        group = (image.file, image.group) if isinstance(image, StoredImage) else None
        found.append(numbers.setdefault(group, len(numbers)))
    return found


def fixed_keys(rows: torch.Tensor, epochs: torch.Tensor, draws: int) -> torch.Tensor:
    """Keys of rows with fixed draws: below 0, which no global sample number is. [N] int64"""
    return -1 - (rows * draws + epochs % draws)


def fixed_draws(keys: torch.Tensor, draws: int) -> torch.Tensor:
    """Which of its fixed draws each key of `fixed_keys` stands for. [N] int64"""
    return (-1 - keys) % draws


def assemble_batch(
    keys: torch.Tensor, rows: torch.Tensor, encoded: LoadedRows, latents: torch.Tensor, views: int
) -> Batch:
    """The batch of encoded rows: one image is expanded to all views, and padding that all lists share is cut off.

    Args:
        keys: global sample numbers, or those of fixed draws. [N]
        rows: the data set's row of each example. [N]
        encoded: these rows.
        latents: x_0 drawn from the rows' posteriors. [N, V or 1, C, h, w]
    """
    geometry, scores, mask = encoded.geometry, encoded.scores, encoded.mask
    latents = latents.expand(-1, views, -1, -1, -1)
    geometry = None if geometry is None else geometry.expand(-1, views, -1)
    if mask is None:
        return Batch(keys, rows, latents, encoded.cond, geometry, scores)
    longest = int(mask.sum(1).max())
    return Batch(
        keys,
        rows,
        latents[:, :longest],
        encoded.cond,
        None if geometry is None else geometry[:, :longest],
        None if scores is None else scores[:, :longest],
        mask[:, :longest],
    )


def _unchanged(rows: LoadedRows | _Failure) -> LoadedRows | _Failure:
    return rows


def _without_prompts(cond: Conditioning, dropped: torch.Tensor, null: Conditioning | None) -> Conditioning:
    """The conditioning with `null` in the rows where `dropped` [N] holds."""
    assert null is not None

    def replaced(tensor: torch.Tensor, empty: torch.Tensor) -> torch.Tensor:
        rows = dropped.view(-1, *[1] * (tensor.ndim - 1))
        return torch.where(rows, empty.expand_as(tensor), tensor)

    pooled = None
    if cond.pooled is not None:
        assert null.pooled is not None
        pooled = replaced(cond.pooled, null.pooled)
    return Conditioning(replaced(cond.tokens, null.tokens), pooled)


def _pinned(batch: Batch) -> Batch:
    """The batch in page-locked memory."""
    pinned = {}
    for entry in fields(batch):
        value = getattr(batch, entry.name)
        if isinstance(value, Conditioning):
            pinned[entry.name] = value.map(torch.Tensor.pin_memory)
        elif value is not None:
            pinned[entry.name] = value.pin_memory()
    return replace(batch, **pinned)
