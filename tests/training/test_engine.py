"""What one optimizer step does, and what it refuses."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from toys import batch, dpo, engine, gradients, lora_policy, state

from t2ialign.config.schema import Optim
from t2ialign.errors import DataError, EnvironmentProblem, InputError, Interrupted, TryAgainError
from t2ialign.policy import Policy
from t2ialign.training import checkpoint
from t2ialign.training import engine as engine_module
from t2ialign.training.engine import Engine
from t2ialign.training.loop import train_steps
from t2ialign.training.metrics import window_sums
from t2ialign.training.optimization import (
    LossScale,
    build_optimizer,
    check_optimizer,
    learning_rate,
    pack_state,
    restore_state,
)
from t2ialign.training.parallel import SingleProcess
from t2ialign.training.trackers import Tracker, read_metrics
from t2ialign.types import LossOutput


def scalar_policy(value: float = 1.0) -> Any:
    """The smallest thing an engine can train: one number."""

    class One:
        def __init__(self) -> None:
            self.w = torch.nn.Parameter(torch.tensor([value]))

        def trained_parameters(self) -> dict[str, torch.nn.Parameter]:
            return {"w": self.w}

        def averages(self) -> dict[str, dict[str, torch.Tensor]]:
            return {}

    return One()


def losses(policy: Any, slopes: list[float], weights: list[float] | None = None) -> Callable[[], LossOutput]:
    """Row i's loss is slopes[i] * w."""
    rows = torch.tensor(slopes)
    count = torch.tensor(weights or [1.0] * len(slopes))
    return lambda: LossOutput(rows * policy.w, count, {"slope": rows})


def test_the_gradient_is_the_mean_over_all_rows_that_count(tmp_path: Path):
    # rows of slope 1, 2, 6 with weights 1, 0, 1 and then 4 with weight 2: (1 + 6 + 2 * 4) / (1 + 1 + 2) = 3.75
    policy = scalar_policy()
    made = engine(policy, tmp_path, accumulation=2)
    assert made.update(losses(policy, [1, 2, 6], [1, 0, 1])) is None
    metrics = made.update(losses(policy, [4], [2]))
    assert metrics is not None
    assert gradients(made)[0].item() == pytest.approx(3.75)
    assert metrics["loss"] == pytest.approx(3.75)
    assert metrics["slope"] == pytest.approx(3.75)
    assert metrics["grad_norm"] == pytest.approx(3.75)
    assert metrics["samples_seen"] == 4
    assert made.step == 1


