"""The reference's error of every row, view and fixed draw: computed on the first visit, looked up on later ones."""

from __future__ import annotations

import torch
from torch import Tensor

from t2ialign.config.schema import OnlineConfig, RunConfig
from t2ialign.data.base import Source
from t2ialign.data.loading.loader import fixed_draws
from t2ialign.errors import InputError
from t2ialign.training.parallel import Parallel
from t2ialign.types import Batch

CARRIED = "reference_errors"
"""Name of the table among what a checkpoint carries."""
_TABLE = "errors"


class ReferenceErrors:
    """A table that all processes share; NaN where nothing is known yet.

    Args:
        rows: of the data set.
        draws: fixed draws of a row.
        views: of an example.
        saved: the tensors of an earlier start.
    """

    def __init__(self, rows: int, draws: int, views: int, saved: dict[str, Tensor] | None = None):
        self._draws = draws
        self._table = torch.full((rows, draws, views), torch.nan) if saved is None else saved[_TABLE]
        self._whole = False

    @property
    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint carries; filled in place."""
        return {_TABLE: self._table}

    def find(self, batch: Batch) -> Tensor | None:
        """The errors of a batch, or None where that of a row is not known. [N, V]"""
        found = self._table[batch.rows.cpu(), fixed_draws(batch.keys.cpu(), self._draws)]
        return found[:, : batch.views].to(batch.latents.device) if bool(found.isfinite().all()) else None

    def share(self, batch: Batch, errors: Tensor | None, parallel: Parallel) -> None:
        """Stores what each process computed on all of them; what is known stays as it was.

        Every process calls it for each of its batches until the table is whole.

        Args:
            errors: of this process's batch, or None if it had found them. [N, V]
        """
        if self._whole:
            return
        rows, draws, views = self._table.shape
        sent = torch.zeros(parallel.world_size, len(batch), 2 + views, dtype=torch.float64, device=batch.latents.device)
        if errors is not None:
            sent[parallel.rank, :, 0] = 1
            sent[parallel.rank, :, 1] = batch.rows * draws + fixed_draws(batch.keys, draws)
            sent[parallel.rank, :, 2 : 2 + batch.views] = errors.detach()
        received = parallel.sum(sent).cpu().flatten(0, 1)
        received = received[received[:, 0] > 0]
        places, values = received[:, 1].long(), received[:, 2:].to(self._table.dtype)
        table = self._table.view(rows * draws, views)
        new = table[places].isnan().any(1)
        table[places[new]] = values[new]
        self._whole = not bool(self._table.isnan().any())


def visits_per_row(config: RunConfig, source: Source) -> float:
    """How often the run sees each example, of online training each prompt, on average."""
    if isinstance(config, OnlineConfig):
        return config.train.steps / config.rollout.updates * config.rollout.prompts / len(source)
    return config.train.steps * config.train.effective_batch / len(config.data.epoch_indices(source))


def check_fixed_draws(config: RunConfig, visits: float) -> None:
    """Checks that fixed draws save passes of the reference.

    Raises:
        InputError: nothing can be computed once, or no draw recurs.
    """
    draws, objective = config.noiser.draws, config.objective
    if draws is None:
        return
    if not objective.reads_reference_error_only or objective.needs_mismatched:
        needs = "predictions under other prompts" if objective.needs_mismatched else "no error of a reference alone"
        raise InputError(f"noiser.draws saves the reference's passes; objective '{objective.name}' reads {needs}")
    if config.noiser.follows_policy:
        raise InputError(
            f"noiser.draws saves the reference's passes on a fixed x_t; noiser '{config.noiser.name}' follows the "
            "policy; set noiser.weights=reference, or leave noiser.draws out"
        )
    if visits <= draws:
        raise InputError(
            f"noiser.draws is {draws}, and the run visits each example {visits:.3g} times: no draw recurs; lower it, "
            "or leave it out"
        )
