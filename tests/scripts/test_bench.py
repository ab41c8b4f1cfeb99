"""What the benchmarks time is what they say, on a tiny model; the times themselves are not looked at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import bench_bf16
import bench_inversion
import bench_parts
import pytest
import torch
from bench_parts import Floor, Ratio, Steps, interleave
from toys import pair_folder, write_config

from t2ialign.config.reader import load

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