class OneOfTwo(SingleProcess):
    """A process whose twin has the same rows, so that every sum is twice its own."""

    world_size = 2

    def __init__(self, rank: int = 0):
        self.rank = rank
        self.waited = 0

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        return 2 * values

    def reduce_gradients(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        for parameter in parameters:
            assert parameter.grad is not None
            parameter.grad *= 2

    def barrier(self) -> None:
        self.waited += 1


def test_gradients_are_summed_over_the_processes_and_divided_by_the_weight_of_all(tmp_path: Path):
    policy = scalar_policy()
    made = engine(policy, tmp_path, parallel=OneOfTwo())
    metrics = made.update(losses(policy, [1, 3]))
    assert metrics is not None
    assert gradients(made)[0].item() == metrics["loss"] == metrics["grad_norm"] == 2
    assert metrics["samples_seen"] == 4


def test_a_step_starts_without_the_gradients_of_the_one_before(tmp_path: Path):
    policy = scalar_policy()
    made = engine(policy, tmp_path)
    for slope in (3.0, 2.0):
        made.update(losses(policy, [slope]))
        assert gradients(made)[0].item() == slope
        assert policy.w.grad is None


def test_only_the_main_process_writes_and_all_wait_for_its_checkpoint(tmp_path: Path):
    for rank in (1, 0):
        policy, parallel = scalar_policy(), OneOfTwo(rank)
        made = engine(policy, tmp_path, parallel=parallel)
        made.start()
        made.update(losses(policy, [1]))
        made.log({"validation": 0.5})
        made.save_alone()
        assert parallel.waited == 0
        made.save()
        assert parallel.waited == 1
        assert (tmp_path / "checkpoints" / "step-000001").is_dir() == (rank == 0)
        assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")] == ([] if rank else [1, 1])


def test_an_error_before_the_first_step_saves_nothing_and_after_it_the_step(tmp_path: Path):
    policy = scalar_policy()
    made = engine(policy, tmp_path)
    made.save_alone()
    assert not list(tmp_path.iterdir())
    made.update(losses(policy, [1]))
    made.save_alone()
    assert (tmp_path / "checkpoints" / "step-000001").is_dir()


def test_a_checkpoint_of_no_step_yet_is_restored(tmp_path: Path):
    engine(scalar_policy(2.0), tmp_path).save()
    policy = scalar_policy()
    made = engine(policy, tmp_path)
    made.start()
    assert (made.step, policy.w.item()) == (0, 2.0)


def test_seconds_are_those_since_the_start_or_the_step_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    times = iter([100.0, 130.0, 131.0, 133.0, 137.0])  # made, started, three steps
    monkeypatch.setattr(engine_module, "perf_counter", lambda: next(times))
    policy = scalar_policy()
    made = engine(policy, tmp_path)
    made.start()
    found = [made.update(losses(policy, [1])) for _ in range(3)]
    assert [metrics and metrics["seconds"] for metrics in found] == [1, 2, 4]


def test_what_was_recorded_at_the_restored_step_is_known_and_not_that_of_other_steps(tmp_path: Path):
    policy = scalar_policy()
    made = engine(policy, tmp_path)
    assert made.recorded == frozenset()
    made.start()
    for step in (1, 2):
        made.update(losses(policy, [1]))
        made.log({f"validation/{step}": 0.5})
    made.save()
    again = engine(scalar_policy(), tmp_path)
    again.start()
    assert "validation/2" in again.recorded
    assert "validation/1" not in again.recorded


def test_zero_weight_rows_change_nothing(sd15_folder: Path, tmp_path: Path):
    found = []
    for keys, weights in (([1, 2], None), ([1, 2, 3], [1.0, 1.0, 0.0])):
        policy = lora_policy(sd15_folder, moved=0.1)
        made = engine(policy, tmp_path)
        metrics = made.update(lambda p=policy, k=keys, w=weights: dpo(p, batch(p, k, weights=w)))
        assert metrics is not None
        found.append((metrics, gradients(made)))
    for one, other in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(one, other, atol=1e-8, rtol=1e-5)
    for key in ("loss", "margin", "implicit_accuracy"):
        assert found[0][0][key] == pytest.approx(found[1][0][key], rel=1e-5)


def test_a_step_in_which_nothing_counts_is_an_error(tmp_path: Path):
    policy = scalar_policy()
    made = engine(policy, tmp_path)
    with pytest.raises(DataError, match="step 1: no example of this step counts"):
        made.update(losses(policy, [1.0, 2.0], [0.0, 0.0]))
    assert policy.w.item() == 1
    assert policy.w.grad is None


def test_gradients_are_clipped_to_their_norm_and_the_metric_tells_the_norm_before(tmp_path: Path):
    policy = scalar_policy()
    made = engine(policy, tmp_path, optim=Optim(lr=1e-3, max_grad_norm=0.5))
    metrics = made.update(losses(policy, [-8.0]))
    assert metrics is not None
    assert metrics["grad_norm"] == 8
    assert gradients(made)[0].item() == pytest.approx(-0.5)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_stops_before_the_weights_change(sd15_folder: Path, tmp_path: Path, value: float):
    policy = lora_policy(sd15_folder, moved=0.1)
    made = engine(policy, tmp_path)
    made.update(lambda: dpo(policy, batch(policy, [0])))
    before = state(policy)

    def broken() -> LossOutput:
        output = dpo(policy, batch(policy, [1, 2]))
        return LossOutput(output.losses * torch.tensor([1.0, value]), output.weights, output.metrics)

    with pytest.raises(DataError, match=r"step 2 is not finite \(loss .*; at step 1 they were .*Lower optim\.lr"):
        made.update(broken)
    after = state(policy)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert made.step == 1
    assert all(parameter.grad is None for parameter in policy.trained_parameters().values())


def test_a_gradient_that_is_not_finite_stops_although_the_loss_is(sd15_folder: Path, tmp_path: Path):
    policy = lora_policy(sd15_folder, moved=0.1)
    made = engine(policy, tmp_path)
    before = state(policy)

    def broken() -> LossOutput:
        output = dpo(policy, batch(policy, [1]))
        root = (output.losses - output.losses.detach()).sqrt()  # 0, with an infinite slope
        return LossOutput(output.losses + root, output.weights, output.metrics)

    with pytest.raises(DataError, match=r"step 1 is not finite \(loss 0\.\d+, gradient norm (nan|inf)"):
        made.update(broken)
    after = state(policy)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize("half", [False, True])
def test_a_loss_that_is_not_finite_stops_although_the_gradient_is_and_is_no_overflow(tmp_path: Path, half: bool):
    policy = scalar_policy()
    made = engine(policy, tmp_path, half=half)
    for offset, gradient in ((math.nan, 1.0), (math.inf, 1.0), (math.inf, math.inf)):
        with pytest.raises(DataError, match=rf"step 1 is not finite \(loss {offset}, gradient norm {gradient:g}\)"):
            made.update(lambda g=gradient, o=offset: LossOutput(policy.w * g + o, torch.ones(1)))
        assert policy.w.item() == 1
        assert policy.w.grad is None


def test_a_failure_after_a_restart_names_the_numbers_of_the_step_before(tmp_path: Path):
    policy = scalar_policy()
    made = engine(policy, tmp_path)
    made.update(losses(policy, [3.0]))
    made.save()
    policy = scalar_policy()
    again = engine(policy, tmp_path)
    again.start()
    with pytest.raises(DataError, match=r"step 2 is not finite \(.*; at step 1 they were 3 and 3\)"):
        again.update(losses(policy, [math.nan]))


OPTIM = {"lr": 8.0, "warmup_steps": 4, "max_grad_norm": 1.0}


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        # warm-up 1/4 ... 4/4 of 8, then of the 8 steps left: constant; 1 - k/8; (1 + cos(pi k/8)) / 2
        ("constant", [2, 4, 6, 8, 8, 8, 8, 8, 8, 8, 8, 8]),
        ("linear", [2, 4, 6, 8, 8, 7, 6, 5, 4, 3, 2, 1]),
        ("cosine", [2, 4, 6, 8] + [4 * (1 + math.cos(math.pi * k / 8)) for k in range(8)]),
    ],
)
def test_learning_rates_by_hand(schedule: Any, expected: list[float]):
    optim = Optim(**OPTIM, schedule=schedule)
    assert [learning_rate(optim, step, 12) for step in range(12)] == pytest.approx(expected)


