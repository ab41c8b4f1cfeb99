"""What an objective is."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

from t2ialign.config.component import Component

if TYPE_CHECKING:  # a config is validated without torch
    from torch import Tensor

    from t2ialign.types import Batch, LossOutput, Prediction

FrozenWeights = Literal["reference", "old", "ema"]
"""Weights that answer beside the policy, without a gradient."""
ErrorSpace = Literal["network", "noise", "x0"]
"""In which terms a prediction is wrong."""
ExampleField = Literal["scores", "labels", "advantages", "transitions"]


class Passes(NamedTuple):
    """UNet passes that one example costs, in rows of a batch."""

    reference: float
    """Without gradient, by the frozen weights that the objective reads."""
    forward: int
    """By the policy, with gradient."""
    backward: int
    """By the policy; each costs about two forward passes."""
    mismatched: int = 0
    """Without gradient, under another example's prompt."""

    @property
    def total(self) -> float:
        """All of them, a backward pass counted once."""
        return sum(self)


class Objective(Component):
    """A loss over predictions; a frozen config section that is callable and keeps no state."""

    slot: ClassVar[str] = "objective"
    space: ErrorSpace = "noise"
    """In which terms errors are measured. noise: the noise that a prediction stands for, so that beta means the same
    for epsilon- and v-prediction; v's error counts times alpha_t there, little at the noisiest timesteps, and at zero
    terminal SNR not at all at the last. network: the network's own output, as public v-prediction scripts do. x0: the
    image, whose error is the noise's times sigma_t / alpha_t."""
    views: ClassVar[int | None] = None
    """How many views of an example it compares; None for any number."""
    reads_reference_error_only: ClassVar[bool] = False
    """Whether of the reference nothing but `reference_error` is read, so that with fixed draws it is computed once."""
    batch_dependent: ClassVar[bool] = False
    """Whether an example's loss depends on the others of its micro-batch, which then has a part in what is learnt."""
    margin_key: ClassVar[str] = "beta"
    """The key that scales the margin: what to lower where the loss is flat for many examples."""

    @abstractmethod
    def __call__(self, prediction: Prediction, batch: Batch) -> LossOutput:
        """Per-example losses, weights and metrics."""

    @property
    def required_weights(self) -> tuple[FrozenWeights, ...]:
        """Weights whose predictions are made for it beside the policy's. default: none"""
        return ()

    @property
    def required_fields(self) -> tuple[ExampleField, ...]:
        """What it reads from the examples: `scores` of a reward, or `labels`, 1 for liked and 0 for disliked images."""
        return ()

    @property
    def needs_mismatched(self) -> bool:
        """Whether predictions under another example's prompt are made for it; a micro-batch then has 2 rows or more."""
        return False

    def context(self, prediction: Prediction, batch: Batch) -> Tensor | None:
        """Sums over the rows of this micro-batch, without gradient, that the loss needs of all processes.

        The step adds those of the other processes and hands the totals back as `prediction.context`. default: None
        """
        return None

    def margin_multiplier(self) -> float | None:
        """What multiplies the difference of mean squared errors inside the log-sigmoid; None where there is none."""
        return None

    @property
    def initial_loss(self) -> float | None:
        """The loss while the policy equals its reference, for any data; None where it depends on the data."""
        return None

    def passes(self, views: int) -> Passes:
        """UNet passes of an example of `views` views."""
        mismatched = (1 + len(self.required_weights)) * views if self.needs_mismatched else 0
        return Passes(len(self.required_weights) * views, views, views, mismatched)


def row_weights(batch: Batch, losses: Tensor) -> Tensor:
    """What each example counts: the batch's weights, or 1. [N], of the losses' type"""
    return losses.new_ones(len(losses)) if batch.weights is None else batch.weights.to(losses)
