"""Full fine-tunes in the unconditional branch: against weights added by hand, and what is no fine-tune of the model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import standins
import torch
import toys
from diffusers import UNet2DConditionModel
from lora_files import finetune, merged, saved
from typer.testing import CliRunner

from t2ialign.backbones.finetunes import moved_by_finetunes
from t2ialign.cli.main import app
from t2ialign.config.generation import GenerationConfig
from t2ialign.errors import InputError
from t2ialign.generation.images import generate_images
from t2ialign.models import open_guided_model, open_model
from t2ialign.sampling.guidance import Guidance

X_T = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
TIMESTEPS = torch.tensor([100, 900])


def unet(folder: Path) -> UNet2DConditionModel:
    return UNet2DConditionModel.from_pretrained(folder / "unet")


@pytest.fixture(scope="module")
def made(sd15_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two fine-tunes and two LoRAs."""
    out = tmp_path_factory.mktemp("made")
    return {
        "one": finetune(sd15_folder, out / "one", moved=0.03, seed=1),
        "other": finetune(sd15_folder, out / "other", moved=0.03, seed=2),
        "aligned": saved(sd15_folder, out / "aligned", moved=0.3, rank=2, alpha=6),
        "npo": saved(sd15_folder, out / "npo", moved=-0.2, rank=3, alpha=1.5),
    }


def added(model: Path, finetunes: dict[Path, float], loras: dict[Path, float]) -> torch.nn.Module:
    """The plain denoiser with sum_i beta_i (W_i - W) and the LoRAs' differences added to its weights by hand."""
    base, plain = unet(model).state_dict(), merged(model, loras)
    with torch.no_grad():
        for folder, beta in finetunes.items():
            tuned = unet(folder).state_dict()
            for name, parameter in plain.named_parameters():
                parameter += beta * (tuned[name] - base[name])
    return plain


@pytest.mark.parametrize(
    ("alpha", "negative"),
    [
        (1, {"one": 1.0}),
        (0.5, {"one": 0.7}),
        (0, {"one": 0.7, "other": -0.4}),
        (0.5, {"one": 0.7, "npo": 0.6}),
        (0.5, {"one": 0.7, "aligned": 0.6}),
        (1, {"one": 0.0}),
    ],
)
def test_the_negative_branch_is_base_plus_alpha_eta_plus_beta_delta(
    alpha: float, negative: dict[str, float], sd15_folder: Path, made: dict[str, Path]
):
    policy, weights, uncond = open_guided_model(
        str(sd15_folder),
        {str(made[name]): beta for name, beta in negative.items()},
        alpha=alpha,
        loras={str(made["aligned"]): 0.8},
    )
    assert uncond == "negative"
    cond = policy.backbone.encode_prompts(["a red circle", "a cat"])
    found = Guidance(7.5, weights, uncond).denoise(policy, X_T, TIMESTEPS, cond, None)
    shares = {"aligned": 0.8 * alpha}
    for name in ("aligned", "npo"):
        shares[name] = shares.get(name, 0) + negative.get(name, 0)
    finetunes = {made[name]: beta for name, beta in negative.items() if name in ("one", "other")}
    good = merged(sd15_folder, {made["aligned"]: 0.8})(X_T, TIMESTEPS, cond.tokens).sample
    null = policy.null().tokens.expand(2, -1, -1)
    lorate = {made[name]: scale for name, scale in shares.items()}
    bad = added(sd15_folder, finetunes, lorate)(X_T, TIMESTEPS, null).sample
    torch.testing.assert_close(found, bad + 7.5 * (good - bad), atol=1e-3, rtol=1e-4)


def test_without_a_lora_and_with_all_of_beta_the_fine_tune_itself_answers(sd15_folder: Path, made: dict[str, Path]):
    tuned = unet(made["one"])
    for path in (made["one"], made["one"] / "unet"):
        policy, weights, uncond = open_guided_model(str(sd15_folder), {str(path): 1.0})
        null = policy.null().tokens.expand(2, -1, -1)
        cond = policy.null().map(lambda tensor: tensor.expand(2, *tensor.shape[1:]))
        found = policy.denoise(X_T, TIMESTEPS, cond, weights=uncond)
        torch.testing.assert_close(found, tuned(X_T, TIMESTEPS, null).sample, atol=1e-5, rtol=1e-5)
        plain = unet(sd15_folder)(X_T, TIMESTEPS, null).sample
        torch.testing.assert_close(policy.denoise(X_T, TIMESTEPS, cond, weights=weights), plain, atol=1e-5, rtol=1e-5)


def test_the_second_network_is_linear_in_beta(sd15_folder: Path, made: dict[str, Path]):
    backbone, base = toys.backbone(sd15_folder), unet(sd15_folder).state_dict()

    def difference(betas: dict[str, float]) -> dict[str, torch.Tensor]:
        moved = moved_by_finetunes(backbone, {str(made[name]): beta for name, beta in betas.items()})
        return {name: tensor - base[name] for name, tensor in moved.state_dict().items()}

    one, other = difference({"one": 1.0}), difference({"other": 1.0})
    found = difference({"one": 0.3, "other": -2.0})
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, 0.3 * one[name] - 2 * other[name], atol=1e-6, rtol=0)


