"""Stored trajectories: inverted once, read by every visit, and what they cost."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from rich.console import Console
from torch import Tensor
from toys import batch as toy_batch
from toys import lora_policy, pair_folder, write_config

from t2ialign.config.reader import load
from t2ialign.errors import InputError
from t2ialign.noisers.inversion import InversionNoiser
from t2ialign.policy import Policy
from t2ialign.rng import Draws
from t2ialign.sampling.inversion import invert, leg_path
from t2ialign.schedules import CLEAN
from t2ialign.training.offline import OfflineLoop
from t2ialign.training.parallel import SingleProcess
from t2ialign.training.preflight import check
from t2ialign.training.train import open_run, train

QUIET = Console(quiet=True)
STORED = "noiser={name: inversion, steps: 4, weights: reference, levels: 3}"


def config_of(folder: Path, model: Path, run_dir: str, *overrides: str) -> Any:
    if not (folder / "pairs").is_dir():
        pair_folder(folder / "pairs", 4)
    table = folder / "pairs" / "pairs.csv"
    path = write_config(folder / f"{run_dir}.yaml", model=model, pairs=table, run_dir=folder / run_dir)
    return load(path, [STORED, *overrides])


def files(run_dir: Path) -> list[Path]:
    return sorted(run_dir.glob("cache/trajectories-*/*.safetensors"))


def test_levels_are_even_and_end_at_the_noisiest_timestep():
    levels = InversionNoiser(weights="reference", levels=4)
    assert levels.drawn(1000) == [249, 499, 749, 999]
    assert InversionNoiser(weights="reference", levels=3, min_timestep=250).drawn(1000) == [499, 749, 999]
    assert InversionNoiser(weights="reference", levels=1, max_timestep=10).drawn(1000) == [9]
    with pytest.raises(InputError, match="levels is 11, of 10 timesteps"):
        InversionNoiser(weights="reference", levels=11, max_timestep=10).drawn(1000)


def test_a_trajectory_is_one_inversion_that_stops_at_each_level(sd15_folder: Path):
    policy = lora_policy(sd15_folder, moved=0.1, dtype=torch.float64)
    noiser = InversionNoiser(steps=8, corrections=1, weights="reference", levels=2)
    batch = toy_batch(policy, [1, 2])
    asked: list[int] = []
    denoise = policy.denoise
    policy.denoise = lambda x, *rest: asked.append(len(x)) or denoise(x, *rest)  # type: ignore[method-assign]
    found = noiser.trajectory(batch, policy, Draws(0, batch.keys))
    assert sum(asked) == len(batch) * noiser.trajectory_passes(2, 1000) == 2 * 2 * 2 * (4 + 4)
    x = batch.latents.flatten(0, 1)
    cond = batch.cond.map(lambda t: t.expand(2, 2, *t.shape[2:]).flatten(0, 1))
    start = CLEAN
    for place, stop in enumerate((499, 999)):
        path = leg_path(start, stop, 4, 4)
        x = invert(policy, x, cond, path, weights="reference", corrections=1)
        torch.testing.assert_close(found[:, place], x.view_as(batch.latents), atol=1e-12, rtol=0)
        start = stop
    assert leg_path(CLEAN, 499, 4, 1).levels.tolist() == [[CLEAN, 125, 250, 374, 499]]
    assert leg_path(CLEAN, 499, 4, 1).asked.tolist() == [[0, 125, 250, 374]]


def stored(config: Any) -> tuple[Any, list[Any]]:
    run = open_run(config, SingleProcess())
    assert isinstance(run.loop, OfflineLoop)
    return run, list(islice(run.loop.batches(run.core), 6))


def test_a_visit_reads_what_was_inverted_and_makes_no_pass(sd15_folder: Path, tmp_path: Path):
    config = config_of(tmp_path, sd15_folder, "run")
    run, batches = stored(config)
    policy: Policy = run.core.policy
    inverted: dict[tuple[int, int], Tensor] = {}
    assert run.loop.encoded is not None
    for batch in batches:
        posterior = run.loop.encoded[batch.rows.tolist()].posterior
        assert torch.equal(batch.latents, posterior.mean)  # not a draw of it
        again = config.noiser.trajectory(batch, policy, Draws(0, batch.keys))
        for place, (row, level) in enumerate(zip(batch.rows.tolist(), batch.levels.tolist(), strict=True)):
            torch.testing.assert_close(batch.inverted[place], again[place, level], atol=1e-4, rtol=1e-4)
            inverted[row, level] = batch.inverted[place]
    assert len({level for _, level in inverted}) == 3
    policy.denoise = None  # type: ignore[assignment]  # a pass would be an error
    noised = config.noiser(batches[0], policy, policy.schedule, Draws(0, batches[0].keys))
    assert torch.equal(noised.x_t, batches[0].inverted)
    assert set(noised.timesteps.flatten().tolist()) <= {332, 665, 999}
    flat = policy.schedule.add_noise(noised.x_0.flatten(0, 1), noised.noise.flatten(0, 1), noised.timesteps.flatten())
    torch.testing.assert_close(flat, noised.x_t.flatten(0, 1), atol=1e-4, rtol=1e-4)


def test_it_goes_on_from_what_is_stored_and_inverts_anew_what_would_differ(sd15_folder: Path, tmp_path: Path):
    train(config_of(tmp_path, sd15_folder, "run"), console=QUIET)
    (shard,) = files(tmp_path / "run")
    before = shard.stat().st_mtime_ns
    shared = f"data.cache.folder={tmp_path / 'run' / 'cache'}"
    train(config_of(tmp_path, sd15_folder, "again", shared, "seed=5"), console=QUIET)
    assert files(tmp_path / "run") == [shard]
    assert shard.stat().st_mtime_ns == before
    for number, change in enumerate(("noiser.steps=5", "noiser.levels=2", "noiser.min_timestep=100")):
        train(config_of(tmp_path, sd15_folder, f"other{number}", shared, change), console=QUIET)
        assert len(files(tmp_path / "run")) == number + 2


def test_prompt_dropout_and_what_follows_the_policy_are_refused(sd15_folder: Path, tmp_path: Path):
    with pytest.raises(InputError, match=r"data.prompt_dropout is 0\.1; set data.prompt_dropout=0, or leave"):
        check(config_of(tmp_path, sd15_folder, "run", "data.prompt_dropout=0.1"), 1)
    reference = {"levels": 3, "weights": "reference"}
    for keys in ({"levels": 3}, {**reference, "grid": "released"}, {**reference, "correction_timestep": "source"}):
        with pytest.raises(
            ValidationError, match="set weights to reference, and leave grid and correction_timestep out"
        ):
            InversionNoiser.model_validate(keys)


def test_the_plan_states_what_it_costs_and_when_it_pays(sd15_folder: Path, tmp_path: Path):
    config = config_of(tmp_path, sd15_folder, "run", "data.cache.dtype=float16")
    plan = check(config, 1)
    cost = plan.trajectories
    assert cost is not None
    assert cost.passes == 2 * (2 + 2 + 2)  # views, and ceil(333 / 250) steps a level
    assert cost.size == 4 * 3 * 2 * 4 * 8 * 8 * 2  # rows, levels, views, latents of 4 x 8 x 8, bytes
    each = sum(max(1, -(-tau * 4 // 1000)) for tau in range(1000)) / 1000  # steps of a view inverted in each visit
    assert cost.pays_after == pytest.approx(6 / each)
    assert plan.passes.reference == 2  # the reference's own; no inversion in a step
    assert plan.disk is not None
    without = check(config_of(tmp_path, sd15_folder, "run", "noiser={name: forward}"), 1)
    assert without.disk is not None
    assert plan.disk.cache - without.disk.cache == cost.size


def test_with_fixed_draws_too_a_warm_step_makes_the_policys_pass_alone(sd15_folder: Path, tmp_path: Path):
    config = config_of(tmp_path, sd15_folder, "run", "noiser.draws=1", "train.steps=3")
    run = open_run(config, SingleProcess())
    answers: list[str] = []
    predict = run.core.policy.predict

    def counted(*rows: Any) -> Tensor:
        answers.append(rows[4] if len(rows) > 4 else "policy")
        return predict(*rows)

    run.core.policy.predict = counted  # type: ignore[method-assign]
    run.loop.run(run.core, [])
    assert answers == ["reference", "policy"] * 2 + ["policy"] * 4
