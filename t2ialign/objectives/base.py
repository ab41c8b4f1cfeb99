"""What an objective is."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Literal

from torch import Tensor

from t2ialign.config.component import Component
from t2ialign.types import Batch, LossOutput, Prediction


class Objective(Component):
    """A loss over predictions; a frozen config section that is callable and keeps no state."""

    slot: ClassVar[str] = "objective"
    views: ClassVar[int | None] = None
    """How many views of an example it compares; None for any number."""
    needs_reference: ClassVar[bool] = False
    """Whether the reference's prediction is made for it."""
    reads: ClassVar[Literal["scores", "labels"] | None] = None
    """What it reads from the examples' scores: rewards, or 1 for liked and 0 for disliked images."""
    batch_dependent: ClassVar[bool] = False
    """Whether an example's loss depends on the others of its micro-batch, which then has a part in what is learnt."""
    margin_key: ClassVar[str] = "beta"
    """The key that scales the margin: what to lower where the loss is flat for many examples."""

    @abstractmethod
    def __call__(self, prediction: Prediction, batch: Batch) -> LossOutput:
        """Per-example losses, weights and metrics."""

    @property
    def needs_mismatched(self) -> bool:
        """Whether predictions under another example's prompt are made for it; a micro-batch then has 2 rows or more."""
        return False

    def margin_multiplier(self) -> float | None:
        """What multiplies the difference of mean squared errors inside the log-sigmoid; None where there is none."""
        return None


def row_weights(batch: Batch, losses: Tensor) -> Tensor:
    """What each example counts: the batch's weights, or 1. [N], of the losses' type"""
    return losses.new_ones(len(losses)) if batch.weights is None else batch.weights.to(losses)