def test_a_warm_up_longer_than_the_run_and_none_at_all():
    assert learning_rate(Optim(lr=1.0, warmup_steps=10), 4, 5) == 0.5
    assert learning_rate(Optim(lr=1.0, schedule="linear"), 0, 1) == 1.0


def test_the_optimizer_uses_the_rate_of_its_step(tmp_path: Path):
    policy = scalar_policy()
    made = engine(policy, tmp_path, optim=Optim(lr=0.4, warmup_steps=4), steps=8)
    for expected in (0.1, 0.2, 0.3, 0.4, 0.4):
        metrics = made.update(losses(policy, [1.0]))
        assert metrics is not None
        assert metrics["lr"] == made.optimizer.param_groups[0]["lr"] == pytest.approx(expected)


def test_the_loss_scale_halves_on_overflow_and_grows_after_2000_good_steps():
    scale = LossScale(True)
    assert scale.value == 65536
    assert scale.overflowed()
    assert scale.value == 32768
    for _ in range(2000):
        scale.succeeded()
    assert scale.value == 65536
    scale.value = 1.0
    assert not scale.overflowed()
    idle = LossScale(False)
    assert idle.value == 1
    assert not idle.overflowed()


def test_the_loss_scale_is_restored_with_its_count_of_good_steps(tmp_path: Path):
    policy = scalar_policy()
    made = engine(policy, tmp_path, half=True)
    for _ in range(3):
        made.update(losses(policy, [1e-4]))
    assert (made._scale.value, made._scale.good_steps) == (65536, 3)
    made.save()
    again = engine(scalar_policy(), tmp_path, half=True)
    again.start()
    assert (again._scale.value, again._scale.good_steps) == (65536, 3)
    if again.tracker is not None:
        again.tracker.close()


