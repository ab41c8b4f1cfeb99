"""The denoising loss: supervised fine-tuning on images and prompts."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from t2ialign.objectives.base import ErrorSpace, Objective, row_weights
from t2ialign.types import Batch, LossOutput, Prediction


def pseudo_huber(difference: Tensor, scale: float) -> Tensor:
    """sqrt(d^2 + h^2) - h: d^2 / (2h) for |d| far below h, |d| for |d| far above it.

    Args:
        difference: d, of any shape.
        scale: h > 0, in the units of d.
    """
    return (difference.square() + scale**2).sqrt() - scale


class Denoising(Objective):
    """Error of the first view (for pairs, the chosen image), by default squared, in the network's parameterisation."""

    name: str = "denoising"
    space: ErrorSpace = "network"
    """What is compared: the network's own output; the noise that it stands for, which differs for v-prediction only;
    or x_0, whose error is the noise's times sigma_t / alpha_t, so that high noise counts most (Self-NPO)."""
    loss: Literal["mse", "pseudo_huber"] = "mse"
    """The mean square, or the mean of sqrt(d^2 + h^2) - h."""
    huber_scale: float = Field(1e-3, gt=0)
    """h of the pseudo-Huber loss; 1e-3 in Self-NPO."""

    def __call__(self, prediction: Prediction, batch: Batch) -> LossOutput:
        difference = prediction.difference(prediction.policy, self.space)[:, 0]
        error = difference.square() if self.loss == "mse" else pseudo_huber(difference, self.huber_scale)
        losses = error.mean(dim=(1, 2, 3))
        return LossOutput(losses, row_weights(batch, losses), {self.loss: losses.detach()})
