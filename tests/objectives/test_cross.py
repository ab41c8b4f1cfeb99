"""What every preference objective has in common, and where each differs: one table, one test a column."""

from __future__ import annotations

import math
from typing import NamedTuple

import pytest
import torch
from of_errors import errors, outcome
from torch import Tensor

from t2ialign.objectives.base import Objective, Passes
from t2ialign.objectives.denoising import Denoising
from t2ialign.objectives.dpo import DiffusionDPO
from t2ialign.objectives.ipo import IPO
from t2ialign.objectives.kto import DiffusionKTO
from t2ialign.objectives.listwise import DiffusionLPO, LiPO
from t2ialign.objectives.mapo import MaPO, MaPOv2
from t2ialign.types import LossOutput


class Case(NamedTuple):
    objective: Objective
    views: int
    start: float | None
    """Loss where policy and reference agree; None where there is no reference."""


CASES = {
    "dpo": Case(DiffusionDPO(beta=20), 2, math.log(2)),
    "cdpo": Case(DiffusionDPO(beta=20, label_smoothing=0.1), 2, math.log(2)),  # both terms are ln 2
    "sdpo": Case(DiffusionDPO(beta=20, winner_preserving=0.5), 2, math.log(2)),
    "tdpo": Case(DiffusionDPO(beta=20, rejected_bound=4), 2, math.log(2)),
    "ipo": Case(IPO(beta=20), 2, 0.25),
    "lpo": Case(DiffusionLPO(beta=20), 3, math.log(6)),
    "lipo": Case(LiPO(beta=20), 3, math.log(2)),  # a weighted mean of ln 2
    "kto": Case(DiffusionKTO(beta=20, baseline="batch"), 1, 0.5),
    "mapo": Case(MaPO(beta=0.1), 2, None),
    "mapo_v2": Case(MaPOv2(beta=8), 2, None),
}
PAIRS = ("dpo", "cdpo", "sdpo", "tdpo", "ipo", "lpo", "lipo")
"""Where only differences between views count."""
FREE = ("mapo", "mapo_v2")
ROWS = 6


def run(case: Case, policy: Tensor, reference: Tensor) -> LossOutput:
    """The objective, with falling scores, or labels 1, 0, 1, 0 … for single views."""
    count, views = policy.shape
    if views == 1:
        scores = (torch.arange(count) % 2 == 0).double()[:, None]
    else:
        scores = -torch.arange(views, dtype=torch.float64).expand(count, views)
    return outcome(case.objective, policy, reference, scores=scores)


def gradient(case: Case, policy: Tensor, reference: Tensor) -> Tensor:
    policy = policy.clone().requires_grad_()
    return torch.autograd.grad(run(case, policy, reference).losses.sum(), policy)[0]


def policy_and_reference(case: Case) -> tuple[Tensor, Tensor]:
    return errors(ROWS, case.views, seed=1), errors(ROWS, case.views, seed=2)


@pytest.mark.parametrize("name", CASES)
def test_an_objective_states_its_initial_loss_where_it_is_the_same_for_any_data(name: str):
    # a Plackett-Luce loss starts at ln(views!), so it depends on how long the lists are
    assert CASES[name].objective.initial_loss == (None if name == "lpo" else CASES[name].start)
    assert DiffusionDPO(beta=1, sft_weight=1).initial_loss is None
    assert LiPO(beta=1, normalise=False).initial_loss is None