def test_an_overflow_in_half_precision_skips_the_step_and_then_goes_on(tmp_path: Path):
    policy = scalar_policy()
    policy.w.register_hook(lambda gradient: torch.where(gradient.abs() > 40_000, math.inf, gradient))
    made = engine(policy, tmp_path, half=True)
    assert made.update(losses(policy, [1.0])) is None  # 65,536 overflows
    assert (made.step, policy.w.item(), made.samples_seen) == (0, 1.0, 1)
    metrics = made.update(losses(policy, [1.0]))  # 32,768 does not
    assert metrics is not None
    assert gradients(made)[0].item() == pytest.approx(1.0)
    assert metrics["grad_norm"] == pytest.approx(1.0)


def test_a_gradient_that_overflows_at_every_scale_is_an_error(tmp_path: Path):
    policy = scalar_policy()
    policy.w.register_hook(lambda gradient: gradient * math.inf)
    made = engine(policy, tmp_path, half=True)
    for _ in range(16):
        assert made.update(losses(policy, [1.0])) is None
    with pytest.raises(DataError, match="step 1 is not finite"):
        made.update(losses(policy, [1.0]))


def test_the_average_is_advanced_after_each_step(sd15_folder: Path, tmp_path: Path):
    made_policy = lora_policy(sd15_folder)
    made_policy.backbone.denoiser.requires_grad_(True)
    policy = Policy(made_policy.backbone, full_finetune=True, keeps_reference=False, keeps_ema=True)
    made = engine(policy, tmp_path, optim=Optim(lr=1e-2, ema_decay=0.5, max_grad_norm=1.0))
    before = {name: tensor.clone() for name, tensor in policy.ema_parameters().items()}
    made.update(lambda: LossOutput(policy_norm(policy), torch.ones(1)))
    for name, parameter in policy.trained_parameters().items():
        torch.testing.assert_close(policy.ema_parameters()[name], 0.5 * before[name] + 0.5 * parameter)


def test_the_average_is_restored(sd15_folder: Path, tmp_path: Path):
    def averaged() -> tuple[Policy, Engine]:
        plain = lora_policy(sd15_folder)
        plain.backbone.denoiser.requires_grad_(True)
        policy = Policy(plain.backbone, full_finetune=True, keeps_reference=False, keeps_ema=True)
        return policy, engine(policy, tmp_path, optim=Optim(lr=1e-2, ema_decay=0.5, max_grad_norm=1.0))

    policy, made = averaged()
    made.update(lambda: LossOutput(policy_norm(policy), torch.ones(1)))
    made.save()
    again, resumed = averaged()
    name = next(iter(policy.ema_parameters()))
    assert not torch.equal(again.ema_parameters()[name], policy.ema_parameters()[name])
    resumed.restore(tmp_path / "checkpoints" / "step-000001")
    assert all(torch.equal(average, again.ema_parameters()[name]) for name, average in policy.ema_parameters().items())


def policy_norm(policy: Policy) -> torch.Tensor:
    return torch.stack([p.square().sum() for p in policy.trained_parameters().values()]).sum()[None]


def trained(folder: Path, run_dir: Path, steps: int = 2, **more: Any) -> tuple[Policy, Engine]:
    policy = lora_policy(folder, moved=0.1)
    made = engine(policy, run_dir, **more)
    made.start()
    for step in range(made.step, steps):
        made.update(lambda step=step: dpo(policy, batch(policy, [step])))
    return policy, made


def test_a_restored_engine_goes_on_bit_by_bit(sd15_folder: Path, tmp_path: Path):
    policy, made = trained(sd15_folder, tmp_path / "whole", 5)
    _, first = trained(sd15_folder, tmp_path / "cut", 2)
    first.save()
    again, second = trained(sd15_folder, tmp_path / "cut", 5)
    one, other = state(policy), state(again)
    assert all(torch.equal(one[name], other[name]) for name in one)
    rows = [read_metrics(tmp_path / name / "metrics.jsonl") for name in ("whole", "cut")]
    for row in rows[0] + rows[1]:
        del row["seconds"]
    assert rows[0] == rows[1]
    assert [row["step"] for row in rows[0]] == [1, 2, 3, 4, 5]
    assert second.metrics["loss"] == made.metrics["loss"]
    assert second.samples_seen == made.samples_seen == 5


