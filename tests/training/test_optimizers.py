"""Optimizers by name: what they are given, what they remember, and which of their weights are learnt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from schedule_free import ScheduleFreeSGD
from toys import pair_folder, saved_lora, write_config

from t2ialign.config.reader import load
from t2ialign.config.schema import Optim
from t2ialign.errors import InputError
from t2ialign.training.optimization import build_optimizer, check_optimizer, learnt_weights
from t2ialign.training.trackers import read_metrics
from t2ialign.training.train import train

SCHEDULE_FREE = ("optim={name: 'schedule_free:ScheduleFreeSGD', lr: 10, options: {beta: 0.8}}", "train.steps=4")


def optim(**keys: Any) -> Optim:
    return Optim.model_validate({"lr": 0.1, **keys})


def test_any_optimizer_gets_the_rate_and_its_own_options():
    made = build_optimizer(
        optim(name="torch.optim:RMSprop", options={"alpha": 0.5}), [torch.nn.Parameter(torch.ones(2))]
    )
    assert isinstance(made, torch.optim.RMSprop)
    assert (made.param_groups[0]["lr"], made.param_groups[0]["alpha"]) == (0.1, 0.5)
    assert made.param_groups[0]["weight_decay"] == 0  # adamw's key is not its


def test_adamw_takes_options_beside_its_keys():
    (group,) = build_optimizer(
        optim(eps=1e-6, options={"amsgrad": True}), [torch.nn.Parameter(torch.ones(2))]
    ).param_groups
    assert (group["eps"], group["amsgrad"], group["fused"]) == (1e-6, True, None)


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"name": "nowhere_at_all:Muon"}, "optim.name: no module 'nowhere_at_all'"),
        ({"name": "torch.optim:Adm"}, "optim.name: torch.optim has no 'Adm'"),
        ({"name": "torch.nn:Linear"}, "'torch.nn:Linear' is not a torch.optim.Optimizer"),
        ({"name": "torch.optim:SGD", "options": {"momentun": 1}}, "optim.options: torch.optim:SGD: .*'momentun'"),
        ({"options": {"lr": 1}}, "optim.options.lr: write optim.lr"),
    ],
)
def test_what_is_no_optimizer_and_what_it_has_no_option_for_is_refused_before_training(keys: dict, says: str):
    with pytest.raises(InputError, match=says):
        check_optimizer(optim(**keys))


def test_an_optimizer_that_refuses_its_parameters_says_so():
    vector = torch.nn.Parameter(torch.ones(3))
    with pytest.raises(InputError, match=r"optim: torch.optim:Muon cannot be made: Muon only supports 2D"):
        build_optimizer(optim(name="torch.optim:Muon"), [vector])


def test_keys_of_adamw_are_refused_beside_another_optimizer():
    with pytest.raises(ValueError, match=r"eps is a key of adamw; write it as an option of torch.optim:SGD into"):
        optim(name="torch.optim:SGD", eps=1e-3)
    with pytest.raises(ValueError, match=r"unknown optimizer 'adam'. Known: adamw, adamw8bit, or package.module:Class"):
        optim(name="adam")


def test_the_learnt_weights_are_the_average_and_what_was_trained_comes_back_bit_by_bit():
    parameter = torch.nn.Parameter(torch.tensor([1.0]))
    made = ScheduleFreeSGD([parameter], lr=0.3, beta=0.9)
    made.train()
    for gradient in (1.0, 2.0):
        parameter.grad = torch.tensor([gradient])
        made.step()
    trained = parameter.detach().clone()
    with learnt_weights(made):  # the mean of z = 0.7 and 0.1
        assert parameter.item() == pytest.approx(0.4)
    assert torch.equal(parameter, trained)
    assert trained.item() == pytest.approx(0.9 * 0.4 + 0.1 * 0.1)


def test_a_schedule_free_run_stops_goes_on_and_is_looked_at_without_a_change(sd15_folder: Path, tmp_path: Path):
    pairs = pair_folder(tmp_path / "pairs")
    (tmp_path / "prompts.txt").write_text("a cat\n")
    look = [f"validate.prompts={tmp_path / 'prompts.txt'}", "validate.every_steps=1", "validate.inference_steps=1"]

    def losses(name: str, *overrides: str) -> list[float]:
        config = write_config(tmp_path / f"{name}.yaml", model=sd15_folder, pairs=pairs, run_dir=tmp_path / name)
        train(load(config, [*SCHEDULE_FREE, *overrides]), console=Console(quiet=True))
        return [row["loss"] for row in read_metrics(tmp_path / name / "metrics.jsonl") if "loss" in row]

    whole = losses("whole")
    losses("part", "train.steps=2")
    assert losses("part", *look) == whole
    learnt, again = saved_lora(tmp_path / "whole"), saved_lora(tmp_path / "part")
    assert all(torch.equal(learnt[name], again[name]) for name in learnt)
    trained = load_file(tmp_path / "whole" / "checkpoints" / "step-000004" / "trained.safetensors")
    assert sum(t.square().sum() for t in trained.values()) != sum(t.square().sum() for t in learnt.values())
