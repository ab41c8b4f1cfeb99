"""What objectives state of themselves to preflight, loop and report; limits of keys; metrics without a gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from of_errors import outcome
from pydantic import ValidationError

from t2ialign.objectives.base import Objective
from t2ialign.objectives.denoising import Denoising
from t2ialign.objectives.dpo import DiffusionDPO
from t2ialign.objectives.ipo import IPO
from t2ialign.objectives.kto import DiffusionKTO
from t2ialign.objectives.listwise import DiffusionLPO, LiPO
from t2ialign.objectives.mapo import MaPO, MaPOv2

DECLARED: dict[type[Objective], tuple[int | None, tuple[str, ...], tuple[str, ...], bool]] = {
    Denoising: (None, (), (), False),
    DiffusionDPO: (2, ("reference",), (), False),
    IPO: (2, ("reference",), (), False),
    DiffusionKTO: (1, ("reference",), ("labels",), True),
    DiffusionLPO: (None, ("reference",), (), False),
    LiPO: (None, ("reference",), ("scores",), False),
    MaPO: (2, (), (), False),
    MaPOv2: (2, (), (), False),
}
"""Objective -> views, weights that answer beside the policy, fields of the data, whether rows of a batch depend."""
BETA: list[type[Any]] = [DiffusionDPO, IPO, DiffusionKTO, DiffusionLPO, LiPO, MaPO, MaPOv2]


@pytest.mark.parametrize("kind", DECLARED, ids=lambda kind: kind.__name__)
def test_an_objective_declares_what_it_needs(kind: type[Objective]):
    objective: Any = kind() if kind is Denoising else kind.model_validate({"beta": 1})
    declared = (kind.views, objective.required_weights, objective.required_fields, kind.batch_dependent)
    assert declared == DECLARED[kind]


@pytest.mark.parametrize("kind", BETA, ids=lambda kind: kind.__name__)
def test_beta_is_any_number_above_0(kind: type[Any]):
    if kind is MaPOv2:  # an exponent
        assert kind(beta=1).beta == 1
        with pytest.raises(ValidationError, match="greater than or equal to 1"):
            kind(beta=0.99)
        return
    assert kind(beta=1e-6).beta == 1e-6
    for wrong in (0, -1):
        with pytest.raises(ValidationError, match="greater than 0"):
            kind(beta=wrong)


def test_mismatched_prompts_are_asked_for_by_ktos_baseline_alone():
    assert DiffusionKTO(beta=1, baseline="mismatched").needs_mismatched
    assert not DiffusionKTO(beta=1, baseline="batch").needs_mismatched
    assert not any(kind(beta=1).needs_mismatched for kind in BETA if kind is not DiffusionKTO)
    assert not Denoising().needs_mismatched


@pytest.mark.parametrize(
    ("objective", "multiplier"),
    [
        (DiffusionDPO(beta=20), 10),
        (IPO(beta=20), 10),
        (DiffusionLPO(beta=20), 10),
        (LiPO(beta=20), 10),
        (DiffusionKTO(beta=20, baseline="batch"), 20),
        (Denoising(), None),
    ],
)
def test_what_multiplies_the_errors_by_hand(objective: Objective, multiplier: float | None):
    assert objective.margin_multiplier() == multiplier


@pytest.mark.parametrize("kind", [*BETA, Denoising], ids=lambda kind: kind.__name__)
def test_metrics_carry_no_gradient_and_losses_do(kind: type[Any]):
    settings = {} if kind is Denoising else {"beta": 1.0}
    if kind is DiffusionKTO:
        settings["baseline"] = "batch"
    views = 1 if kind is DiffusionKTO else 2
    policy = torch.rand(4, views, requires_grad=True)
    scores = (
        torch.tensor([1.0, 0.0, 1.0, 0.0])[:, None].expand(4, views) if views == 1 else torch.tensor([[1.0, 0.0]] * 4)
    )
    found = outcome(kind(**settings), policy, torch.rand(4, views), scores=scores)
    assert found.losses.requires_grad
    assert found.metrics
    assert not any(metric.requires_grad for metric in found.metrics.values())


def test_denoisings_metric_is_its_loss():
    found = outcome(Denoising(), torch.tensor([[1.0, 3.0]]), torch.zeros(1, 2))
    assert found.metrics["mse"].tolist() == found.losses.tolist()


def test_a_list_of_one_view_among_others_has_finite_metrics():
    found = outcome(
        LiPO(beta=1.0),
        torch.tensor([[1.0, 2.0], [1.0, 2.0]]),
        torch.zeros(2, 2),
        scores=torch.tensor([[1.0, 0.0], [1.0, 0.0]]),
        mask=torch.tensor([[True, True], [True, False]]),
    )
    assert found.losses.isfinite().all()
    assert all(metric.isfinite().all() for metric in found.metrics.values())
    assert found.metrics["margin"].tolist() == [0.5, 0.0]  # -1/2 * (1 - 2), and no pair