def test_saving_twice_at_a_step_changes_nothing(sd15_folder: Path, tmp_path: Path):
    _, made = trained(sd15_folder, tmp_path)
    made.save()
    path = tmp_path / "checkpoints" / "step-000002" / "trained.safetensors"
    before = path.stat().st_mtime_ns
    made.save()
    assert path.stat().st_mtime_ns == before


def test_a_checkpoint_of_other_data_is_refused_and_nothing_is_loaded(sd15_folder: Path, tmp_path: Path):
    _, made = trained(sd15_folder, tmp_path, identity={"data": "d1", "backbone": "b1"})
    made.save()
    policy = lora_policy(sd15_folder)
    before = state(policy)
    other = engine(policy, tmp_path, identity={"data": "d2", "backbone": "b1"})
    with pytest.raises(DataError, match=r"step-000002: made with data d1, now it is d2\..*start in a new run_dir"):
        other.start()
    after = state(policy)
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_a_checkpoint_of_another_policy_is_refused(sd15_folder: Path, tmp_path: Path):
    _, made = trained(sd15_folder, tmp_path)
    made.save()
    with pytest.raises(InputError, match=r"step-000002: its weights are not this policy's \(for example 'down_blocks"):
        engine(lora_policy(sd15_folder, targets="attention+ff"), tmp_path).start()


