"""Fixed draws: the reference's error of a draw is computed once, and every later visit sees the same."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor
from toys import batch as toy_batch
from toys import lora_policy, pair_folder, write_config

from t2ialign.config.reader import load
from t2ialign.data.loading.loader import fixed_draws, fixed_keys
from t2ialign.errors import InputError
from t2ialign.noisers.forward import ForwardNoiser
from t2ialign.noisers.inversion import InversionNoiser
from t2ialign.objectives.dpo import DiffusionDPO
from t2ialign.rng import Draws
from t2ialign.training.offline import OfflineLoop, compute_loss
from t2ialign.training.parallel import SingleProcess
from t2ialign.training.preflight import check
from t2ialign.training.reference_errors import ReferenceErrors
from t2ialign.training.trackers import read_metrics
from t2ialign.training.train import open_run, train
from t2ialign.types import Batch

DRAWS = 2
QUIET = Console(quiet=True)


def visit(policy: Any, rows: list[int], epoch: int) -> Batch:
    """The batch of these rows in an epoch."""
    made = toy_batch(policy, rows)
    keys = fixed_keys(made.rows, torch.full_like(made.rows, epoch), DRAWS)
    return made.__class__(keys, made.rows, made.latents, made.cond, made.geometry)


@pytest.mark.parametrize("noiser", [ForwardNoiser(), InversionNoiser(steps=3, weights="reference")])
def test_looked_up_losses_and_gradients_are_the_computed_ones_and_cost_no_reference(noiser: Any, sd15_folder: Path):
    policy = lora_policy(sd15_folder, moved=0.05)
    known = ReferenceErrors(4, DRAWS, 2)
    answers: list[object] = []
    predict = policy.predict
    policy.predict = lambda *rows: answers.append(rows[4:]) or predict(*rows)  # type: ignore[method-assign]

    def losses(rows: list[int], epoch: int, table: ReferenceErrors | None) -> Tensor:
        answers.clear()
        return compute_loss(policy, visit(policy, rows, epoch), noiser, DiffusionDPO(beta=100), 0, known=table).losses

    for epoch in range(DRAWS):
        for rows in ([0, 1], [2, 3]):
            torch.testing.assert_close(losses(rows, epoch, known), losses(rows, epoch, None))
            assert ("reference",) in answers
    parameters = list(policy.trained_parameters().values())
    for epoch in range(DRAWS, 2 * DRAWS):
        warm = losses([3, 1], epoch, known)
        assert answers == [("policy",)]  # the policy's own prediction alone
        cold = losses([3, 1], epoch, None)
        torch.testing.assert_close(warm, cold)
        for one, other in zip(*(torch.autograd.grad(part.sum(), parameters) for part in (warm, cold)), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_a_row_repeats_its_draws_in_turn_and_no_other_rows(sd15_folder: Path):
    rows = torch.arange(5)
    keys = torch.stack([fixed_keys(rows, torch.full_like(rows, epoch), 3) for epoch in range(6)])
    assert torch.equal(keys[:3], keys[3:])
    assert len(set(keys[:3].flatten().tolist())) == 15
    assert keys.max() < 0  # no global sample number
    assert torch.equal(fixed_draws(keys, 3), (torch.arange(6) % 3)[:, None].expand(-1, 5))


def test_what_is_known_stays_as_it_was(sd15_folder: Path):
    policy = lora_policy(sd15_folder)
    known = ReferenceErrors(4, DRAWS, 2)
    first, again = visit(policy, [0, 1], 0), visit(policy, [1, 2], 0)
    known.share(first, torch.tensor([[1.0, 2.0], [3.0, 4.0]]), SingleProcess())
    assert known.find(again) is None
    known.share(again, torch.tensor([[30.0, 40.0], [5.0, 6.0]]), SingleProcess())
    found = known.find(again)
    assert found is not None
    assert found.tolist() == [[3.0, 4.0], [5.0, 6.0]]
    assert known.find(visit(policy, [0, 1], 1)) is None  # another draw


class Two(SingleProcess):
    """A process of two, with what the other sends."""

    world_size = 2

    def __init__(self, rank: int):
        self.rank = rank
        self.other = torch.zeros(())

    def sum(self, values: Tensor) -> Tensor:
        self.sent = values
        return values + self.other


def test_processes_share_what_each_computed(sd15_folder: Path):
    policy = lora_policy(sd15_folder)
    processes = [Two(0), Two(1)]
    tables = [ReferenceErrors(4, 1, 2) for _ in processes]
    batches = [visit(policy, [0, 1], 0), visit(policy, [2, 3], 0)]
    values = [torch.tensor([[1.0, 2.0], [3.0, 4.0]]), None]  # the second had found its own
    for _ in range(2):  # the first round only fills in what the other sends
        for process, table, batch, errors in zip(processes, tables, batches, values, strict=True):
            ReferenceErrors(4, 1, 2).share(batch, errors, process)
            table.share(batch, errors, process)
        for process, other in zip(processes, processes[::-1], strict=True):
            process.other = other.sent
    for table in tables:
        found = table.find(batches[0])
        assert found is not None
        assert found.tolist() == [[1.0, 2.0], [3.0, 4.0]]
        assert table.find(batches[1]) is None


def config_of(folder: Path, model: Path, run_dir: str, *overrides: str) -> Any:
    if not (folder / "pairs").is_dir():
        pair_folder(folder / "pairs", 4)
    path = write_config(
        folder / f"{run_dir}.yaml", model=model, pairs=folder / "pairs" / "pairs.csv", run_dir=folder / run_dir
    )
    return load(path, ["noiser.draws=2", "data.prompt_dropout=0.3", "train.steps=4", *overrides])


def losses_of(run_dir: Path) -> list[float]:
    return [row["loss"] for row in read_metrics(run_dir / "metrics.jsonl") if "loss" in row]


def test_a_run_that_is_stopped_goes_on_equal_bit_by_bit(sd15_folder: Path, tmp_path: Path):
    whole = config_of(tmp_path, sd15_folder, "whole", "checkpoint.every_steps=1")
    train(whole, console=QUIET)
    cut = config_of(tmp_path, sd15_folder, "cut", "checkpoint.every_steps=1")

    def stop(engine: Any) -> None:
        if engine.step == 3 and not (cut.run_dir / "stopped").exists():
            (cut.run_dir / "stopped").touch()
            raise InputError("stopped")

    with pytest.raises(InputError, match="stopped"):
        train(cut, console=QUIET, hooks=[stop])
    train(cut, console=QUIET, hooks=[stop])
    assert len(losses_of(whole.run_dir)) == 4
    assert losses_of(whole.run_dir) == losses_of(cut.run_dir)


def test_epochs_of_a_run_repeat_timestep_noise_latent_and_dropped_prompts(sd15_folder: Path, tmp_path: Path):
    config = config_of(tmp_path, sd15_folder, "run", "train.micro_batch=4", "train.effective_batch=4")
    run = open_run(config, SingleProcess())
    assert isinstance(run.loop, OfflineLoop)
    epochs = []
    for batch in islice(run.loop.batches(run.core), 6):
        order = batch.rows.argsort()
        noised = config.noiser(batch, run.core.policy, run.core.policy.schedule, Draws(0, batch.keys))
        epochs.append([part[order] for part in (noised.x_t, noised.timesteps, batch.latents, batch.cond.tokens)])
    for epoch in range(4):
        for one, other in zip(epochs[epoch], epochs[epoch + 2], strict=True):
            assert torch.equal(one, other)
    assert not torch.equal(epochs[0][0], epochs[1][0])


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (("noiser.draws=4",), "noiser.draws is 4, and the run visits each example 4 times: no draw recurs"),
        (
            ("noiser={name: inversion, draws: 2}",),
            "noiser 'inversion' follows the policy; set noiser.weights=reference",
        ),
        (("objective={name: mapo, beta: 0.1}",), "objective 'mapo' reads no error of a reference alone"),
    ],
)
def test_draws_that_save_nothing_are_refused(overrides: tuple[str, ...], says: str, sd15_folder: Path, tmp_path: Path):
    with pytest.raises(InputError, match=says):
        check(config_of(tmp_path, sd15_folder, "run", *overrides), 1)


def test_the_plan_says_how_often_an_example_is_visited(sd15_folder: Path, tmp_path: Path):
    assert check(config_of(tmp_path, sd15_folder, "run", "train.steps=5"), 1).visits == 5


def test_errors_that_are_not_finite_are_the_losses_own_and_never_known(sd15_folder: Path):
    policy = lora_policy(sd15_folder)
    known = ReferenceErrors(2, DRAWS, 2)
    batch = visit(policy, [0, 1], 0)
    batch.latents[1, 0, 0, 0, 0] = torch.nan
    losses = compute_loss(policy, batch, ForwardNoiser(), DiffusionDPO(beta=100), 0, known=known).losses
    assert losses.isnan().tolist() == [False, True]  # the engine then says which step is not finite
    assert known.find(visit(policy, [0], 0)) is not None
    assert known.find(visit(policy, [1], 0)) is None
