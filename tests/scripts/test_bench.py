"""What the benchmarks time is what they say, on a tiny model; the times themselves are not looked at."""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import bench_bf16
import bench_inversion
import bench_parts
import bench_plan
import bench_rollout
import bench_row
import bench_sdxl
import inversion_error
import pytest
import torch
from bench_parts import Floor, Ratio, Steps, interleave
from online_runs import config_of
from toys import pair_folder, write_config

from t2ialign.config.reader import load
from t2ialign.config.schema import OnlineConfig

ROOT = Path(__file__).parents[2]


def steps_of(folder: Path, model: Path, name: str, *overrides: str) -> Steps:
    """Steps of four pairs over a table of eight."""
    table = folder / "pairs" / "pairs.csv"
    if not table.is_file():
        pair_folder(folder / "pairs", 8)
    path = write_config(folder / f"{name}.yaml", model=model, pairs=table, run_dir=folder / name)
    return Steps(load(path, ["train.steps=100", *overrides]))


def test_blocks_are_interleaved_and_warm_ups_are_not_timed():
    order: list[str] = []
    times = interleave({name: lambda name=name: order.append(name) for name in "ab"}, block=2)
    assert "".join(order) == "aaabbb" + "aabb" * 5
    assert [len(found) for found in times.values()] == [5, 5]


def test_ratios_are_of_the_same_block():
    times = {"ours": [1.0, 2.0, 4.0], "theirs": [2.0, 4.0, 4.0]}
    line = Ratio("ours", "theirs", "at most 1").line(times)
    assert line == "ours over theirs: median 0.500 (0.500, 0.500, 1.000), target at most 1"
    assert bench_parts.medians(times)[0] == "ours: 2000.0 ms (1000.0 to 4000.0)"


