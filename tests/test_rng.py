"""Keyed randomness."""

from __future__ import annotations

import math
import subprocess
import sys

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from t2ialign.rng import Draws, generator, keyed_seed

KEYS = st.lists(st.integers(0, 2**62), min_size=1, max_size=6)


@settings(max_examples=30, deadline=None)
@given(KEYS, KEYS, st.integers(0, 2**31))
def test_a_row_depends_on_seed_key_and_stream_alone(first: list[int], second: list[int], seed: int):
    together = Draws(seed, torch.tensor(first + second))
    apart = [Draws(seed, torch.tensor(keys)) for keys in (first, second)]
    assert torch.equal(together.normal((2, 3), "noise"), torch.cat([d.normal((2, 3), "noise") for d in apart]))
    assert torch.equal(together.timesteps(0, 1000), torch.cat([d.timesteps(0, 1000) for d in apart]))
    assert torch.equal(together.uniform("dropout"), torch.cat([d.uniform("dropout") for d in apart]))


def test_streams_keys_and_seeds_are_apart():
    draws = Draws(0, torch.tensor([0, 1]))
    noise = draws.normal((50,), "noise")
    others = [draws.normal((50,), "posterior"), Draws(1, draws.keys).normal((50,), "noise"), noise.flip(0)]
    assert not any(torch.equal(noise, other) for other in others)


def test_drawing_touches_no_global_state():
    before = torch.get_rng_state()
    Draws(0, torch.arange(3)).normal((4,), "noise")
    Draws(0, torch.arange(3)).timesteps(0, 10)
    assert torch.equal(torch.get_rng_state(), before)


def test_draws_follow_their_distributions():
    draws = Draws(7, torch.arange(4000))
    normal, uniform, timesteps = draws.normal((), "noise"), draws.uniform("dropout"), draws.timesteps(200, 300)
    # five standard errors: 5 / sqrt(4000) = 0.079 for the mean, and 0.079 / sqrt(2) for the standard deviation
    assert abs(normal.mean()) < 0.079
    assert abs(normal.std() - 1) < 0.056
    assert abs(uniform.mean() - 0.5) < 5 * math.sqrt(1 / 12 / 4000)
    assert timesteps.min() == 200
    assert timesteps.max() == 299


def test_neighbouring_keys_are_uncorrelated():
    rows = Draws(0, torch.arange(64)).normal((256,), "noise").double()
    correlation = torch.corrcoef(rows) - torch.eye(64)
    # 2016 coefficients of standard deviation 1 / sqrt(256): five and a half of them
    assert correlation.abs().max() < 5.5 / 16


def test_the_seed_is_the_same_in_every_process():
    code = "from t2ialign.rng import keyed_seed; print(keyed_seed(3, 'noise', 12))"
    other = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "7"}
    )
    assert int(other.stdout) == keyed_seed(3, "noise", 12)


def test_parts_cannot_be_confused():
    assert keyed_seed(1, 23, "x") != keyed_seed(12, 3, "x")
    assert 0 <= keyed_seed("a") < 2**63
    assert generator(1).initial_seed() == keyed_seed(1)
