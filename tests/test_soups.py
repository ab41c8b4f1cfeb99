"""Mixtures of LoRAs: the weighted sum of what each adds, and how they are named on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lora_files import merged, saved

from t2ialign.config.loras import parse_loras
from t2ialign.errors import InputError
from t2ialign.models import open_model


def test_a_mixture_predicts_what_the_weighted_sum_of_the_deltas_predicts(sd15_folder: Path, tmp_path: Path):
    one = saved(sd15_folder, tmp_path / "one", moved=0.3, rank=2, alpha=6)
    other = saved(sd15_folder, tmp_path / "other", moved=-0.2, rank=3, alpha=1.5)
    policy, mixture = open_model(str(sd15_folder), loras={str(one): 0.75, str(other): -0.5})
    x_t = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    timesteps, cond = torch.tensor([100, 900]), policy.backbone.encode_prompts(["a red circle", "a cat"])
    cond = cond.map(lambda t: t.flatten(0, 1) if t.ndim == 4 else t)
    mixed = policy.denoise(x_t, timesteps, cond, weights=mixture)
    expected = merged(sd15_folder, {one: 0.75, other: -0.5})(x_t, timesteps, cond.tokens).sample
    torch.testing.assert_close(mixed, expected, atol=1e-4, rtol=1e-4)  # the order of float32 sums
    base = policy.denoise(x_t, timesteps, cond, weights="base")
    assert (mixed - base).abs().max() > 0.01
    alone = policy.denoise(x_t, timesteps, cond, weights={"lora0": 1.0, "lora1": 0.0})
    torch.testing.assert_close(alone, policy.denoise(x_t, timesteps, cond, weights={"lora0": 1.0}))


def test_scales_are_read_and_a_colon_may_belong_to_the_path(tmp_path: Path):
    (tmp_path / "run:2").mkdir()
    assert parse_loras(["a:0.5", "b:-1", "c"]) == {"a": 0.5, "b": -1.0, "c": 1.0}
    assert parse_loras([r"C:\loras\a", r"D:\loras\b:0.25"]) == {r"C:\loras\a": 1.0, r"D:\loras\b": 0.25}
    assert parse_loras([f"{tmp_path}/run:2"]) == {f"{tmp_path}/run:2": 1.0}
    assert parse_loras([f"{tmp_path}/run:2:0.5"]) == {f"{tmp_path}/run:2": 0.5}


def test_a_bad_scale_a_repeated_and_a_missing_lora_are_told_in_one_message(tmp_path: Path, sd15_folder: Path):
    with pytest.raises(InputError, match="the scale 'half' is no number; write for example"):
        parse_loras([f"{tmp_path}:half"])
    for scale in ("nan", "inf"):
        with pytest.raises(InputError, match=f"the scale '{scale}' is no number"):
            parse_loras([f"{tmp_path}:{scale}"])
    with pytest.raises(InputError, match="a is given twice"):
        parse_loras(["a:0.5", "a:0.25"])
    for lora in (r"C:\loras\none", "runs/none"):
        with pytest.raises(InputError, match="no such LoRA") as caught:
            open_model(str(sd15_folder), loras=parse_loras([f"{lora}:0.5"]))
        assert str(caught.value).startswith(f"{lora}: ")