def test_a_torn_newest_checkpoint_is_told_and_the_one_before_is_used(
    sd15_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    _, made = trained(sd15_folder, tmp_path, 1)
    made.save()
    trained(sd15_folder, tmp_path, 2)[1].save()
    path = tmp_path / "checkpoints" / "step-000002" / "trained.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    _, again = trained(sd15_folder, tmp_path, 0)
    assert again.step == 1
    told = capsys.readouterr().out
    assert "step-000002: not used: trained.safetensors has" in told
    _, again = trained(sd15_folder, tmp_path, 2, keep=1)
    again.save()  # over the torn one
    assert checkpoint.newest(tmp_path / "checkpoints", pytest.fail) == tmp_path / "checkpoints" / "step-000002"


def test_a_torn_later_checkpoint_does_not_crowd_out_good_ones(sd15_folder: Path, tmp_path: Path):
    trained(sd15_folder, tmp_path, 1)[1].save()
    trained(sd15_folder, tmp_path, 4)[1].save()
    (tmp_path / "checkpoints" / "step-000004" / "manifest.json").unlink()
    _, made = trained(sd15_folder, tmp_path, 2, keep=1)
    made.save()
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-000002"]


def test_a_full_disk_while_saving_keeps_the_checkpoint_before(
    sd15_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    _, made = trained(sd15_folder, tmp_path, 1)
    made.save()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    _, again = trained(sd15_folder, tmp_path, 2)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", full)
        with pytest.raises(TryAgainError):
            again.save()
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-000001"]
    assert trained(sd15_folder, tmp_path, 0)[1].step == 1


def test_what_a_stop_asks_for_is_saved(sd15_folder: Path, tmp_path: Path):
    policy = lora_policy(sd15_folder)
    made = engine(policy, tmp_path, steps=10)
    losses = (lambda key=key: dpo(policy, batch(policy, [key])) for key in range(100))

    def stop_at_3(found: Engine) -> None:
        found.stop_requested = found.step == 3

    with pytest.raises(Interrupted, match="stopped after step 4; saved"):
        train_steps(made, losses, save_every=100, hooks=[stop_at_3])
    assert checkpoint.newest(tmp_path / "checkpoints", pytest.fail) == tmp_path / "checkpoints" / "step-000004"


def test_a_finished_run_does_nothing(sd15_folder: Path, tmp_path: Path):
    policy = lora_policy(sd15_folder)
    made = engine(policy, tmp_path, steps=3)
    made.step = 3
    train_steps(made, iter(()), save_every=1)
    assert not list(tmp_path.iterdir())


def test_the_record_drops_lost_work_and_half_lines(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    rows = [{"step": step, "loss": step / 7} for step in range(6)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 6, "lo')
    assert read_metrics(path) == rows
    tracker = Tracker(tmp_path, 3)
    tracker.log({"step": 4, "loss": 0.5})
    tracker.close()
    assert read_metrics(path) == [*rows[:4], {"step": 4, "loss": 0.5}]
    Tracker(tmp_path, 0).close()
    assert read_metrics(path) == []


def test_thirty_steps_on_one_pair_teach_it(sd15_folder: Path, tmp_path: Path):
    policy = lora_policy(sd15_folder)
    made = engine(policy, tmp_path, optim=Optim(lr=1e-3, max_grad_norm=1.0))
    seen = [made.update(lambda: dpo(policy, batch(policy, [0, 1]), beta=500.0)) for _ in range(30)]
    first, last = seen[0], seen[-1]
    assert first is not None
    assert last is not None
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert first["implicit_accuracy"] == 0.5
    assert last["implicit_accuracy"] == 1
    assert last["margin"] > 0.2


def test_the_optimizer_has_the_keys_of_its_section():
    optim = Optim(lr=3e-4, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.3)
    parameter = torch.nn.Parameter(torch.ones(2))
    (group,) = build_optimizer(optim, [parameter]).param_groups
    found = (group["params"], group["lr"], group["betas"], group["eps"], group["weight_decay"])
    assert found == ([parameter], 3e-4, (0.8, 0.95), 1e-6, 0.3)


def test_an_optimizer_whose_package_is_missing_is_refused_when_built_and_when_checked(monkeypatch: Any):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    eight_bit = Optim(lr=1, name="adamw8bit")
    for refuse in (lambda: check_optimizer(eight_bit), lambda: build_optimizer(eight_bit, [])):
        with pytest.raises(EnvironmentProblem, match="adamw8bit needs bitsandbytes"):
            refuse()
    check_optimizer(Optim(lr=1))


def test_a_scale_that_is_off_stays_1_however_many_steps_succeed():
    idle = LossScale(False)
    for _ in range(2001):
        idle.succeeded()
    assert idle.value == 1


def test_moments_are_named_by_parameter_and_come_back_whole():
    """Also of optimizers whose state holds plain numbers, and whose entries have dots in their names."""
    parameters = [torch.nn.Parameter(torch.ones(2)) for _ in range(2)]
    optimizer = torch.optim.AdamW(parameters, lr=0.1)
    for parameter in parameters:
        parameter.grad = torch.tensor([1.0, -2.0])
    optimizer.step()
    optimizer.state[parameters[1]]["per.row"] = torch.tensor([7.0])
    optimizer.state[parameters[1]]["count"] = 3
    optimizer.param_groups[0]["distance"] = 0.5
    packed = pack_state(optimizer)
    assert {"0.exp_avg", "1.exp_avg", "1.per.row"} <= set(packed.moments)
    assert packed.numbers == {"1.count": 3, "group.0.distance": 0.5}
    again = torch.optim.AdamW(parameters, lr=0.1)
    again.param_groups[0]["distance"] = 0.0
    restore_state(again, packed)
    assert (again.param_groups[0]["distance"], again.state[parameters[1]]["count"]) == (0.5, 3)
    assert again.state[parameters[1]]["per.row"].item() == 7
    assert torch.equal(again.state[parameters[0]]["exp_avg"], optimizer.state[parameters[0]]["exp_avg"])


def test_a_scale_counts_from_0_after_it_changed_and_is_never_below_1():
    scale = LossScale(True)
    for _ in range(1999):
        scale.succeeded()
    scale.overflowed()
    scale.succeeded()
    assert (scale.value, scale.good_steps) == (32768, 1)
    for _ in range(1999):
        scale.succeeded()
    assert (scale.value, scale.good_steps) == (65536, 0)
    scale.value = 1.0
    assert scale.overflowed() is False
    off = LossScale(False)
    off.value = 4.0  # whatever it is, it cannot be the cause
    assert off.overflowed() is False


def test_the_sums_of_a_window_by_hand():
    outputs = [
        LossOutput(torch.tensor(losses), torch.tensor(weights), {"b": torch.tensor(b), "a": torch.tensor(a)})
        for losses, weights, b, a in (([1.0, 2.0], [1.0, 0.5], [10.0, 20.0], 3.0), ([4.0], [2.0], [5.0], 1.0))
    ]
    names, sums = window_sums(outputs, stop=True)
    assert names == ["a", "b"]
    # 1 * 1 + 2 * 0.5 + 4 * 2; weights; rows; stop; 3 * 1.5 + 1 * 2; 10 + 20 * 0.5 + 5 * 2
    assert sums.tolist() == [10.0, 3.5, 3.0, 1.0, 6.5, 30.0]
    assert window_sums(outputs, stop=False)[1][3] == 0
