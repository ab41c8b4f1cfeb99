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
from t2ialign.training.hooks import Saturation
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
