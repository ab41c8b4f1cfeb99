"""The denoising loss: supervised fine-tuning on images and prompts."""

from __future__ import annotations

from t2ialign.objectives.base import Objective, row_weights
from t2ialign.types import Batch, LossOutput, Prediction


class Denoising(Objective):
    """Mean squared error of the first view (for pairs, the chosen image) in the network's own parameterisation."""

    name: str = "denoising"

    def __call__(self, prediction: Prediction, batch: Batch) -> LossOutput:
        losses = (prediction.policy[:, 0] - prediction.target[:, 0]).square().mean(dim=(1, 2, 3))
        return LossOutput(losses, row_weights(batch, losses), {"mse": losses.detach()})