def test_every_run_that_is_timed_is_a_config_that_loads(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    for name, (recipe, more) in bench_inversion.RUNS.items():
        noiser = load(f"configs/{recipe}.yaml", more.split()).noiser
        assert noiser.name == ("inversion" if "PO step" in name and not name.startswith("DPO") else "forward")
        assert (getattr(noiser, "levels", None) is not None) == name.endswith("cached levels")
    named = {name for ratio in bench_inversion.RATIOS for name in (ratio.of, ratio.to)}
    assert named == {*bench_inversion.RUNS, bench_inversion.PASS}


def test_the_parts_make_the_passes_that_they_name(sd15_folder: Path, tmp_path: Path):
    runs = {
        bench_inversion.DPO: steps_of(tmp_path, sd15_folder, "dpo"),
        bench_inversion.WARM: steps_of(tmp_path, sd15_folder, "warm", "noiser.draws=1"),
    }
    calls: list[tuple[str, bool, int]] = []

    def count(name: str, module: torch.nn.Module) -> None:
        module.register_forward_hook(lambda _, given, __: calls.append((name, torch.is_grad_enabled(), len(given[0]))))

    for name, steps in runs.items():
        count(name, steps.core.policy.denoiser)
    recipe = bench_inversion.PublicRecipe(runs[bench_inversion.DPO], 64)
    count("vae", recipe.parts["vae"].encoder)
    others: dict[str, Any] = {
        bench_inversion.RECIPE: recipe,
        bench_inversion.PASS: Floor(runs[bench_inversion.WARM], reference=False),
    }
    times = bench_inversion.timed(runs, others, 1)
    for ratio in bench_inversion.FULL_SIZE_RATIOS:
        assert ratio.of in ratio.line(times)

    def made(part: Any) -> list[tuple[str, bool, int]]:
        calls.clear()
        part()
        return calls

    two = [(bench_inversion.DPO, False, 4), (bench_inversion.DPO, True, 4)]  # two micro-batches of two pairs
    assert made(runs[bench_inversion.DPO]) == two * 2
    assert made(runs[bench_inversion.WARM]) == [(bench_inversion.WARM, True, 4)] * 2
    assert made(others[bench_inversion.PASS]) == [(bench_inversion.WARM, True, 4)] * 2
    one = [("vae", False, 2), (bench_inversion.DPO, False, 2), (bench_inversion.DPO, True, 2)]
    assert made(recipe) == one
    assert all(p.grad is None for p in runs[bench_inversion.DPO].core.policy.trained_parameters().values())


ONLINE = [
    "rollout.prompts=2", "rollout.images=2", "rollout.batch=2", "rollout.inference_steps=3", "lora.rank=2",
    "rollout.guidance_scale=1", "train.effective_batch=16", "train.micro_batch=8",
]  # fmt: skip


def test_a_rollout_and_an_update_are_timed_against_their_own_passes(
    sd15_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(ROOT)
    online = bench_rollout.Online(bench_rollout.online_config(tmp_path / "run", str(sd15_folder), ONLINE))
    calls: list[tuple[bool, int]] = []
    policy = online.core.policy
    policy.denoiser.register_forward_hook(lambda _, x, __: calls.append((torch.is_grad_enabled(), len(x[0]))))
    decode, decoded = policy.backbone.decode_latents, []

    def watched(latents: torch.Tensor) -> torch.Tensor:
        decoded.append(len(latents))
        return decode(latents)

    monkeypatch.setattr(policy.backbone, "decode_latents", watched)

    def made(part: Any) -> tuple[list[tuple[bool, int]], list[int]]:
        calls.clear()
        decoded.clear()
        part()
        return list(calls), list(decoded)

    of_a_rollout = ([(False, 2)] * 3 * 2, [2, 2])  # three steps of each group
    assert made(online.rollout) == made(bench_rollout.RolloutPasses(online)) == of_a_rollout
    assert made(online.iteration) == of_a_rollout
    update = made(online.update)
    assert update == made(bench_rollout.UpdatePasses(online)) == ([(False, 8), (False, 8), (True, 8)] * 2, [])
    assert online.core.engine.step == 1


@pytest.mark.slow
def test_every_ratio_of_a_rollout_is_measured(sd15_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(bench_parts, "BLOCKS", 1)
    monkeypatch.setattr(bench_parts, "WARMUP", 1)
    times = bench_rollout.measured(tmp_path, str(sd15_folder), ONLINE, 1)
    for ratio in bench_rollout.RATIOS:
        assert ratio.of in ratio.line(times)
    assert min(times[bench_rollout.BOTH]) > min(times[bench_rollout.REWARDS])


def test_margins_are_of_the_same_pairs_and_draws_whatever_stands_beside_them(sd15_folder: Path, tmp_path: Path):
    steps = steps_of(tmp_path, sd15_folder, "run")
    for _ in range(4):
        steps()
    margins = bench_bf16.Margins(steps)
    known = bench_bf16.ReferenceErrors(8, 1, 2)
    alone = margins(1, known)
    assert alone.std() > 1e-3
    for size in (2, 4, 8):
        for found in (margins(size), margins(size, regrouped=True), margins(size, known)):
            torch.testing.assert_close(found, alone, atol=1e-4, rtol=1e-4)


def test_inversion_is_closer_to_the_trajectory_with_more_steps(
    sd15_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(ROOT)
    data = pair_folder(tmp_path / "pairs", 8, scores=True)
    options = Namespace(model=sd15_folder, data=data, pairs=8, fine=20)
    lines = [line.split(" | ") for line in inversion_error.report(options, tmp_path)]
    errors = {name: sum(map(float, found)) for name, *found in lines if len(found) == 3 and name}
    assert errors["10 steps"] < errors["released grid"]
    assert errors["as released"] > errors["corrections at the source"]


@pytest.mark.slow
def test_what_a_plan_announces_is_set_beside_what_is_found(sd15_folder: Path, tmp_path: Path):
    pairs = pair_folder(tmp_path / "pairs", 8)
    path = write_config(tmp_path / "plan.yaml", model=sd15_folder, pairs=pairs, run_dir=tmp_path / "none")
    options = Namespace(config=path, changes=["train.micro_batch=4"], steps=1)
    memory, seconds = list(bench_plan.report(options, tmp_path))[-2:]
    assert abs(float(memory.split()[-1].rstrip("%"))) <= 15
    assert seconds.startswith("seconds of a step: announced ")


def sdxl_options(model: Path | str, **changes: Any) -> Namespace:
    usual = {"model": model, "size": 64, "micro_batch": 1, "steps": 1, "warmup": 1, "minutes": 1.0, "full_size": False}
    return Namespace(**{**usual, "rows": bench_sdxl.ROWS, **changes})


def test_every_row_of_the_table_is_a_recipe_that_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    (tmp_path / "prompts.txt").write_text("a red circle\n")
    assert len({row.name for row in bench_sdxl.ROWS}) == len(bench_sdxl.ROWS)
    for row in bench_sdxl.ROWS:
        path, images, *changes = bench_sdxl.arguments(row, sdxl_options(tmp_path), tmp_path)
        config = load(path, changes)
        train = config.train
        assert (train.precision, train.gradient_checkpointing) == (row.precision, row.checkpointing)
        assert (train.compile or "none", train.quantize == "nf4") == (row.compile, row.base == "nf4")
        assert config.validation.prompts is None
        if isinstance(config, OnlineConfig):
            assert config.rollout.prompts * config.rollout.images == int(images)
        else:
            assert train.effective_batch * config.data.views == int(images)


@pytest.mark.parametrize("keys", [[], ["noiser={name: inversion, steps: 2, corrections: 1}"]])
def test_passes_that_are_made_again_are_those_of_the_step(keys: list[str], sd15_folder: Path, tmp_path: Path):
    pairs = pair_folder(tmp_path / "pairs", 8)
    path = write_config(tmp_path / "c.yaml", model=sd15_folder, pairs=pairs, run_dir=tmp_path / "run")
    assert_made_again(bench_row.Training(load(path, ["train.steps=100", *keys])))


def test_passes_of_an_iteration_that_are_made_again_are_those_of_its_images_and_updates(
    sd15_folder: Path, tmp_path: Path
):
    training = bench_row.Training(config_of(tmp_path, sd15_folder, "train.steps=100"))
    decoder = training.core.policy.backbone.pipeline().components["vae"].decoder
    made = assert_made_again(training, decoder)
    assert sum(network is decoder for network, _, _ in made) == 2  # six images, four at once


def assert_made_again(training: bench_row.Training, *others: Any) -> list[tuple[Any, bool, int]]:
    """What a step and its passes made: network, whether with a gradient, rows."""
    policy, calls = training.core.policy, []
    passes = bench_row.Passes(policy)
    for module in (policy.denoiser, *others):
        module.register_forward_hook(
            lambda module, given, _: calls.append((module, torch.is_grad_enabled(), len(given[0])))
        )
    with passes.recorded():
        training()
    made = list(calls)
    calls.clear()
    passes()
    assert calls == made
    assert any(has_gradient for _, has_gradient, _ in made)
    assert all(parameter.grad is None for parameter in policy.trained_parameters().values())
    return made


def test_a_row_without_figures_says_why_and_the_next_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    ends = iter([(-9, ""), (1, ""), (0, '["out of memory"]'), None, (0, 'noise\n["1.5", "2.0", "1.02"]')])

    def run(command: list[str], **_: Any) -> Namespace:
        end = next(ends)
        if end is None:
            raise bench_sdxl.subprocess.TimeoutExpired(command, 1)
        return Namespace(returncode=end[0], stdout=end[1])

    monkeypatch.setattr(bench_sdxl.subprocess, "run", run)
    lines = list(bench_sdxl.report(sdxl_options("M", rows=bench_sdxl.ROWS[:5]), tmp_path))[-5:]
    said = [line.split(maxsplit=6)[-1] if "16 bits" in line else line for line in lines]
    assert said[0] == "killed, perhaps for want of memory"
    assert said[1] == "failed with 1"
    assert said[2] == "out of memory"
    assert said[3].startswith("not within ")
    assert said[4].split() == ["1.5", "2.0", "1.02"]


def test_rows_that_do_not_fit_the_time_are_said_to_be_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    lines = list(bench_sdxl.report(sdxl_options("M", minutes=0.0), tmp_path))
    assert [line.endswith("no time left") for line in lines[5:]] == [True] * len(bench_sdxl.ROWS)


def test_out_of_memory_and_a_missing_package_take_the_place_of_figures(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)

    def fail(*_: Any) -> None:
        raise torch.OutOfMemoryError("too much")

    options = Namespace(config="configs/shapes_dpo.yaml", changes=["train.quantize=nf4"], images=2, warmup=1, steps=1)
    (said,) = bench_row.cells(options)
    assert 'pip install "t2ialign[bnb]"' in said
    monkeypatch.setattr(bench_row, "measure", fail)
    assert bench_row.cells(options) == ["out of memory"]


@pytest.mark.slow
def test_a_row_is_measured_by_a_process_of_its_own(sdxl_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    rows = [row for row in bench_sdxl.ROWS if row.name in ("smpo", "nft")]
    lines = list(bench_sdxl.report(sdxl_options(sdxl_folder, rows=rows, minutes=8), tmp_path))[-2:]
    for line in lines:
        peak, images, ratio = map(float, line.split()[-3:])
        assert peak > 0.1
        assert images > 0
        assert 0.5 < ratio < 20
