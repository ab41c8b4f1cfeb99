"""An objective of your own: a hinge on the margin of Diffusion-DPO.

t2ialign train configs/shapes_dpo.yaml 'objective={name: my_objective.py:Hinge, beta: 300}' run_dir=runs/hinge
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from t2ialign import Batch, LossOutput, Objective, Prediction
from t2ialign.objectives.base import FrozenWeights, row_weights


def hinge_loss(policy_error: Tensor, reference_error: Tensor, beta: float, target: float) -> tuple[Tensor, Tensor]:
    """(loss, margin) of each pair: max(0, target - margin), margin = beta / 2 (rejected's change - chosen's). [N] each

    Args:
        policy_error: ||noise - noise_theta||^2 / (C*H*W), views (chosen, rejected). [N, 2]
        reference_error: the same for the frozen reference. [N, 2]
    """
    chosen, rejected = (policy_error - reference_error).unbind(1)
    margin = 0.5 * beta * (rejected - chosen)
    return (target - margin).clamp(min=0), margin


class Hinge(Objective):
    """Stops pulling at a pair once the policy prefers the chosen image by `target`."""

    views: ClassVar[int | None] = 2

    beta: float = Field(gt=0)
    """beta / 2 multiplies the difference of mean squared errors."""
    target: float = Field(1.0, gt=0)
    """Margin at which the loss is 0."""

    @property
    def required_weights(self) -> tuple[FrozenWeights, ...]:
        return ("reference",)

    def __call__(self, prediction: Prediction, batch: Batch) -> LossOutput:
        losses, margin = hinge_loss(prediction.policy_error, prediction.reference_error, self.beta, self.target)
        return LossOutput(losses, row_weights(batch, losses), {"margin": margin.detach()})

    @property
    def initial_loss(self) -> float:
        return self.target
