"""Online training on a tiny model: what is made, judged and learnt; kills; idle rewards; what is refused."""

from __future__ import annotations

import importlib
import json
import logging
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from jobs import Job
from rich.console import Console
from toys import pair_folder, saved_lora

from t2ialign.config.reader import load
from t2ialign.config.schema import OnlineConfig
from t2ialign.errors import DataError, InputError, TryAgainError
from t2ialign.rollouts.rollout import open_sampler, roll_out
from t2ialign.training import online
from t2ialign.training.online import CARRIED, OnlineLoop
from t2ialign.training.parallel import SingleProcess
from t2ialign.training.preflight import check
from t2ialign.training.trackers import read_metrics
from t2ialign.training.train import open_run, train
from t2ialign.types import Batch

QUIET = Console(quiet=True)
PROMPTS = ["a red circle", "a blue square", "a green cross", "two rings", "a cyan diamond"]
TEXT = """
loop: online
run_dir: {run_dir}
backbone: {{name: {family}, pretrained: {model}}}
lora: {{rank: 2, alpha: 4}}
data: {{name: prompts, path: {prompts}}}
rewards: [brightness]
rollout: {{prompts: 2, images: 3, timesteps: 2, inference_steps: 2}}
advantage: {{scale: group_std}}
noiser: {{name: forward}}
objective: {{name: nft}}
optim: {{lr: 1e-3}}
train: {{steps: 3, effective_batch: 12, micro_batch: 4}}
checkpoint: {{every_steps: 2}}
"""


def config_of(folder: Path, model: Path, *overrides: str, family: str = "sd15", name: str = "run") -> OnlineConfig:
    (folder / "prompts.txt").write_text("\n".join(PROMPTS) + "\n")
    path = folder / f"{name}.yaml"
    path.write_text(
        TEXT.format(run_dir=folder / name, model=model, family=family, prompts=folder / "prompts.txt").lstrip()
    )
    config = load(path, list(overrides))
    assert isinstance(config, OnlineConfig)
    return config


def rows(config: OnlineConfig) -> list[dict[str, Any]]:
    return read_metrics(config.run_dir / "metrics.jsonl")


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


@pytest.mark.parametrize("batch", [1, 4, 6])
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
        rolled = roll_out(policy, open_sampler(policy, config.rollout), config.rollout, prompts, seed=0, batch=6)
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


STEPS = (
    "objective={name: grpo}", "noiser={name: transitions}", "rollout.eta=1", "rollout.weights=policy",
    "rollout.inference_steps=4",
)  # fmt: skip


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


AWAY = """
import threading
made, asked, calls = threading.Event(), threading.Event(), []
def overlapping(images, prompts):
    asked.set()
    assert made.wait(60)
    return [float(place) for place in range(len(images))]
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


@pytest.mark.slow
def test_two_processes_share_an_iteration_and_learn_what_one_learns(sd15_folder: Path, tmp_path: Path):
    job = OnlineJob(tmp_path, sd15_folder, steps=3)
    job.more = {"micro_batch: 4": "micro_batch: 2"}
    assert job.run({"alone": ["finish"]}) == {"alone": [0]}, job.log("alone")
    codes = job.run({"both": ["step:2@1", "finish"]}, script="killed_ranks.py")
    assert codes == {"both": [-9, 0]}, job.log("both")
    one, two = job.rows("alone"), job.rows("both")
    assert [sorted(row) for row in two] == [sorted(row) for row in one]
    for expected, found in zip(one, two, strict=True):  # gradients are summed in another order
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-6)
    lines = [(tmp_path / "both" / name).read_text().splitlines() for name in ("verdicts.jsonl", "verdicts-1.jsonl")]
    assert [len(some) for some in lines] == [9, 9]
    assert sorted(lines[0] + lines[1]) == sorted((tmp_path / "alone" / "verdicts.jsonl").read_text().splitlines())


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


def test_the_disk_that_a_run_needs_holds_the_old_weights(sd15_folder: Path, tmp_path: Path):
    disks = [
        check(config_of(tmp_path, sd15_folder, *more, "objective.kl=0"), 1).disk
        for more in ((), (*STEPS[1:], STEPS[0], "rollout.weights=policy"))
    ]
    assert disks[0] is not None
    assert disks[1] is not None
    assert 3 * disks[0].checkpoints == 4 * disks[1].checkpoints  # weights and two moments, and the old beside them


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
