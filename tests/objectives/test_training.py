"""Objectives in the loop: cut up as one likes, over-fitted, refused where parts do not fit, and brought by a user."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from toys import assert_same_gradients, batch, engine, gradients, lora_policy, pair_folder, write_config

from t2ialign.config.reader import load
from t2ialign.config.schema import Optim
from t2ialign.errors import InputError
from t2ialign.noisers.forward import ForwardNoiser
from t2ialign.objectives.base import Objective
from t2ialign.objectives.dpo import DiffusionDPO
from t2ialign.objectives.ipo import IPO
from t2ialign.objectives.kto import DiffusionKTO
from t2ialign.objectives.listwise import DiffusionLPO, LiPO
from t2ialign.objectives.mapo import MaPO, MaPOv2
from t2ialign.policy import Policy
from t2ialign.training.offline import compute_loss
from t2ialign.training.preflight import check
from t2ialign.training.run_folder import check_same_config, write_run_manifest
from t2ialign.training.trackers import read_metrics
from t2ialign.training.train import train
from t2ialign.types import Batch, Conditioning

QUIET = Console(quiet=True)
PER_ROW = {
    "variants": DiffusionDPO(beta=100, label_smoothing=0.1, sft_weight=2.0, winner_preserving=0.6, rejected_bound=4.0),
    "ipo": IPO(beta=100),
    "mapo": MaPO(beta=0.1),
    "mapo_v2": MaPOv2(beta=8),
    "lpo": DiffusionLPO(beta=100),
    "lipo": LiPO(beta=100),
}
"""Objectives whose rows know nothing of each other."""


def rows_of(policy: Policy, keys: list[int], objective: Objective) -> Batch:
    """Pairs, or lists of three of which every second has only two."""
    if objective.views == 2:
        return batch(policy, keys)
    made = batch(policy, keys, views=3)
    mask = torch.tensor([[True, True, key % 2 == 0] for key in keys])
    return replace(made, scores=torch.tensor([[3.0, 1.0, 0.5]] * len(keys)), mask=mask)


def step(folder: Path, run_dir: Path, objective: Objective, cuts: list[list[int]]) -> list[torch.Tensor]:
    policy = lora_policy(folder, moved=0.1, dtype=torch.float64)
    made = engine(policy, run_dir, accumulation=len(cuts))
    for keys in cuts:
        rows = rows_of(policy, keys, objective)
        made.update(lambda rows=rows: compute_loss(policy, rows, ForwardNoiser(), objective, 0))
    return gradients(made)


@pytest.mark.parametrize("name", PER_ROW)
def test_accumulation_does_not_change_the_gradient(name: str, sd15_folder: Path, tmp_path: Path):
    whole = step(sd15_folder, tmp_path, PER_ROW[name], [[0, 1, 2, 3]])
    cut = step(sd15_folder, tmp_path, PER_ROW[name], [[0, 1], [2, 3]])
    assert_same_gradients(cut, whole, relative=1e-9)


def test_ktos_baseline_is_a_micro_batchs_own(sd15_folder: Path, tmp_path: Path):
    """The one objective whose micro-batch has a part in what is learnt, as docs/recipes.md says."""
    policy = lora_policy(sd15_folder, moved=0.1, dtype=torch.float64)
    objective = DiffusionKTO(beta=100)

    def losses(keys: list[int]) -> torch.Tensor:
        labels = torch.tensor([[float(key % 2)] for key in keys])
        rows = replace(batch(policy, keys, views=1), scores=labels)
        return compute_loss(policy, rows, ForwardNoiser(), objective, 0).losses

    whole, cut = losses([0, 1, 2, 3]), torch.cat([losses([0, 1]), losses([2, 3])])
    assert not torch.allclose(whole, cut, rtol=1e-3)
    assert (whole - cut).abs().max() < 0.5


def test_ktos_micro_batch_may_not_change_between_two_starts(sd15_folder: Path, tmp_path: Path):
    path = write_config(tmp_path / "c.yaml", model=sd15_folder, pairs=tmp_path, run_dir=tmp_path / "run")
    wider = ["train.micro_batch=4"]
    write_run_manifest(load(path))
    check_same_config(load(path, wider))  # of dpo it may
    path.write_text(path.read_text().replace("name: dpo", "name: kto").replace("name: pairs", "name: labelled"))
    write_run_manifest(load(path))
    check_same_config(load(path))
    with pytest.raises(InputError, match=r"holds a run of another config \(train\.micro_batch: 2 there, 4 now\)"):
        check_same_config(load(path, wider))


def test_other_prompts_are_looked_at_without_gradient_and_change_only_the_baseline(sd15_folder: Path):
    policy = lora_policy(sd15_folder, moved=0.1, dtype=torch.float64)
    rows = replace(batch(policy, [0, 1], views=1), scores=torch.tensor([[1.0], [0.0]]))
    seen: list[tuple[str, bool]] = []
    predict = policy.predict

    def watching(x_t, timesteps, cond, geometry, weights="policy"):
        found = predict(x_t, timesteps, cond, geometry, weights)
        shifted = torch.equal(cond.tokens, rows.cond.tokens.roll(1, 0))
        assert shifted or torch.equal(cond.tokens, rows.cond.tokens)
        seen.append((f"{weights}{' of others' if shifted else ''}", found.requires_grad))
        return found

    policy.predict = watching  # type: ignore[method-assign]
    compute_loss(policy, rows, ForwardNoiser(), DiffusionKTO(beta=100), 0)
    assert seen == [
        ("reference of others", False),
        ("policy of others", False),
        ("reference", False),
        ("policy", True),  # last, so that nothing stands between it and its backward
    ]


def text_pairs(policy: Policy, keys: list[int]) -> Batch:
    """One image a row under two prompts."""
    rows = batch(policy, keys)
    others = batch(policy, [key + 100 for key in keys]).cond.tokens
    tokens = torch.cat([rows.cond.tokens, others], 1)
    return replace(rows, latents=rows.latents[:, :1].expand(-1, 2, -1, -1, -1), cond=Conditioning(tokens))


def steepest(policy: Policy, rows: Batch) -> tuple[list[float], float]:
    """TDPO's losses, and the largest gradient of any trained number."""
    output = compute_loss(policy, rows, ForwardNoiser(), DiffusionDPO(beta=100, rejected_bound=4), 0)
    found = torch.autograd.grad(output.losses.sum(), list(policy.trained_parameters().values()), allow_unused=True)
    return output.losses.tolist(), max(g.abs().max().item() for g in found if g is not None)


