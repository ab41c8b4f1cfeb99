"""Single files: the same model as its folder, what their marks say is obeyed, what they lack is named."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import standins
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
from safetensors.torch import load_file, save_file
from single_file import write_single_file
from torch import Tensor

from t2ialign.backbones.ldm_names import UNET_PREFIX, VAE_PREFIX, unet_names, vae_names
from t2ialign.backbones.stable_diffusion import StableDiffusion15, StableDiffusionXL
from t2ialign.errors import EnvironmentProblem, InputError, UserError
from t2ialign.models import family_of

PROMPTS = ["a red circle", ""]
FAMILIES = ["sd15", "sdxl"]


def build(family: str, path: Path, **options):
    config = StableDiffusionXL if family == "sdxl" else StableDiffusion15
    return config(pretrained=str(path), **options).build(torch.device("cpu"))


def failure(error: type[UserError], family: str, path: Path, **options) -> str:
    with pytest.raises(error) as caught:
        build(family, path, **options)
    return str(caught.value)


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def folder(request: pytest.FixtureRequest, family: str) -> Path:
    return request.getfixturevalue(f"{family}_folder")


@pytest.fixture
def path(folder: Path, tmp_path: Path) -> Path:
    return write_single_file(folder, tmp_path / "model.safetensors")


def rewrite(path: Path, *, without: str = "", extra: dict[str, Tensor] | None = None, header=None) -> None:
    tensors = {key: part for key, part in load_file(path).items() if not without or not key.startswith(without)}
    save_file({**tensors, **(extra or {})}, path, metadata=header)


def test_a_single_file_is_the_same_model_as_its_folder(path: Path, folder: Path, family: str):
    single, whole = build(family, path, single_file_config=str(folder)), build(family, folder)
    pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    posterior = whole.encode_images(pixels)
    torch.testing.assert_close(single.encode_images(pixels).mean, posterior.mean)
    torch.testing.assert_close(single.decode_latents(posterior.mean), whole.decode_latents(posterior.mean))
    cond = whole.encode_prompts(PROMPTS)
    torch.testing.assert_close(single.encode_prompts(PROMPTS).tokens, cond.tokens)
    size = whole.geometry((64, 64), (0, 0), (64, 64))
    inputs = posterior.mean, torch.tensor([1, 999]), cond, None if size is None else size.expand(2, -1)
    with torch.no_grad():
        expected = whole.predict(whole.denoiser, *inputs)
        torch.testing.assert_close(single.predict(single.denoiser, *inputs), expected)
    assert single.sampling == whole.sampling
    assert single.fingerprint == whole.fingerprint
    assert family_of(str(path)) == family


def test_a_single_file_of_the_other_family_is_refused(sdxl_folder: Path, tmp_path: Path):
    path = write_single_file(sdxl_folder, tmp_path / "model.safetensors")
    assert "set backbone.name: sdxl" in failure(InputError, "sd15", path)


def test_a_single_file_without_configs_and_hub_says_what_to_give(sd15_folder: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    path = write_single_file(sd15_folder, tmp_path / "model.safetensors")
    assert "backbone.single_file_config" in failure(EnvironmentProblem, "sd15", path)


def test_a_torn_single_file_is_named(sd15_folder: Path, tmp_path: Path):
    path = write_single_file(sd15_folder, tmp_path / "model.safetensors")
    path.write_bytes(path.read_bytes()[:-100])
    assert f"{path}: not a readable safetensors file" in failure(InputError, "sd15", path)


# names


def test_names_of_unet_and_vae_are_those_that_diffusers_reads(folder: Path):
    """diffusers' own conversion of a file with our names gives back every tensor."""
    for part, model, prefix, names, convert in (
        ("unet", UNet2DConditionModel, UNET_PREFIX, unet_names, convert_ldm_unet_checkpoint),
        ("vae", AutoencoderKL, VAE_PREFIX, vae_names, convert_ldm_vae_checkpoint),
    ):
        tensors = load_file(folder / part / "diffusion_pytorch_model.safetensors")
        file = {prefix + name: tensors[key] for key, name in names(tensors).items()}
        assert len(file) == len(tensors)
        converted = convert(dict(file), config=dict(model.load_config(folder / part)))
        assert converted.keys() == tensors.keys()
        assert all(torch.equal(converted[key], tensors[key]) for key in tensors)


# what a file lacks or has too much of


