"""A negative model in the unconditional branch: against weights added by hand, its limits, and its command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import toys
from lora_files import merged, saved
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

from t2ialign.cli.main import app
from t2ialign.config.generation import GenerationConfig
from t2ialign.errors import InputError
from t2ialign.generation.images import generate_images
from t2ialign.models import open_guided_model, open_model
from t2ialign.sampling.guidance import Guidance
from t2ialign.types import Weights

X_T = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
TIMESTEPS = torch.tensor([100, 900])


@pytest.fixture(scope="module")
def loras(sd15_folder: Path, tmp_path_factory) -> tuple[Path, Path]:
    """(A LoRA that is aligned, one of a negative model)."""
    out = tmp_path_factory.mktemp("loras")
    return (
        saved(sd15_folder, out / "aligned", moved=0.3, rank=2, alpha=6),
        saved(sd15_folder, out / "negative", moved=-0.2, rank=3, alpha=1.5),
    )


@pytest.mark.parametrize(("alpha", "beta"), [(1, 1), (0.5, 1), (0, 0.7), (1, 0)])
def test_the_negative_branch_is_base_plus_alpha_eta_plus_beta_delta(
    alpha: float, beta: float, sd15_folder: Path, loras: tuple[Path, Path]
):
    aligned, negative = loras
    policy, weights, mixture = open_guided_model(
        str(sd15_folder), {str(negative): beta}, alpha=alpha, loras={str(aligned): 0.8}
    )
    cond = policy.backbone.encode_prompts(["a red circle", "a cat"]).map(
        lambda t: t.flatten(0, 1) if t.ndim == 4 else t
    )
    found = Guidance(7.5, weights, mixture).denoise(policy, X_T, TIMESTEPS, cond, None)
    null = policy.null().tokens.expand(2, -1, -1)
    good = merged(sd15_folder, {aligned: 0.8})(X_T, TIMESTEPS, cond.tokens).sample
    bad = merged(sd15_folder, {aligned: 0.8 * alpha, negative: beta})(X_T, TIMESTEPS, null).sample
    torch.testing.assert_close(found, bad + 7.5 * (good - bad), atol=1e-3, rtol=1e-4)


def test_without_a_share_of_anything_it_is_plain_guidance(sd15_folder: Path, loras: tuple[Path, Path]):
    _, negative = loras
    policy, weights, mixture = open_guided_model(str(sd15_folder), {str(negative): 0.0})
    plain, none = open_model(str(sd15_folder))
    settings = GenerationConfig(guidance_scale=4, inference_steps=2, batch=2)
    one = list(generate_images(policy, ["a", "b"], [1, 2], settings, weights=weights, negative=mixture))
    other = list(generate_images(plain, ["a", "b"], [1, 2], settings, weights=none))
    for image, expected in zip(one, other, strict=True):
        difference = np.asarray(image, np.int16) - np.asarray(expected, np.int16)
        assert np.abs(difference).max() <= 1  # two passes in place of one of twice the rows


def test_equal_branches_are_ordinary_guidance(sd15_folder: Path, loras: tuple[Path, Path]):
    """theta_neg = theta_pos: the negative model is what is left of alpha of the positive one."""
    aligned, _ = map(str, loras)
    policy, weights, mixture = open_guided_model(str(sd15_folder), {aligned: 0.8}, alpha=0, loras={aligned: 0.8})
    cond = policy.null().map(lambda tensor: tensor.expand(2, *tensor.shape[1:]).flip(1))
    found = Guidance(7.5, weights, mixture).denoise(policy, X_T, TIMESTEPS, cond, None)
    plain = Guidance(7.5, weights, weights).denoise(policy, X_T, TIMESTEPS, cond, None)
    torch.testing.assert_close(found, plain, atol=1e-4, rtol=1e-4)  # two passes in place of one of twice the rows


def test_at_scale_1_no_negative_model_is_asked(sd15_folder: Path, loras: tuple[Path, Path], monkeypatch):
    aligned, negative = map(str, loras)
    policy, weights, mixture = open_guided_model(str(sd15_folder), {negative: 1.0}, loras={aligned: 1.0})
    asked: list[Weights] = []
    denoise = policy.denoise
    monkeypatch.setattr(policy, "denoise", lambda *rows: asked.append(rows[-1]) or denoise(*rows))
    cond = policy.null().map(lambda tensor: tensor.expand(2, *tensor.shape[1:]))
    found = [Guidance(1.0, weights, bad).denoise(policy, X_T, TIMESTEPS, cond, None) for bad in (mixture, weights, {})]
    assert found[0].equal(found[1])
    assert found[0].equal(found[2])
    assert asked == [weights] * 3


def test_the_mixture_is_linear_in_alpha_and_beta(sd15_folder: Path, loras: tuple[Path, Path]):
    aligned, negative = map(str, loras)
    policy, _, _ = open_guided_model(str(sd15_folder), {negative: 1.0}, loras={aligned: 1.0})
    layer = next(layer for layer in policy.layers if len(layer.scaling) == 2).double()
    rows = torch.randn(5, layer.in_features, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def added(alpha: float, beta: float) -> torch.Tensor:
        with policy.mixture({"lora0": alpha, "lora1": beta}), torch.no_grad():
            return layer(rows) - layer.base_layer(rows)

    assert added(1, 0).abs().max() > 0.01
    for alpha, beta in ((0.3, 0.6), (1, 1), (2, -1), (0, 0)):
        expected = alpha * added(1, 0) + beta * added(0, 1)
        torch.testing.assert_close(added(alpha, beta), expected, atol=1e-9, rtol=0)


def test_one_pass_each_branch(sd15_folder: Path, loras: tuple[Path, Path]):
    aligned, negative = loras
    policy, weights, mixture = open_guided_model(str(sd15_folder), {str(negative): 1.0}, loras={str(aligned): 1.0})
    rows: list[int] = []
    policy.denoiser.register_forward_pre_hook(lambda _module, inputs: rows.append(len(inputs[0])))
    settings = GenerationConfig(guidance_scale=4, inference_steps=3, batch=2)
    list(generate_images(policy, ["a", "b"], [1, 2], settings, weights=weights, negative=mixture))
    assert rows == [2] * 6


@pytest.mark.parametrize("role", ["loras", "negative"])
def test_a_dora_has_no_share_that_could_be_added(
    role: str, sd15_folder: Path, loras: tuple[Path, Path], tmp_path: Path
):
    named, configured = tmp_path / "named.safetensors", tmp_path / "configured" / "adapter_model.safetensors"
    configured.parent.mkdir()
    for file, name in ((named, "lora_unet_mid_block.dora_scale"), (configured, "base_model.model.x.lora_A.weight")):
        save_file({name: torch.ones(1)}, file)
    configured.with_name("adapter_config.json").write_text(json.dumps({"use_dora": True}))
    for dora in (named, configured):
        given = {"loras": {str(loras[0]): 1.0}, "negative": {str(loras[1]): 1.0}}
        given[role][str(dora)] = 0.5
        with pytest.raises(InputError, match="cannot have a share of it; train a LoRA, or merge it") as caught:
            open_guided_model(str(sd15_folder), given["negative"], loras=given["loras"])
        assert str(caught.value).startswith(f"{dora}: a DoRA")


def generate(*options: str):
    return CliRunner().invoke(app, ["generate", "--prompt", "a red circle", "--steps", "2", *options])


def test_the_command_line_records_both_branches(sd15_folder: Path, loras: tuple[Path, Path], tmp_path: Path):
    aligned, negative = map(str, loras)
    common = ("--model", str(sd15_folder), "--lora", f"{aligned}:0.5")
    plain = generate(*common, "--out", str(tmp_path / "plain"))
    guided = generate(
        *common, "--negative", f"{negative}:0.7", "--negative-alpha", "0.5", "--out", str(tmp_path / "guided")
    )
    assert (plain.exit_code, guided.exit_code) == (0, 0), guided.output
    record = json.loads((tmp_path / "guided" / "generation.json").read_text())
    assert record["negative"] == {negative: 0.7}
    assert record["guidance"]["cond"] == {"lora0": 0.5}
    assert record["guidance"]["uncond"] == {"lora0": 0.25, "lora1": 0.7}
    pictures = [np.asarray(Image.open(tmp_path / name / "0_0.png")) for name in ("plain", "guided")]
    assert not np.array_equal(*pictures)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--negative", "x", "--guidance", "1"), "--guidance 1 makes no unconditional pass"),
        (("--negative-alpha", "0.5"), "--negative-alpha 0.5: is a share in the negative model's branch"),
        (("--negative", "x:half"), "--negative x:half"),
        (("--negative", "x", "--negative", "x"), "--negative x: x is given twice"),
    ],
)
def test_what_has_no_effect_or_no_meaning_is_refused(
    options: tuple[str, ...], message: str, sd15_folder: Path, tmp_path: Path, monkeypatch
):
    (tmp_path / "x").mkdir()
    monkeypatch.chdir(tmp_path)
    found = generate("--model", str(sd15_folder), "--out", "out", *options).exception
    assert isinstance(found, InputError)
    assert message in str(found)
    assert not (tmp_path / "out").exists()


def test_training_a_negative_model_is_training_on_the_exchanged_pairs(sd15_folder: Path):
    """NPO(w, l) is DPO(l, w): the same loss and the same gradients of the same rows, views exchanged."""
    policy = toys.lora_policy(sd15_folder, moved=0.05, dtype=torch.float64)
    rows = toys.batch(policy, [1, 2])
    reverse = rows.__class__(rows.keys, rows.rows, rows.latents.flip(1), rows.cond)
    straight, exchanged = toys.dpo(policy, rows).losses, toys.dpo(policy, reverse).losses
    margin = exchanged - straight  # the loss of the swapped pair exceeds the pair's by its margin
    torch.testing.assert_close(straight, torch.nn.functional.softplus(-margin), atol=1e-9, rtol=0)