@pytest.mark.parametrize(
    ("objective", "views", "passes"),
    [
        (DiffusionDPO(beta=1), 2, Passes(2, 2, 2)),
        (DiffusionLPO(beta=1), 4, Passes(4, 4, 4)),
        (DiffusionKTO(beta=1), 1, Passes(1, 1, 1, 2)),
        (DiffusionKTO(beta=1, baseline="batch"), 1, Passes(1, 1, 1)),
        (MaPO(beta=1), 2, Passes(0, 2, 2)),
        (Denoising(), 1, Passes(0, 1, 1)),
    ],
    ids=str,
)
def test_passes_by_hand(objective: Objective, views: int, passes: Passes):
    assert objective.passes(views) == passes


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.start is not None])
def test_where_policy_and_reference_agree_the_loss_is_known(name: str):
    case = CASES[name]
    policy, _ = policy_and_reference(case)
    output = run(case, policy, policy)
    torch.testing.assert_close(output.losses, torch.full((ROWS,), case.start, dtype=torch.float64))
    torch.testing.assert_close(output.metrics["implicit_accuracy"].double(), torch.full((ROWS,), 0.5).double())
    assert not output.metrics["saturated"].any()


@pytest.mark.parametrize("name", PAIRS)
def test_identical_views_teach_nothing(name: str):
    # every view has one error, so what views pull adds up; lists and pairs alike sum to 0
    case = CASES[name]
    shared = errors(ROWS, 1, seed=1).expand(ROWS, case.views)
    total = gradient(case, shared, torch.full_like(shared, 0.2)).sum(1)
    if name == "sdpo":  # the loser's part is scaled down to (1 - mu): the winner keeps the rest
        assert (total > 0).all()
        return
    torch.testing.assert_close(total, torch.zeros_like(total), atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", FREE)
def test_identical_views_still_teach_what_both_show_without_a_reference(name: str):
    shared = errors(ROWS, 1, seed=1).expand(ROWS, 2)
    total = gradient(CASES[name], shared, shared).sum(1)
    torch.testing.assert_close(total, torch.ones_like(total))  # the SFT term's slope


@pytest.mark.parametrize("name", ["dpo", "sdpo"])
def test_swapping_a_pair_adds_the_margin_to_the_loss(name: str):
    # ln(1 + e^m) - ln(1 + e^-m) = m
    case = CASES[name]
    policy, reference = policy_and_reference(case)
    output, swapped = run(case, policy, reference), run(case, policy.flip(1), reference.flip(1))
    torch.testing.assert_close(swapped.losses - output.losses, output.metrics["margin"])
    torch.testing.assert_close(swapped.metrics["margin"], -output.metrics["margin"])


def test_swapping_a_pair_with_smoothed_labels_adds_the_margin_times_what_is_sure():
    # (1 - e) softplus(-m) + e softplus(m), swapped minus not: (1 - 2e) m
    policy, reference = policy_and_reference(CASES["cdpo"])
    output, swapped = (run(CASES["cdpo"], *pair) for pair in ((policy, reference), (policy.flip(1), reference.flip(1))))
    torch.testing.assert_close(swapped.losses - output.losses, 0.8 * output.metrics["margin"])


def test_swapping_the_prompts_of_a_text_pair_adds_the_margin_to_the_loss_below_the_bound():
    policy, reference = policy_and_reference(CASES["tdpo"])
    close = reference + 0.1 * (policy - reference)  # changes of at most 0.02: the loser adds 0.2 of 4
    output, swapped = (run(CASES["tdpo"], *pair) for pair in ((close, reference), (close.flip(1), reference.flip(1))))
    torch.testing.assert_close(swapped.metrics["margin"], -output.metrics["margin"])
    torch.testing.assert_close(swapped.losses - output.losses, output.metrics["margin"], atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", [name for name in CASES if name not in ("kto", "ipo")])
def test_the_first_view_is_pulled_towards_and_the_last_pushed_away(name: str):
    case = CASES[name]
    policy, reference = policy_and_reference(case)
    found = gradient(case, reference + 0.1 * (policy - reference), reference)  # near the reference: cDPO is below ln 9
    assert (found[:, 0] > 0).all()
    assert (found[:, -1] < 0).all()


@pytest.mark.parametrize("name", [name for name in PAIRS if name not in ("sdpo",)])
def test_what_views_pull_adds_up_to_nothing(name: str):
    case = CASES[name]
    total = gradient(case, *policy_and_reference(case)).sum(1)
    torch.testing.assert_close(total, torch.zeros_like(total), atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", [*FREE, "kto"])
def test_what_views_pull_does_not_cancel_without_pairs_or_without_a_reference(name: str):
    case = CASES[name]
    assert gradient(case, *policy_and_reference(case)).sum(1).abs().min() > 1e-3


@pytest.mark.parametrize("name", [*PAIRS, "kto"])
def test_a_vanishing_beta_teaches_nothing(name: str):
    case = CASES[name]
    weak = case._replace(objective=case.objective.model_copy(update={"beta": 1e-9}))
    assert gradient(weak, *policy_and_reference(case)).abs().max() < 1e-8


@pytest.mark.parametrize("name", CASES)
def test_a_permutation_of_rows_permutes_the_losses(name: str):
    case = CASES[name]
    policy, reference = policy_and_reference(case)
    order = torch.tensor([4, 3, 2, 1, 0, 5])  # keeps even places even, so that labels of singles stay with their rows
    assert (order % 2 == torch.arange(ROWS) % 2).all()
    moved = run(case, policy[order], reference[order]).losses
    torch.testing.assert_close(moved, run(case, policy, reference).losses[order])


@pytest.mark.parametrize("name", PAIRS)
def test_a_constant_added_to_all_views_changes_nothing(name: str):
    case = CASES[name]
    policy, reference = policy_and_reference(case)
    if name == "tdpo":  # the bound is on the loser's own change, not on a difference
        policy = reference + 0.01 * (policy - reference)
    found = run(case, policy + 0.03, reference).losses
    torch.testing.assert_close(found, run(case, policy, reference).losses)


@pytest.mark.parametrize("name", FREE)
def test_a_constant_added_to_both_views_matters_without_a_reference(name: str):
    policy, reference = policy_and_reference(CASES[name])
    found = run(CASES[name], policy + 0.03, reference).losses
    assert (found - run(CASES[name], policy, reference).losses).abs().min() > 0.01


@pytest.mark.parametrize("name", CASES)
def test_any_error_gives_a_finite_loss_and_gradient_in_single_precision(name: str):
    case = CASES[name]
    extreme = torch.tensor([0.0, 1e-8, 0.1, 1.0, 100.0, 1e4])
    policy = torch.stack([extreme.roll(view) for view in range(case.views)], 1).requires_grad_()
    reference = torch.stack([extreme.roll(2 * view + 1) for view in range(case.views)], 1)
    losses = run(case, policy, reference).losses
    assert losses.isfinite().all()
    assert torch.autograd.grad(losses.sum(), policy)[0].isfinite().all()


@pytest.mark.parametrize("name", CASES)
def test_every_preference_says_what_multiplies_errors_and_how_much_is_saturated(name: str):
    case = CASES[name]
    policy, reference = policy_and_reference(case)
    metrics = run(case, policy, reference).metrics
    assert {"implicit_accuracy", "margin", "saturated"} <= set(metrics)
    assert all(not value.requires_grad for value in metrics.values())
    # beta 20: half of it, kto has no 1/2; mapo: 1000 * 0.5 / 2; mapo_v2: 8 / 2
    expected = {"kto": 20, "mapo": 250, "mapo_v2": 4}.get(name, 10)
    assert case.objective.margin_multiplier() == expected


@pytest.mark.parametrize("name", CASES)
def test_rows_of_weight_0_say_so(name: str):
    case = CASES[name]
    policy, reference = policy_and_reference(case)
    scores = torch.tensor([[2.0, 1.0, 0.0][: case.views]] * ROWS)
    weights = torch.tensor([1, 0, 1, 1, 0, 1])
    output = outcome(case.objective, policy, reference, scores=scores, weights=weights)
    assert output.weights.tolist() == [1, 0, 1, 1, 0, 1]
    assert output.weights.dtype == output.losses.dtype
