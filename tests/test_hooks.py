"""What a run says after its first steps."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from t2ialign.hooks import Saturation


def said(shares: list[float], *, start: int = 1) -> list[str]:
    """What the hook says over steps whose share of saturated examples is given."""
    heard: list[str] = []
    hook = Saturation(2500.0, heard.append)
    for step, share in enumerate(shares, start=start):
        hook(SimpleNamespace(step=step, metrics={"saturated": share}))  # type: ignore[arg-type]
    return heard


def test_multiplier_and_saturated_share_of_the_first_20_steps_are_said_once():
    # ten steps of 0.4 and ten of 0.2: 30 %; what follows does not count
    heard = said([0.4] * 10 + [0.2] * 10 + [1.0] * 10)
    assert heard == ["margin multiplier 2500; 30% of examples saturated in the first 20 steps"]


@pytest.mark.parametrize(("share", "warned"), [(0.5, False), (0.51, True)])
def test_more_than_one_half_is_warned_of(share: float, warned: bool):
    assert any("warning" in line for line in said([share] * 20)) == warned


def test_a_loss_that_knows_no_saturation_says_nothing():
    heard: list[str] = []
    hook = Saturation(1.0, heard.append)
    for step in range(1, 25):
        hook(SimpleNamespace(step=step, metrics={"loss": 1.0}))  # type: ignore[arg-type]
    assert heard == []