def test_a_whole_diffusers_folder_is_a_fine_tune(sd15_folder: Path, made: dict[str, Path], tmp_path: Path):
    shutil.copytree(sd15_folder, tmp_path / "whole")
    shutil.copytree(made["one"] / "unet", tmp_path / "whole" / "unet", dirs_exist_ok=True)
    settings = GenerationConfig(guidance_scale=4, inference_steps=2)

    def images(path: Path) -> list[Any]:
        policy, weights, uncond = open_guided_model(str(sd15_folder), {str(path): 1.0})
        return [
            image.tobytes() for image in generate_images(policy, ["a"], [1], settings, negative=uncond, weights=weights)
        ]

    assert images(tmp_path / "whole") == images(made["one"]) != images(made["other"])


def test_the_second_network_is_out_of_the_adapters_reach(sd15_folder: Path, made: dict[str, Path]):
    policy, weights, uncond = open_guided_model(
        str(sd15_folder), {str(made["one"]): 0.5}, loras={str(made["aligned"]): 1.0}
    )
    cond = policy.null().map(lambda tensor: tensor.expand(2, *tensor.shape[1:]))
    before = policy.denoise(X_T, TIMESTEPS, cond, weights=uncond)
    with policy.mixture({"lora0": 3.0}) as module:
        assert module is policy.denoiser
        assert policy.denoise(X_T, TIMESTEPS, cond, weights=uncond).equal(before)
    assert policy.network(uncond) is not policy.network(weights) is policy.denoiser
    assert not any(parameter.requires_grad for parameter in policy.network(uncond).parameters())
    plain, _ = open_model(str(sd15_folder))
    with pytest.raises(ValueError, match="no adapter negative here"):
        plain.denoise(X_T, TIMESTEPS, cond, weights="negative")


def test_half_precision_keeps_the_fine_tunes_weights(sd15_folder: Path, made: dict[str, Path]):
    policy, _, uncond = open_guided_model(str(sd15_folder), {str(made["one"]): 1.0}, precision="bf16")
    tuned = unet(made["one"]).bfloat16().state_dict()
    found = policy.network(uncond).state_dict()
    assert all(found[name].equal(tensor) for name, tensor in tuned.items())


def generate(*options: str):
    return CliRunner().invoke(app, ["generate", "--prompt", "a red circle", "--steps", "2", *options])


def test_the_record_knows_the_fine_tune_and_its_shares(sd15_folder: Path, made: dict[str, Path], tmp_path: Path):
    tuned = shutil.copytree(made["one"], tmp_path / "tuned")
    options = ("--model", str(sd15_folder), "--lora", str(made["aligned"]), "--out", str(tmp_path / "out"))
    options += ("--negative", f"{tuned}:0.7", "--negative-alpha", "0.5")
    assert generate(*options).exit_code == 0
    record = json.loads((tmp_path / "out" / "generation.json").read_text())
    assert (record["negative"], record["negative_alpha"]) == ({str(tuned): 0.7}, 0.5)
    assert record["guidance"]["uncond"] == "negative"
    assert generate(*options).exit_code == 0  # there is nothing left to make
    assert "negative_alpha 0.5, not None" in str(generate(*options[:-2]).exception)
    shutil.copytree(made["other"], tuned, dirs_exist_ok=True)
    assert "its images were made with other weights" in str(generate(*options).exception)


def refusal(model: Path, negative: Path) -> str:
    with pytest.raises(InputError) as caught:
        open_guided_model(str(model), {str(negative): 1.0})
    return str(caught.value)


def test_another_architecture_is_refused(sd15_folder: Path, sdxl_folder: Path, tmp_path: Path):
    assert f"{sdxl_folder}: a UNet of another architecture: add_embedding" in refusal(sd15_folder, sdxl_folder)
    other = UNet2DConditionModel.from_config({**unet(sd15_folder).config, "in_channels": 9})
    assert isinstance(other, UNet2DConditionModel)
    other.save_pretrained(tmp_path / "unet")
    said = refusal(sd15_folder, tmp_path)
    assert "conv_in.weight is [16, 9, 3, 3] there and [16, 4, 3, 3] in the model; give a fine-tune of the model" in said


def test_weights_that_are_not_whole_are_refused(sd15_folder: Path, made: dict[str, Path], tmp_path: Path):
    torn = shutil.copytree(made["one"], tmp_path / "torn")
    (torn / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    assert f"{torn}: its unet has no .safetensors weights" in refusal(sd15_folder, torn)


def test_another_prediction_type_is_refused(sd15_folder: Path, made: dict[str, Path], tmp_path: Path):
    v = standins.tiny_sd15(tmp_path / "v", prediction_type="v_prediction")
    assert f"{v}: a fine-tune that predicts v_prediction, and the model predicts epsilon" in refusal(sd15_folder, v)
    run = shutil.copytree(made["one"], tmp_path / "run")
    for backbone, says in (
        (f"{{name: sd15, pretrained: {v}}}", "predicts v_prediction"),
        (f"{{name: sd15, pretrained: {sd15_folder}, prediction_type: v_prediction}}", "predicts v_prediction"),
    ):
        (run / "config.yaml").write_text(f"backbone: {backbone}\n")
        for path in (run, run / "unet"):
            assert says in refusal(sd15_folder, path)
    (run / "config.yaml").write_text(f"backbone: {{name: sd15, pretrained: {sd15_folder}}}\n")
    open_guided_model(str(sd15_folder), {str(run): 1.0})
