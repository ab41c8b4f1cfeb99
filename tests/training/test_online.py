"""Online training on a tiny model: what is made, judged and learnt; kills; idle rewards; what is refused."""

from __future__ import annotations

import importlib
import json
import logging
import sys
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from jobs import Job
from online_runs import PROMPTS, STEPS, config_of, rows
from rich.console import Console
from toys import pair_folder, saved_lora

from t2ialign.config.reader import load
from t2ialign.config.schema import OnlineConfig
from t2ialign.errors import DataError, InputError, TryAgainError
from t2ialign.objectives.base import Passes
from t2ialign.rollouts.rollout import open_sampler, roll_out
from t2ialign.training import online
from t2ialign.training.core import Core
from t2ialign.training.online import CARRIED, OnlineLoop
from t2ialign.training.online_cost import IterationCost
from t2ialign.training.parallel import SingleProcess
from t2ialign.training.preflight import check
from t2ialign.training.train import open_run, train
from t2ialign.types import Batch

QUIET = Console(quiet=True)


def verdicts(config: OnlineConfig) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (config.run_dir / "verdicts.jsonl").read_text().splitlines()]


def first_batches(config: OnlineConfig, count: int) -> list[Batch]:
    """The first micro-batches of a run, which is not trained."""
    run = open_run(config, SingleProcess())
    assert isinstance(run.loop, OnlineLoop)
    return list(islice(run.loop._iteration(run.core, 0), count))


@pytest.mark.parametrize("objective", ["nft", "awm"])
@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_a_run_makes_judges_and_learns(
    family: str, objective: str, sd15_folder: Path, sdxl_folder: Path, tmp_path: Path
):
    model = sdxl_folder if family == "sdxl" else sd15_folder
    config = config_of(
        tmp_path, model, f"objective.name={objective}", "optim.ema_decay=0.9", "rollout.guidance_scale=2",
        "rollout.eta=1", family=family,
    )  # fmt: skip
    train(config, console=QUIET)
    assert any(tensor.abs().max() > 0 for name, tensor in saved_lora(config.run_dir).items() if "lora_B" in name)
    made = [row for row in rows(config) if "iteration" in row]
    assert [row["iteration"] for row in made] == [0, 1, 2]
    assert all(0 <= row["reward/brightness"] <= 1 for row in made)
    assert [row["step"] for row in rows(config) if "loss" in row] == [1, 2, 3]
    assert len(verdicts(config)) == 3 * 2 * 3


def test_every_prompt_is_taken_once_before_any_comes_again(sd15_folder: Path, tmp_path: Path):
    run = open_run(config_of(tmp_path, sd15_folder), SingleProcess())
    assert isinstance(run.loop, OnlineLoop)
    taken = [run.loop._prompts(run.core, number) for number in range(5)]
    texts = [text for prompts in taken for text in prompts.texts]
    assert sorted(texts[:5]) == sorted(texts[5:]) == sorted(PROMPTS)
    assert texts[:5] != texts[5:]
    assert torch.cat([prompts.groups for prompts in taken]).tolist() == list(range(10))