def test_equal_prompts_of_a_text_pair_have_loss_ln_2_and_no_gradient(sd15_folder: Path):
    policy = lora_policy(sd15_folder, moved=0.1, dtype=torch.float64)
    rows = text_pairs(policy, [0, 1])
    equal = replace(rows, cond=rows.cond.map(lambda tensor: tensor[:, :1].expand(-1, 2, -1, -1)))
    losses, gradient = steepest(policy, equal)
    assert losses == pytest.approx([math.log(2)] * 2)
    assert gradient < 1e-9
    assert steepest(policy, rows)[1] > 1e-3  # unequal prompts do teach


def test_a_network_that_does_not_read_its_prompt_learns_nothing_from_text_pairs(sd15_folder: Path):
    policy = lora_policy(sd15_folder, moved=0.1, dtype=torch.float64)
    rows = text_pairs(policy, [0, 1])
    predict, null = policy.predict, policy.backbone.null()

    def blind(x_t, timesteps, cond, geometry, weights="policy"):
        return predict(x_t, timesteps, cond.map(lambda _: null.tokens[None].to(cond.tokens)), geometry, weights)

    policy.predict = blind  # type: ignore[method-assign]
    losses, gradient = steepest(policy, rows)
    assert losses == pytest.approx([math.log(2)] * 2)
    assert gradient < 1e-9  # rounding: both views add up to 0


@pytest.mark.parametrize("objective", [DiffusionDPO(beta=300), DiffusionDPO(beta=300, winner_preserving=0.9)])
def test_one_pair_over_fitted_is_ordered_more_and_more(objective: DiffusionDPO, sd15_folder: Path, tmp_path: Path):
    policy = lora_policy(sd15_folder)
    made = engine(policy, tmp_path)
    pair = batch(policy, [0])
    margins = []
    for _ in range(50):
        metrics = made.update(lambda: compute_loss(policy, pair, ForwardNoiser(), objective, 0))
        assert metrics is not None
        margins.append(metrics["margin"])
    assert margins[4] < margins[24] < margins[49]
    assert margins[24] > 0.5
    assert metrics["chosen_change"] < 1e-3


