"""What a run says after its first steps."""

from __future__ import annotations

import math
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console
from toys import pair_folder, write_config

from t2ialign.config.reader import load
from t2ialign.objectives import margins
from t2ialign.training.hooks import Pace, Saturation, StepLines
from t2ialign.training.train import train


def said(shares: list[float], *, start: int = 1, **settings) -> list[str]:
    """What the hook says over steps whose share of saturated examples is given."""
    heard: list[str] = []
    hook = Saturation(2500.0, heard.append, **settings)
    for step, share in enumerate(shares, start=start):
        hook(SimpleNamespace(step=step, metrics={"saturated": share}))  # type: ignore[arg-type]
    return heard


def test_multiplier_and_saturated_share_of_the_first_20_steps_are_said_once():
    # ten steps of 0.4 and ten of 0.2: 30 %; what follows does not count
    heard = said([0.4] * 10 + [0.2] * 10 + [1.0] * 10)
    assert heard == ["margin multiplier 2500; 30% of examples saturated in steps 1 to 20"]


def test_a_run_that_goes_on_names_the_steps_it_has_seen():
    assert said([0.1] * 5, start=16) == ["margin multiplier 2500; 10% of examples saturated in steps 16 to 20"]
    assert said([0.1] * 5, start=21) == []


def test_a_short_run_speaks_after_its_last_step():
    assert said([0.5] * 3, steps=3) == ["margin multiplier 2500; 50% of examples saturated in steps 1 to 3"]


@pytest.mark.parametrize(("share", "warned"), [(0.5, False), (0.51, True)])
def test_more_than_one_half_is_warned_of(share: float, warned: bool):
    assert any("warning" in line for line in said([share] * 20)) == warned


def test_the_warning_names_the_key_that_scales_the_margin():
    assert "lower objective.beta or optim.lr" in said([1.0] * 20)[1]
    assert "lower objective.logit_scale or optim.lr" in said([1.0] * 20, margin_key="logit_scale")[1]


def test_a_loss_that_knows_no_saturation_says_nothing():
    heard: list[str] = []
    hook = Saturation(1.0, heard.append)
    for step in range(1, 25):
        hook(SimpleNamespace(step=step, metrics={"loss": 1.0}))  # type: ignore[arg-type]
    assert heard == []


def test_training_says_it_and_names_the_objectives_key(
    sd15_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    pairs = pair_folder(tmp_path / "pairs")

    def told(name: str, objective: str) -> str:
        path = write_config(tmp_path / f"{name}.yaml", model=sd15_folder, pairs=pairs, run_dir=tmp_path / name)
        path.write_text(path.read_text().replace("dpo, beta: 100", objective))
        text = StringIO()
        train(load(path), console=Console(file=text, width=200))
        return text.getvalue()

    assert "margin multiplier 50; 0% of examples saturated in steps 1 to 3" in told("dpo", "dpo, beta: 100")
    monkeypatch.setattr(margins, "SATURATED", -math.inf)  # every margin is beyond it
    steep = told("mapo", "mapo, beta: 0.1, logit_scale: 200")
    assert "margin multiplier 50; 100% of examples saturated in steps 1 to 3" in steep
    assert "lower objective.logit_scale or optim.lr" in steep


def lines(seconds: list[float], *, start: int = 0, steps: int = 100, **metrics: float) -> list[str]:
    """What a log says of steps that end at these seconds after the start."""
    heard: list[str] = []
    clock = iter([0.0, *seconds])
    hook = StepLines(heard.append, Pace(step=start, steps=steps, clock=lambda: next(clock)))
    for step, _ in enumerate(seconds, start=start + 1):
        hook(SimpleNamespace(step=step, metrics={"loss": 0.5, "lr": 1e-4, **metrics}))  # type: ignore[arg-type]
    return heard


def test_a_log_has_the_first_step_one_every_half_minute_and_the_last():
    assert lines([12.0 * step for step in range(1, 9)], steps=8, implicit_accuracy=0.625) == [
        "step 1 of 8  loss 0.5000  accuracy 0.62  lr 0.0001  12 s a step  1 min left",
        "step 4 of 8  loss 0.5000  accuracy 0.62  lr 0.0001  12 s a step  48 s left",
        "step 7 of 8  loss 0.5000  accuracy 0.62  lr 0.0001  12 s a step  12 s left",
        "step 8 of 8  loss 0.5000  accuracy 0.62  lr 0.0001  12 s a step",
    ]


def test_the_time_that_is_left_counts_what_this_start_has_done():
    # 2 of 200 steps remain to be extrapolated from: 100 s each, 98 steps to go
    assert lines([100.0, 200.0], start=100, steps=200)[-1].endswith("100 s a step  2 h 43 min left")


@pytest.mark.parametrize(("steps", "after_12"), [(30, 2), (34, 3)])
def test_the_time_that_is_left_includes_validations(steps: int, after_12: int):
    # steps of 1 s; the validation before the first step takes 100 s, the one after step 10 takes 40 s
    now = [0.0]
    pace = Pace(step=0, steps=steps, every=10, clock=lambda: now[0])
    with pace.validating():
        now[0] += 100
    now[0] += 7  # what is prepared between is no step
    pace.begin()
    now[0] += 2
    assert pace.left(2, now[0]) == steps - 2 + (steps + 9) // 10 * 100
    now[0] += 8
    with pace.validating():
        now[0] += 40
    now[0] += 2
    assert pace.each(12, now[0]) == 1.0
    assert pace.left(12, now[0]) == steps - 12 + after_12 * 40


def test_nothing_is_left_after_the_last_step():
    now = [0.0]
    pace = Pace(step=5, steps=10, every=3, clock=lambda: now[0])
    with pace.validating():
        now[0] += 4
    pace.begin()
    now[0] += 5
    assert pace.left(9, now[0]) == pytest.approx(5 / 4 + 4)
    assert pace.left(10, now[0]) == 0


def test_a_log_tells_what_was_validated(tmp_path: Path, sd15_folder: Path):
    (tmp_path / "fixed.txt").write_text("a red circle\n")
    pairs = pair_folder(tmp_path / "pairs")
    path = write_config(tmp_path / "run.yaml", model=sd15_folder, pairs=pairs, run_dir=tmp_path / "run")
    validate = [f"validate.prompts={tmp_path / 'fixed.txt'}", "validate.rewards=[brightness]"]
    config = load(path, [*validate, "validate.inference_steps=1", "train.steps=2", "validate.every_steps=1"])
    said = StringIO()
    train(config, console=Console(file=said, width=500))
    told = [line for line in said.getvalue().splitlines() if line.startswith("validation after step")]
    assert [line.split(":")[0] for line in told] == [f"validation after step {step}" for step in (0, 1, 2)]
    assert all(": brightness: base 0." in line and ", policy 0." in line for line in told)
    assert "step 2 of 2  loss" in said.getvalue()