def test_a_batch_holds_every_draw_of_every_image_with_its_prompt_and_advantage(sd15_folder: Path, tmp_path: Path):
    config = config_of(tmp_path, sd15_folder)
    batches = first_batches(config, 9)
    assert [len(batch) for batch in batches] == [4, 4, 4]
    keys = torch.cat([batch.keys for batch in batches])
    assert sorted(keys.tolist()) == list(range(12))
    latents, rows_, advantages = (
        torch.cat([getattr(batch, name) for batch in batches]) for name in ("latents", "rows", "advantages")
    )
    image = keys // 2
    assert torch.equal(rows_, image // 3)
    scores = {(entry["group"], entry["first"]): entry["score"] for entry in verdicts(config)}
    for number in range(6):
        same = latents[image == number]
        assert torch.equal(same[0], same[1])
        group = torch.tensor([scores[number // 3, place] for place in range(3)], dtype=torch.float64)
        expected = (group[number % 3] - group.mean()) / (group.std(correction=0) + 1e-4)
        assert advantages[image == number].tolist() == pytest.approx([expected.item()] * 2, abs=1e-4)


@pytest.mark.parametrize("batch", [4, *(pytest.param(size, marks=pytest.mark.slow) for size in (1, 6))])
def test_images_and_losses_do_not_depend_on_how_many_are_made_at_once(batch: int, sd15_folder: Path, tmp_path: Path):
    configs = [
        config_of(tmp_path, sd15_folder, "rollout.batch=3", name="one"),
        config_of(tmp_path, sd15_folder, f"rollout.batch={batch}", "train.micro_batch=2", name="other"),
    ]
    one, other = ([row["loss"] for row in rows(config) if "loss" in row] for config in map(trained, configs))
    assert other == pytest.approx(one, rel=1e-4)


def trained(config: OnlineConfig) -> OnlineConfig:
    train(config, console=QUIET)
    return config


def test_images_of_a_prompt_share_their_first_noise_if_asked(sd15_folder: Path, tmp_path: Path):
    for shared in (False, True):
        config = config_of(tmp_path, sd15_folder, f"rollout.shared_noise={str(shared).lower()}")
        run = open_run(config, SingleProcess())
        assert isinstance(run.loop, OnlineLoop)
        prompts = run.loop._prompts(run.core, 0)
        policy = run.core.policy
        rolled = roll_out(policy, config.rollout, prompts, seed=0, batch=6)
        assert torch.allclose(rolled.latents[0, 0], rolled.latents[0, 1], atol=1e-5) is shared
        assert not torch.equal(rolled.latents[0, 0], rolled.latents[1, 0])


def test_the_old_weights_follow_the_policy_bit_by_bit_at_a_decay_of_0(sd15_folder: Path, tmp_path: Path):
    config = config_of(tmp_path, sd15_folder, "rollout.old_decay_rate=0", "train.steps=2")
    run = open_run(config, SingleProcess())
    assert isinstance(run.loop, OnlineLoop)
    policy = run.core.policy
    run.loop.run(run.core, [])
    learner = {name.replace(".learner.", ".old."): p for name, p in policy.trained_parameters().items()}
    assert any(not torch.equal(old, learner[name]) for name, old in policy.old_parameters().items())
    run.loop._advance_old(run.core)
    assert all(torch.equal(old, learner[name]) for name, old in policy.old_parameters().items())


@pytest.mark.parametrize("weights", ["old", "policy"])
def test_images_are_made_by_the_weights_that_the_config_names(weights: str, sd15_folder: Path, tmp_path: Path):
    run = open_run(config_of(tmp_path, sd15_folder, f"rollout.weights={weights}"), SingleProcess())
    assert isinstance(run.loop, OnlineLoop)
    policy = run.core.policy
    before = first_images(run.loop, run.core)
    moved = policy.trained_parameters() if weights == "old" else policy.old_parameters()
    for parameter in moved.values():
        parameter.data.add_(0.1)
    assert torch.equal(first_images(run.loop, run.core), before)
    for parameter in (policy.old_parameters() if weights == "old" else policy.trained_parameters()).values():
        parameter.data.add_(0.1)
    assert not torch.equal(first_images(run.loop, run.core), before)


def first_images(loop: OnlineLoop, core: Core) -> torch.Tensor:
    """The latents of a run's first images, by its weights as they are."""
    return roll_out(core.policy, loop.config.rollout, loop._prompts(core, 0), seed=0, batch=6).latents


def test_before_the_first_update_policy_old_and_reference_agree(sd15_folder: Path, tmp_path: Path):
    config = trained(config_of(tmp_path, sd15_folder, "objective.name=awm", "optim.ema_decay=0.9", "train.steps=1"))
    (row,) = [row for row in rows(config) if "loss" in row]
    assert row["ratio"] == 1
    assert row["kl"] == row["ema_kl"] == 0


def test_several_updates_of_an_iteration_share_its_images_and_are_saved_together(sd15_folder: Path, tmp_path: Path):
    config = config_of(
        tmp_path, sd15_folder, "rollout.updates=3", "train.effective_batch=4", "train.steps=6",
        "checkpoint.every_steps=1",
    )  # fmt: skip
    train(config, console=QUIET)
    assert [row["iteration"] for row in rows(config) if "iteration" in row] == [0, 1]
    assert len(verdicts(config)) == 2 * 6
    saved = sorted(path.name for path in (config.run_dir / "checkpoints").iterdir())
    assert saved == ["step-000003", "step-000006"]


OWN = """
asked = []
def constant(images, prompts):
    return [0.5] * len(images)
def failing(images, prompts):
    return [None] * len(images)
def half(images, prompts):  # of every second prompt
    asked.extend(prompt for prompt in dict.fromkeys(prompts) if prompt not in asked)
    return [None if asked.index(prompt) % 2 else place for place, prompt in enumerate(prompts)]
def brighter(images_a, images_b, prompts):
    level = lambda image: sum(image.convert("L").getdata())
    return [1.0 if level(a) > level(b) else 0.0 for a, b in zip(images_a, images_b)]
def ranks(images, prompt):
    return list(range(len(images)))
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Rewards in a module of the user's."""
    name = f"own_online_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    yield name  # type: ignore[misc]
    sys.modules.pop(name, None)


def test_a_constant_reward_makes_no_step_and_warns_and_then_the_run_stops(
    own: str, sd15_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    config = config_of(tmp_path, sd15_folder, f"rewards=[{own}:constant]")
    run = open_run(config, SingleProcess())
    before = {name: tensor.clone() for name, tensor in run.core.policy.denoiser.state_dict().items()}
    with caplog.at_level(logging.WARNING), pytest.raises(DataError, match="10 iterations in a row had no image better"):
        run.loop.run(run.core, [])
    assert "iteration 1: no image is better than another of its prompt; no optimizer step" in caplog.text
    assert run.core.engine.step == 0
    after = run.core.policy.denoiser.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert int(run.core.engine.carried[CARRIED]["iteration"]) == 10


@pytest.mark.parametrize(("name", "missing"), [("failing", "6 of 6"), ("half", "3 of 6")])
def test_too_many_images_without_a_reward_stop_the_run_before_anything_is_learnt(
    name: str, missing: str, own: str, sd15_folder: Path, tmp_path: Path
):
    config = config_of(tmp_path, sd15_folder, f"rewards=[{own}:{name}]")
    with pytest.raises(DataError, match=rf"{missing} images of an iteration have no reward .*max_failed"):
        train(config, console=QUIET)
    assert not [row for row in rows(config) if "loss" in row]


def test_images_without_a_reward_do_not_count(own: str, sd15_folder: Path, tmp_path: Path):
    config = config_of(tmp_path, sd15_folder, f"rewards=[{own}:half]", "max_failed=0.6", "train.steps=2")
    weights = torch.cat([batch.weights for batch in first_batches(config, 9)])
    assert weights.sum() == 6  # of one group its three images, two draws each
    train(config, console=QUIET)
    assert [row["rollout/failed"] for row in rows(config) if "iteration" in row] == [0.5, 0.5]


@pytest.mark.parametrize("name", ["brighter", "ranks"])
def test_pairwise_and_groupwise_rewards_train_too(name: str, own: str, sd15_folder: Path, tmp_path: Path):
    config = trained(config_of(tmp_path, sd15_folder, f"rewards=[{own}:{name}]", "train.steps=1"))
    assert len(verdicts(config)) == 6  # of three images three pairs, or three ranks, each of two prompts
    (row,) = [row for row in rows(config) if "iteration" in row]
    assert row["rollout/spread"] > 0
    assert ("reward/" + own + ":ranks" in row) is (name == "ranks")


def test_pref_nfts_optimality_is_the_win_rate(own: str, sd15_folder: Path, tmp_path: Path):
    config = config_of(
        tmp_path, sd15_folder, f"rewards=[{own}:brighter]", "objective.clip=1", "advantage.scale=fixed",
        "advantage.of=win_rate", "advantage.fixed_scale=0.5",
    )  # fmt: skip
    advantages = torch.cat([batch.advantages for batch in first_batches(config, 9)])
    assert sorted(((advantages + 1) / 2).tolist()) == [0, 0, 0, 0, 0.5, 0.5, 0.5, 0.5, 1, 1, 1, 1]


@pytest.mark.parametrize("guidance", [1, 3])
@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_before_the_first_update_the_ratio_of_every_step_is_exactly_1(
    family: str, guidance: float, sd15_folder: Path, sdxl_folder: Path, tmp_path: Path
):
    model = sdxl_folder if family == "sdxl" else sd15_folder
    config = config_of(
        tmp_path,
        model,
        *STEPS,
        f"rollout.guidance_scale={guidance}",
        "train.steps=1",
        "train.micro_batch=6",
        family=family,
    )
    (row,) = [row for row in rows(trained(config)) if "loss" in row]
    assert row["ratio_deviation"] == 0
    assert row["grad_norm"] > 0


@pytest.mark.parametrize("keys", ["ratio: normalised", "trust: dppo", "ratio: normalised, trust: dppo"])
def test_normalised_ratios_and_dppo_start_at_1_too_and_learn(keys: str, sd15_folder: Path, tmp_path: Path):
    config = config_of(
        tmp_path, sd15_folder, *STEPS, f"objective={{name: grpo, {keys}}}", "train.steps=3", "train.micro_batch=3",
        "train.effective_batch=6", "rollout.updates=2", "train.steps=2", "optim.lr=0.05",
    )  # fmt: skip
    first, second = [row for row in rows(trained(config)) if "loss" in row]
    assert first["ratio_deviation"] == first["divergence"] == first["clipped"] == 0
    assert second["divergence"] > 1e-5
    if "dppo" in keys:
        assert 0 < second["clipped"] < 1


def test_later_updates_of_an_iteration_have_other_ratios_and_batches_of_another_size_nearly_1(
    sd15_folder: Path, tmp_path: Path
):
    more = ("rollout.updates=3", "train.effective_batch=4", "train.steps=3", "optim.lr=0.05", "objective.trust=none")
    config = config_of(tmp_path, sd15_folder, *STEPS, *more, "rollout.batch=3")
    deviations = [row["ratio_deviation"] for row in rows(trained(config)) if "loss" in row]
    assert deviations[0] < 1e-5
    assert min(deviations[1:]) > 1e-4


def test_the_trained_steps_are_those_that_were_sampled_without_the_last(sd15_folder: Path, tmp_path: Path):
    config = config_of(tmp_path, sd15_folder, *STEPS)
    run = open_run(config, SingleProcess())
    assert isinstance(run.loop, OnlineLoop)
    batches = run.loop._iteration(run.core, 0)
    schedule = run.core.policy.schedule
    visited = open_sampler(run.core.policy, config.rollout)
    levels = visited.levels(torch.tensor([max(visited._descending)]), torch.tensor([-1]))[0].tolist()
    seen: dict[int, set[int]] = {}
    for batch in batches:
        steps = batch.transitions
        assert steps is not None
        for key, at, to in zip(batch.keys.tolist(), steps.at.tolist(), steps.to.tolist(), strict=True):
            assert to == levels[levels.index(at) + 1]
            assert levels.index(at) < 2  # 4 steps, the last 2 are never trained
            seen.setdefault(key // 2, set()).add(at)
        std = schedule.transition_std(steps.at, steps.to, 1.0)
        assert (std > 0).all()
    assert all(len(steps) == 2 for steps in seen.values())  # without repetition
    assert len(seen) == 6


def trained_steps(batches: list[Batch], inference_steps: int) -> dict[int, list[int]]:
    """The numbers of the steps that each image is trained on, by the image's number."""
    found: dict[int, list[int]] = {}
    for batch in batches:
        assert batch.transitions is not None
        for key, at in zip(batch.keys.tolist(), batch.transitions.at.tolist(), strict=True):
            # leading spacing of 1000 timesteps, offset 1
            found.setdefault(key // 2, []).append(inference_steps - 1 - (at - 1) * inference_steps // 1000)
    return found


@pytest.mark.slow
def test_a_window_is_where_all_images_of_an_iteration_have_noise_and_is_trained_whole(
    sd15_folder: Path, tmp_path: Path
):
    config = config_of(
        tmp_path, sd15_folder, *STEPS, "rollout.inference_steps=8", "rollout.window=2", "rollout.shared_noise=true"
    )
    run = open_run(config, SingleProcess())
    assert isinstance(run.loop, OnlineLoop)
    windows: set[int] = set()
    for number in range(12):
        steps = trained_steps(run.loop._iteration(run.core, number), 8)
        assert len(steps) == 6
        (first,) = {min(found) for found in steps.values()}
        assert all(sorted(found) == [first, first + 1] for found in steps.values())
        windows.add(first)
    assert windows >= {0, 4}  # of 0 ... 4, as of 8 steps the last 2 are never trained
    assert windows <= set(range(5))
    images = roll_out(run.core.policy, config.rollout, run.loop._prompts(run.core, 0), seed=0, batch=4, steps=range(2))
    assert images.steps is not None
    x_t = images.steps.x_t.unflatten(0, (2, 3, 2))
    assert x_t.diff(dim=1).abs().max() > 1e-3


def test_before_the_first_update_the_ratio_of_a_windows_steps_is_exactly_1(sd15_folder: Path, tmp_path: Path):
    config = config_of(tmp_path, sd15_folder, *STEPS, "rollout.window=2", "train.steps=1", "train.micro_batch=6")
    (row,) = [row for row in rows(trained(config)) if "loss" in row]
    assert row["ratio_deviation"] == 0
    assert row["grad_norm"] > 0


@pytest.mark.parametrize("more", [(), STEPS], ids=["nft", "grpo"])
def test_the_best_and_the_worst_are_trained_with_the_advantages_of_the_whole_group(
    more: tuple[str, ...], sd15_folder: Path, tmp_path: Path
):
    keys = ("rollout.images=4", "rollout.best_of=2", "train.effective_batch=8")
    config = config_of(tmp_path, sd15_folder, *more, *keys)
    batches = first_batches(config, 9)
    image = torch.cat([batch.keys for batch in batches]) // 2
    assert len(image) == 2 * 2 * 2
    advantages = torch.cat([batch.advantages for batch in batches])
    scores = {(entry["group"], entry["first"]): entry["score"] for entry in verdicts(config)}
    for number in range(2):
        group = torch.tensor([scores[number, place] for place in range(4)], dtype=torch.float64)
        expected = (group - group.mean()) / (group.std(correction=0) + 1e-4)
        for place in (int(group.argmin()), int(group.argmax())):
            found = advantages[image == 4 * number + place]
            assert found.tolist() == pytest.approx([expected[place].item()] * 2, abs=1e-4)
    whole = first_batches(config_of(tmp_path, sd15_folder, *more, keys[0], "train.effective_batch=16", name="all"), 9)
    rows_ = {int(key): x for batch in whole for key, x in zip(batch.keys, batch.latents, strict=True)}
    for batch in batches:
        assert all(torch.equal(rows_[int(key)], x) for key, x in zip(batch.keys, batch.latents, strict=True))


AWAY = """
import threading, time
made, asked, calls = threading.Event(), threading.Event(), []
def overlapping(images, prompts):
    asked.set()
    assert made.wait(60)
    return [float(place) for place in range(len(images))]
def slow(images, prompts):
    time.sleep(0.3 * pauses.pop(0) if pauses else 0)
    return [sum(image.convert("L").getdata()) for image in images]
pauses = []
def away(images, prompts):
    calls.append(len(images))
    if len(calls) <= failures:
        raise ConnectionError("refused")
    return [float(place) for place in range(len(images))]
failures = 2
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Rewards that wait, or that fail at first, and what they were asked."""
    name = f"away_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(AWAY)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module(name)
    sys.modules.pop(name, None)


def test_a_group_is_judged_while_the_next_is_made(module: Any, sd15_folder: Path, tmp_path: Path):
    config = config_of(tmp_path, sd15_folder, f"rewards=[{module.__name__}:overlapping]", "rollout.batch=3")
    run = open_run(config, SingleProcess())
    assert isinstance(run.loop, OnlineLoop)
    decode, decoded = run.core.policy.backbone.decode_latents, []

    def wait(latents: torch.Tensor) -> torch.Tensor:
        decoded.append(len(latents))
        if len(decoded) == 2:  # the reward has the first group before the second one's images exist
            assert module.asked.wait(60)
            module.made.set()
        return decode(latents)

    run.core.policy.backbone.decode_latents = wait
    assert run.loop._iteration(run.core, 0)
    assert decoded == [3, 3]
    assert len(verdicts(config)) == 6


def test_what_is_learnt_does_not_depend_on_when_verdicts_come(module: Any, sd15_folder: Path, tmp_path: Path):
    found = []
    for name, pauses in (("quick", []), ("late", [3, 0]), ("other", [0, 3])):
        module.pauses[:] = pauses
        keys = (f"rewards=[{module.__name__}:slow, brightness]", "rollout.batch=1")
        found.append(first_batches(config_of(tmp_path, sd15_folder, *keys, name=name), 9))
    for quick, late, other in zip(*found, strict=True):
        for field in ("keys", "latents", "advantages"):
            assert torch.equal(getattr(quick, field), getattr(late, field))
            assert torch.equal(getattr(quick, field), getattr(other, field))


def test_a_server_that_is_away_is_waited_for(
    module: Any, sd15_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    waited: list[float] = []
    monkeypatch.setattr(online, "sleep", waited.append)
    config = config_of(tmp_path, sd15_folder, f"rewards=[{module.__name__}:away]", "train.steps=1")
    with caplog.at_level(logging.WARNING):
        train(config, console=QUIET)
    assert sum(waited) == 10
    assert "asking again in 10 s" in caplog.text
    assert len(verdicts(config)) == 6


def test_a_server_that_stays_away_ends_the_run_with_75_and_keeps_what_it_said(
    module: Any, sd15_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(online, "sleep", lambda _: None)
    module.failures = 10**9
    config = config_of(tmp_path, sd15_folder, f"rewards=[brightness, {module.__name__}:away]")
    with pytest.raises(TryAgainError, match=r"refused.*; verdicts that came are kept, and the same command goes on"):
        train(config, console=QUIET)
    assert {entry["group"] for entry in verdicts(config)} == {0, 1}  # of the reward that answered
    module.failures = 0
    train(config, console=QUIET)
    assert [row["step"] for row in rows(config) if "loss" in row] == [1, 2, 3]
    assert len(verdicts(config)) == 2 * 3 * 6


class OnlineJob(Job):
    """The tiny online run, to be killed."""

    def config(self, name: str, workers: int) -> Path:
        config_of(self.folder, self.model, name=name)
        path = self.folder / f"{name}.yaml"
        text = path.read_text().replace("steps: 3, ", f"steps: {self.steps}, ")
        path.write_text(text.replace("objective: {name: nft}", "objective: {name: awm}\nseed: 3"))
        text = path.read_text().replace("optim: {lr: 1e-3}", "optim: {lr: 1e-3, ema_decay: 0.9}")
        for old, new in self.more.items():
            text = text.replace(old, new)
        path.write_text(text)
        return path

    def assert_same(self, name: str) -> None:
        assert self.rows(name) == self.rows("whole")
        found, expected = saved_lora(self.folder / name), saved_lora(self.folder / "whole")
        assert all(torch.equal(found[key], tensor) for key, tensor in expected.items())


KILLED = ["sample:2", "judge:2", "step:2", "after:2", "write:1", "rename:1", "sample:3", "judge:3", "finish"]


@pytest.mark.slow
def test_killed_while_images_are_made_judged_and_learnt_it_goes_on_as_if_nothing_had_happened(
    sd15_folder: Path, tmp_path: Path
):
    job = OnlineJob(tmp_path, sd15_folder, steps=5)
    codes = job.run({"whole": ["finish"], "killed": KILLED, "stopped": ["stop_sample:4", "stop:3", "finish"]})
    assert codes["whole"] == [0], job.log("whole")
    assert codes["killed"] == [-9] * (len(KILLED) - 1) + [0], job.log("killed")
    assert codes["stopped"] == [130, 130, 0], job.log("stopped")
    job.assert_same("killed")
    job.assert_same("stopped")
    kept = (tmp_path / "killed" / "verdicts.jsonl").read_text().splitlines()
    assert len(kept) == len(set(kept)) == 5 * 6  # what had arrived was not asked again


WATCHED = """
import sys, zlib
from pathlib import Path
def watched(images, prompts):
    run = Path(sys.argv[-1]).with_suffix("")
    journal = run / "verdicts.jsonl"
    known = journal.read_text() if journal.is_file() else ""
    scores = [zlib.crc32(image.tobytes()) / 2**32 for image in images]
    with (run / "asked.txt").open("a") as asked:
        for score in scores:
            asked.write(f"{score!r} {'again' if repr(score) in known else 'new'}\\n")
    return scores
"""


def random_moments(count: int, seed: int) -> list[str]:
    """While images are made and judged, in a step, after it, and while a checkpoint is written; at once or a bit later.

    Counted from each start, so that a run gets on by an iteration or two between them.
    """
    random = Random(seed)
    kinds = {"sample": 5, "judge": 5, "after": 2, "write": 8, "rename": 2}
    found = []
    for _ in range(count):
        kind = random.choice(list(kinds))
        moment = f"{kind}:{random.randint(1, kinds[kind])}"
        found.append(moment if kind == "write" or random.random() < 0.5 else f"{moment}+{0.2 * random.random():.3f}")
    return found


@pytest.mark.slow
def test_killed_at_20_random_moments_it_learns_the_same_and_asks_for_no_verdict_that_it_has(
    sd15_folder: Path, tmp_path: Path
):
    (tmp_path / "own.py").write_text(WATCHED)
    job = OnlineJob(tmp_path, sd15_folder, steps=24)
    job.more = {"rewards: [brightness]": f"rewards: ['{tmp_path}/own.py:watched']", "every_steps: 2": "every_steps: 1"}
    codes = job.run({"whole": ["finish"], "killed": [*random_moments(20, seed=1), "finish"]})
    assert codes["whole"] == [0], job.log("whole")
    assert codes["killed"] == [-9] * 20 + [0], job.log("killed")
    job.assert_same("killed")
    asked = [(tmp_path / name / "asked.txt").read_text().splitlines() for name in ("whole", "killed")]
    kept = (tmp_path / "killed" / "verdicts.jsonl").read_text().splitlines()
    assert len(kept) == len(set(kept)) == len(asked[0]) == 24 * 6
    assert not [line for line in asked[1] if line.endswith("again")]
    assert {line.split()[0] for line in asked[1]} == {line.split()[0] for line in asked[0]}
    assert len(asked[1]) - len(kept) <= 20 * 3  # what was answered and not yet kept when it died


GRPO_JOB = {
    "objective: {name: awm}": "objective: {name: grpo}",
    "noiser: {name: forward}": "noiser: {name: transitions}",
    "inference_steps: 2}": "inference_steps: 4, eta: 1, weights: policy}",
}


@pytest.mark.slow
@pytest.mark.parametrize("more", [{}, GRPO_JOB], ids=["awm", "grpo"])
def test_two_processes_share_an_iteration_and_learn_what_one_learns(
    more: dict[str, str], sd15_folder: Path, tmp_path: Path
):
    job = OnlineJob(tmp_path, sd15_folder, steps=3)
    job.more = {"micro_batch: 4": "micro_batch: 2", **more}
    assert job.run({"alone": ["finish"]}) == {"alone": [0]}, job.log("alone")
    codes = job.run({"both": ["step:2@1", "finish"]}, script="killed_ranks.py")
    assert codes == {"both": [-9, 0]}, job.log("both")
    one, two = job.rows("alone"), job.rows("both")
    assert [sorted(row) for row in two] == [sorted(row) for row in one]
    for expected, found in zip(one, two, strict=True):  # gradients are summed in another order
        if more and "loss" in expected:  # a sum of ratios near 1 times advantages that add up to 0
            assert abs(found.pop("loss") - expected.pop("loss")) < 5e-5
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-5 if more else 1e-6)
    if more:  # an update an iteration
        deviations = [row["ratio_deviation"] for row in two if "ratio_deviation" in row]
        assert len(deviations) == 3
        assert max(deviations) < 1e-5
    lines = [(tmp_path / "both" / name).read_text().splitlines() for name in ("verdicts.jsonl", "verdicts-1.jsonl")]
    assert [len(some) for some in lines] == [9, 9]
    together, alone = (
        {(*entry.values(),)[:-1]: entry["score"] for entry in map(json.loads, some)}
        for some in (lines[0] + lines[1], (tmp_path / "alone" / "verdicts.jsonl").read_text().splitlines())
    )
    assert together == pytest.approx(alone, abs=1e-4)  # a pixel may be rounded the other way


NULL = """
import zlib
def null(images, prompts):
    return [zlib.crc32(image.tobytes()) % 1000 / 1000 for image in images]
"""


@pytest.mark.slow
def test_brightness_rises_where_it_is_rewarded_and_not_under_random_rewards(
    sd15_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "own_null.py").write_text(NULL)
    monkeypatch.syspath_prepend(tmp_path)
    gains = {}
    for name, rewards in (("learns", "[brightness]"), ("drifts", "[own_null:null, brightness=1e-9]")):
        config = config_of(
            tmp_path, sd15_folder, *STEPS, f"rewards={rewards}", "rollout.images=8", "train.effective_batch=32",
            "train.micro_batch=16", "train.steps=25", "optim.lr=0.01", "lora.targets=all", "lora.rank=8",
            "checkpoint.every_steps=100", name=name,
        )  # fmt: skip
        bright = [row["reward/brightness"] for row in rows(trained(config)) if "iteration" in row]
        gains[name] = sum(bright[-5:]) / 5 - sum(bright[:5]) / 5
    assert gains["learns"] > 0.007  # measured: .012, and .003
    assert abs(gains["drifts"]) < gains["learns"] / 2


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["objective={name: dpo, beta: 1}"], "objective 'dpo' does not read the advantages of rollouts, and loop is"),
        (["data.name=singles"], "loop 'online' makes its own images; data 'singles' brings some"),
        (["noiser={name: self_rollout, start: noise, weights: reference}"], "noiser 'self_rollout' reads none"),
        (["noiser={name: inversion}"], "noiser 'inversion' asks the network"),
        (["noiser.draws=2"], "noiser.draws is of stored examples"),
        (["data.prompt_dropout=0.1"], "data.prompt_dropout has no part in loop 'online'"),
        (["objective.name=awm"], "objective 'awm' reads the average of the weights; set optim.ema_decay"),
        (
            ["rollout.inference_steps=2000"],
            "rollout.inference_steps 2000: the model has 1000 timesteps; give at most as many",
        ),
        ([*STEPS, "rollout.eta=0"], "objective 'grpo' scores stochastic steps; set rollout.eta=1"),
        ([*STEPS, "rollout.weights=old"], "objective 'grpo' compares the policy with itself"),
        (
            [*STEPS, "rollout.inference_steps=3"],
            r"rollout.timesteps 2: of 3 steps without the last 2 .* 1 can be trained",
        ),
        (
            [*STEPS, "noiser={name: forward}"],
            "objective 'grpo' does not go with noiser 'forward'.* noiser.name=transitions",
        ),
        ([*STEPS, "rollout.window=3"], r"rollout.window 3: of 4 steps without the last 2 .* 2 can have noise"),
        ([*STEPS, "rollout.window=1"], "rollout.timesteps 2: a window of 1 steps .* has no more to train"),
        (["rollout.window=2"], "rollout.window is of the steps that a run trains; 'nft' trains none"),
        (["noiser={name: transitions}"], "objective 'nft' does not go with noiser 'transitions'.* noiser.name=forward"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(overrides: list[str], message: str, sd15_folder: Path, tmp_path: Path):
    pair_folder(tmp_path / "pairs", 2)
    if overrides == ["data.name=singles"]:
        overrides = [*overrides, f"data.path={tmp_path / 'pairs' / 'pairs.csv'}"]
    with pytest.raises(InputError, match=message):
        train(config_of(tmp_path, sd15_folder, *overrides), console=QUIET)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "train.effective_batch=8",
            r"are 12 examples an iteration, and train.effective_batch 8 x rollout.updates 1 = 8",
        ),
        (
            "rollout.best_of=2",
            r"prompts 2 x best_of 2 x timesteps 2 are 8 examples an iteration, and train.effective_batch 12",
        ),
        ("advantage.pairs=2", "advantage.pairs is of pairwise rewards, and there are none; leave it out"),
        ("rollout.best_of=3", "multiple of 2"),
        ("rollout.best_of=4", "best_of 4: a group has 3 images; set it to at most that"),
        ("rewards=[]", "at least 1"),
        ("rewards=[brightnes]", "did you mean 'brightness'"),
        ("rewards=[brightness, brightness=2]", "rewards brightness, brightness: name each once"),
        ("rollout.images=1", "greater than or equal to 2"),
    ],
)
def test_a_config_that_cannot_run_is_refused_where_it_is_read(
    override: str, message: str, sd15_folder: Path, tmp_path: Path
):
    with pytest.raises(InputError, match=message):
        config_of(tmp_path, sd15_folder, override)


@pytest.mark.parametrize(
    ("more", "cost", "passes"),
    [
        # 2 prompts x 3 images x 2 steps; 12 rows of old, reference, policy forward and backward, and a pass a row
        ((), IterationCost(6, 12, 48, 6, 0, 2), Passes(2 + 1, 1, 1)),
        # with guidance two passes a step; of three images two are trained; steps are scored with guidance too
        (
            (*STEPS, "rollout.guidance_scale=3", "rollout.best_of=2", "train.effective_batch=8", "objective.kl=1"),
            IterationCost(6, 48, 48, 6, 0, 2),
            Passes(2 + 48 / 8, 2, 2),
        ),
        # 3 pairs of each prompt, and 3 scores, one a call
        (
            ("rewards=[shapes.prefers, {name: brightness, batch_size: 1}]", "rollout.guidance_scale=3"),
            IterationCost(6, 24, 48, 6, 6, 2 + 6),
            Passes(2 + 2, 1, 1),
        ),
        (
            ("rewards=[shapes.prefers]", "rollout.images=6", "train.effective_batch=24", "advantage.pairs=3"),
            IterationCost(12, 24, 96, 0, 18, 2),
            Passes(2 + 1, 1, 1),
        ),
        (
            ("rewards=[{name: shapes.prefers, order: both, batch_size: 2}]",),
            IterationCost(6, 12, 48, 0, 12, 6),
            Passes(2 + 1, 1, 1),
        ),
    ],
)
def test_preflight_counts_what_an_iteration_takes(
    more: tuple[str, ...], cost: IterationCost, passes: Passes, sd15_folder: Path, tmp_path: Path
):
    plan = check(config_of(tmp_path, sd15_folder, *more), 1)
    assert plan.iteration == cost
    assert plan.passes == passes


def test_a_run_makes_the_passes_and_calls_that_were_announced(sd15_folder: Path, tmp_path: Path):
    config = config_of(tmp_path, sd15_folder, *STEPS, "rollout.guidance_scale=3", "train.steps=1")
    said = Console(file=(tmp_path / "log").open("w"), width=300)
    run = open_run(config, SingleProcess(), said)
    made: list[tuple[bool, int]] = []
    run.core.policy.denoiser.register_forward_hook(lambda _, x, __: made.append((torch.is_grad_enabled(), len(x[0]))))
    run.loop.run(run.core, [])
    said.file.close()
    cost = run.plan.iteration
    assert cost is not None
    assert sum(rows for trains, rows in made if not trains) == cost.sampling
    assert 2 * sum(rows for trains, rows in made if trains) == cost.training
    assert len(verdicts(config)) == cost.scores
    announced = [line.strip() for line in (tmp_path / "log").read_text().splitlines()]
    assert [line for line in announced if line.startswith("an iteration")] == [
        "an iteration: 6 images in 48 UNet passes; 6 scores in 2 calls of rewards; 48 UNet passes of training"
    ]


def test_the_disk_that_a_run_needs_holds_the_old_weights(sd15_folder: Path, tmp_path: Path):
    disks = [
        check(config_of(tmp_path, sd15_folder, *more, "objective.kl=0"), 1).disk
        for more in ((), (*STEPS[1:], STEPS[0], "rollout.weights=policy"))
    ]
    assert disks[0] is not None
    assert disks[1] is not None
    assert 3 * disks[0].checkpoints == 4 * disks[1].checkpoints  # weights and two moments, and the old beside them


@pytest.mark.parametrize(
    ("pairs", "message"),
    [(3, "advantage.pairs 3 x rollout.images 5 is odd"), (5, "advantage.pairs 5: an image has 4 others; leave it out")],
)
def test_a_pairing_that_no_group_has_is_refused(pairs: int, message: str, own: str, sd15_folder: Path, tmp_path: Path):
    keys = (f"rewards=[{own}:brighter]", "rollout.images=5", "train.effective_batch=20")
    with pytest.raises(InputError, match=message):
        config_of(tmp_path, sd15_folder, *keys, f"advantage.pairs={pairs}")


def test_each_image_is_compared_with_as_many_others_as_asked(own: str, sd15_folder: Path, tmp_path: Path):
    keys = (f"rewards=[{own}:brighter]", "rollout.images=5", "train.effective_batch=20", "advantage.pairs=2")
    config = config_of(tmp_path, sd15_folder, *keys)
    first_batches(config, 1)
    found = verdicts(config)
    assert len(found) == 2 * 5
    for group in (0, 1):
        ends = [place for entry in found if entry["group"] == group for place in (entry["first"], entry["second"])]
        assert sorted(ends) == sorted([*range(5)] * 2)


def test_an_objective_of_rollouts_is_refused_by_stored_examples(sd15_folder: Path, tmp_path: Path):
    path = tmp_path / "offline.yaml"
    pairs = pair_folder(tmp_path / "pairs", 2)
    path.write_text(
        f"run_dir: {tmp_path / 'run'}\nbackbone: {{name: sd15, pretrained: {sd15_folder}}}\nlora: {{rank: 2}}\n"
        f"data: {{name: singles, path: {pairs}}}\nnoiser: {{name: forward}}\nobjective: {{name: nft}}\n"
        "optim: {lr: 1e-3}\ntrain: {steps: 1, effective_batch: 2, micro_batch: 2}\n"
    )
    with pytest.raises(InputError, match="objective 'nft' reads the advantages of rollouts, and loop is 'offline'"):
        train(load(path), console=QUIET)