def sample(names: list[str]) -> list[str]:
    """The first, middle and last tensor of every part of a checkpoint."""
    parts: dict[str, list[str]] = {}
    for name in sorted(names):
        parts.setdefault(".".join(name.split(".")[: 3 if name.startswith("conditioner") else 1]), []).append(name)
    return [part[number] for part in parts.values() for number in (0, len(part) // 2, -1)]


def test_every_tensor_that_a_file_lacks_is_named(path: Path, folder: Path, family: str, tmp_path: Path):
    whole = load_file(path)
    for name in sample(list(whole)):
        lacking = tmp_path / "lacking.safetensors"
        save_file({key: part for key, part in whole.items() if key != name}, lacking)
        message = failure(InputError, family, lacking, single_file_config=str(folder))
        assert message.startswith(f"{lacking}: the checkpoint lacks 1 tensors, the first: {name};"), message


@pytest.mark.parametrize("name", [f"{UNET_PREFIX}input_blocks.0.0.bias_2", f"{VAE_PREFIX}x", "control_model.weight"])
def test_a_tensor_without_a_place_is_named(path: Path, folder: Path, family: str, name: str):
    rewrite(path, extra={name: torch.zeros(2)})
    message = failure(InputError, family, path, single_file_config=str(folder))
    assert f"holds 1 tensors that have no place in the model, the first: {name}" in message


def test_scaled_and_quantised_files_are_refused(path: Path, folder: Path, family: str):
    name = f"{UNET_PREFIX}out.2.weight"
    tensors = load_file(path)
    rewrite(path, extra={f"{UNET_PREFIX}out.2.scale_weight": torch.ones(1)})
    assert "scale_weight" in failure(InputError, family, path, single_file_config=str(folder))
    save_file({**tensors, name: tensors[name].to(torch.int8)}, path)
    message = failure(InputError, family, path, single_file_config=str(folder))
    assert f"{name} is stored as I8; quantised files are not supported" in message


def test_what_training_left_in_a_published_file_is_passed_over(path: Path, folder: Path, family: str):
    text = "cond_stage_model" if family == "sd15" else "conditioner.embedders.0"
    leftovers = {
        "alphas_cumprod": torch.zeros(1000),
        "sqrt_one_minus_alphas_cumprod": torch.zeros(1000),
        "model_ema.decay": torch.zeros(()),
        "denoiser.sigmas": torch.zeros(1000),
        "first_stage_model.loss.logvar": torch.zeros(()),
        f"{text}.transformer.text_model.embeddings.position_ids": torch.arange(16)[None],
        f"{text}.logit_scale": torch.zeros(()),
    }
    rewrite(path, extra=leftovers)
    assert build(family, path, single_file_config=str(folder)).fingerprint == build(family, folder).fingerprint


def test_a_file_without_a_vae_names_the_key_and_the_key_gives_one(path: Path, folder: Path, family: str):
    rewrite(path, without=VAE_PREFIX)
    message = failure(InputError, family, path, single_file_config=str(folder))
    assert "holds no VAE (no tensor first_stage_model.…); set backbone.vae" in message
    assert "--backbone vae=PATH" in message
    opened = build(family, path, single_file_config=str(folder), vae=str(folder))
    assert opened.fingerprint == build(family, folder).fingerprint


def test_a_vae_that_is_given_stands_for_the_files_own(path: Path, folder: Path, family: str, tmp_path: Path):
    other = (standins.tiny_sdxl if family == "sdxl" else standins.tiny_sd15)(tmp_path / "other", seed=1)
    opened = build(family, path, single_file_config=str(folder), vae=str(other))
    expected = build(family, folder, vae=str(other))
    assert opened.fingerprint == expected.fingerprint != build(family, folder).fingerprint


@pytest.mark.parametrize(
    "without", ["cond_stage_model", "conditioner.embedders.0", "conditioner.embedders.1", UNET_PREFIX]
)
def test_a_file_without_a_part_names_the_part(request, tmp_path: Path, without: str):
    family = "sd15" if without in ("cond_stage_model", UNET_PREFIX) else "sdxl"
    folder = request.getfixturevalue(f"{family}_folder")
    path = write_single_file(folder, tmp_path / "model.safetensors")
    rewrite(path, without=without)
    message = failure(InputError, family, path, single_file_config=str(folder))
    part = "UNet" if without == UNET_PREFIX else "second text encoder" if without.endswith("1") else "text encoder"
    assert f"holds no {part}" in message


def test_a_checkpoint_of_stable_diffusion_2_is_called_so(sd15_folder: Path, tmp_path: Path):
    path = tmp_path / "model.safetensors"
    save_file(
        {"cond_stage_model.model.ln_final.weight": torch.zeros(4), f"{UNET_PREFIX}out.0.bias": torch.zeros(4)}, path
    )
    assert "a checkpoint of Stable Diffusion 2" in failure(InputError, "sd15", path)


# another VAE in a single file


@pytest.mark.parametrize("prefix", ["", VAE_PREFIX])
def test_a_vae_file_takes_its_config_from_the_model(sdxl_folder: Path, tmp_path: Path, prefix: str):
    other = standins.tiny_sdxl(tmp_path / "other", seed=1)
    whole = load_file(write_single_file(other, tmp_path / "whole.safetensors"))
    vae = {prefix + key.removeprefix(VAE_PREFIX): part for key, part in whole.items() if key.startswith(VAE_PREFIX)}
    path = tmp_path / "vae.safetensors"
    save_file({**vae, "loss.logvar": torch.zeros(())}, path)
    expected = build("sdxl", sdxl_folder, vae=str(other))
    assert build("sdxl", sdxl_folder, vae=str(path)).fingerprint == expected.fingerprint
    name = f"{prefix}decoder.conv_in.weight"
    save_file({key: part for key, part in vae.items() if key != name}, path)
    assert f"the VAE lacks 1 tensors, the first: {name}" in failure(InputError, "sdxl", sdxl_folder, vae=str(path))


def test_a_vae_file_in_diffusers_layout_is_read(sd15_folder: Path, tmp_path: Path):
    other = standins.tiny_sd15(tmp_path / "other", seed=1)
    path = shutil.copy(other / "vae" / "diffusion_pytorch_model.safetensors", tmp_path / "vae.safetensors")
    expected = build("sd15", sd15_folder, vae=str(other))
    assert build("sd15", sd15_folder, vae=str(path)).fingerprint == expected.fingerprint


# marks of the prediction


V_MARKS = {
    "tensor": ({"v_pred": torch.zeros(0)}, {}),
    "modelspec": ({}, {"modelspec.prediction_type": "v"}),
    "comfy": ({}, {"modelspec.predict_key": "v"}),
    "kohya": ({}, {"ss_v_parameterization": "True"}),
    "all": ({"v_pred": torch.zeros(0)}, {"modelspec.prediction_type": "v", "ss_v_parameterization": "True"}),
}


@pytest.mark.parametrize("mark", V_MARKS)
def test_marks_of_v_prediction_are_obeyed(sd15_folder: Path, tmp_path: Path, mark: str):
    path = write_single_file(sd15_folder, tmp_path / "model.safetensors")
    extra, header = V_MARKS[mark]
    rewrite(path, extra=extra, header=header)
    schedule = build("sd15", path, single_file_config=str(sd15_folder)).schedule
    whole = build("sd15", sd15_folder).schedule
    assert (whole.prediction_type, schedule.prediction_type) == ("epsilon", "v_prediction")
    timesteps = torch.arange(1000)
    assert torch.equal(schedule.alpha_sigma(timesteps)[0], whole.alpha_sigma(timesteps)[0])
    assert (
        build("sd15", path, single_file_config=str(sd15_folder), prediction_type="epsilon").schedule.prediction_type
        == "epsilon"
    )


def test_a_yaml_beside_the_file_is_a_mark_too(sd15_folder: Path, tmp_path: Path):
    path = write_single_file(sd15_folder, tmp_path / "model.safetensors")
    path.with_suffix(".yaml").write_text('model:\n  params:\n    parameterization: "v"\n')
    assert build("sd15", path, single_file_config=str(sd15_folder)).schedule.prediction_type == "v_prediction"


def test_zero_terminal_snr_is_obeyed_with_sampling_from_the_last_timestep(path: Path, folder: Path, family: str):
    rewrite(path, extra={"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)})
    backbone = build(family, path, single_file_config=str(folder))
    alpha, sigma = backbone.schedule.alpha_sigma(torch.tensor([0, 999]))
    whole = build(family, folder).schedule.alpha_sigma(torch.tensor([0, 999]))[0]
    assert (alpha[1].item(), sigma[1].item()) == (0, 1)
    torch.testing.assert_close(alpha[0], whole[0], atol=1e-6, rtol=0)  # the first level is kept
    assert backbone.sampling["spacing"] == "trailing"
    pipeline = backbone.pipeline()
    pipeline.scheduler.set_timesteps(10)
    assert pipeline.scheduler.timesteps[0] == 999
    assert pipeline.scheduler.alphas_cumprod[-1] == 0
    kept = build(family, path, single_file_config=str(folder), zero_terminal_snr=False).schedule
    assert kept.alpha_sigma(torch.tensor([999]))[0] == whole[1]


@pytest.mark.parametrize(
    ("extra", "header", "said"),
    [
        ({"ztsnr": torch.zeros(0)}, {}, "zero terminal SNR (ztsnr) needs v-prediction"),
        (
            {"v_pred": torch.zeros(0)},
            {"modelspec.prediction_type": "epsilon"},
            "contradicts itself (tensor v_pred: v_pred",
        ),
        ({"v_pred": torch.zeros(0)}, {"ss_v_parameterization": "False"}, "set backbone.prediction_type"),
        ({}, {"modelspec.prediction_type": "sample"}, "says prediction 'sample'; known: epsilon, v_prediction"),
        ({"edm_mean": torch.zeros(4)}, {}, "an EDM model (tensor edm_mean)"),
        ({"edm_vpred.sigma_max": torch.zeros(())}, {}, "an EDM model (tensor edm_vpred.sigma_max)"),
    ],
)
def test_marks_that_cannot_be_obeyed_are_refused(sd15_folder: Path, tmp_path: Path, extra, header, said: str):
    path = write_single_file(sd15_folder, tmp_path / "model.safetensors")
    rewrite(path, extra=extra, header=header)
    assert said in failure(InputError, "sd15", path, single_file_config=str(sd15_folder))