@pytest.mark.parametrize("name", PER_ROW)
def test_at_rate_0_every_step_measures_the_same(name: str, sd15_folder: Path, tmp_path: Path):
    policy = lora_policy(sd15_folder, moved=0.1)
    made = engine(policy, tmp_path, optim=Optim(lr=1e-3).model_copy(update={"lr": 0.0}))
    rows = rows_of(policy, [0, 1], PER_ROW[name])
    seen = []
    for _ in range(3):
        metrics = made.update(lambda: compute_loss(policy, rows, ForwardNoiser(), PER_ROW[name], 0))
        assert metrics is not None
        seen.append({key: value for key, value in metrics.items() if key not in ("step", "samples_seen", "seconds")})
    assert len(seen[0]) > 3
    assert seen[0] == seen[1] == seen[2]


def test_objective_and_data_must_fit(sd15_folder: Path, tmp_path: Path):
    path = write_config(
        tmp_path / "c.yaml", model=sd15_folder, pairs=pair_folder(tmp_path / "pairs"), run_dir=tmp_path / "run"
    )
    text = path.read_text()

    def refused(objective: str, data: str, match: str, *overrides: str) -> None:
        path.write_text(text.replace("{name: dpo, beta: 100}", objective).replace("name: pairs", f"name: {data}"))
        with pytest.raises(InputError, match=match):
            check(load(path, overrides), 1)

    refused("{name: kto, beta: 1}", "pairs", "compares 1 views per example; data 'pairs' yields 2")
    refused("{name: kto, beta: 1}", "singles", "reads labels; data 'singles' has none")
    refused("{name: lipo, beta: 1}", "pairs", "reads scores; data 'pairs' has none")
    refused("{name: kto, beta: 1}", "labelled", "micro_batch must be at least 2", "train.micro_batch=1")


OWN = '''
from typing import ClassVar

from pydantic import Field

from t2ialign.objectives.base import Objective, row_weights
from t2ialign.types import LossOutput


class Hinge(Objective):
    """Hinge on the margin."""

    width: float = Field(gt=0)
    """Margin that is enough."""

    views: ClassVar[int | None] = 2
    required_weights: ClassVar[tuple[str, ...]] = ("reference",)

    def __call__(self, prediction, batch):
        change = prediction.policy_error - prediction.reference_error
        margin = change[:, 1] - change[:, 0]
        loss = (self.width - margin).relu()
        return LossOutput(loss, row_weights(batch, loss), {"margin": margin.detach()})
'''


def test_an_objective_from_outside_needs_nothing_but_a_yaml(
    sd15_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    Path("my_losses.py").write_text(OWN)
    path = write_config(Path("c.yaml"), model=sd15_folder, pairs=pair_folder(Path("pairs")), run_dir=Path("run"))
    text = path.read_text()

    def written(section: str) -> Path:
        path.write_text(text.replace("{name: dpo, beta: 100}", section))
        return path

    train(load(written("{name: my_losses.py:Hinge, width: 0.5}")), console=QUIET)
    rows = [row for row in read_metrics(Path("run/metrics.jsonl")) if "loss" in row]
    assert rows[0]["loss"] == pytest.approx(0.5)  # an untouched policy has margin 0
    assert [row["step"] for row in rows] == [1, 2, 3]
    for section, message in {
        "{name: my_losses.py:Hinge, widht: 0.5}": r"c\.yaml:6: objective\.widht: unknown key; did you mean 'width'\?",
        "{name: my_losses.py:Hinge}": r"c\.yaml:6: objective\.width: this key is missing",
        "{name: my_losses.py:Hinge, width: -1}": r"c\.yaml:6: objective\.width: Input should be greater than 0",
        "{name: my_losses.py:Hinges, width: 1}": r"c\.yaml:6: objective: my_losses\.py has no 'Hinges'",
        "{name: my_loses.py:Hinge, width: 1}": r"my_loses\.py: no such file",
        "{name: my_losses.py:LossOutput, width: 1}": "is not a t2ialign objective",
    }.items():
        with pytest.raises(InputError, match=message):
            load(written(section))
