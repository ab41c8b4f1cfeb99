"""SD1.5 and SDXL backbones against their diffusers pipelines, and what wrong weights say."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest
import standins
import torch
from diffusers import StableDiffusionPipeline
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError
from safetensors.torch import load_file, save_file

from t2ialign.backbones.stable_diffusion import StableDiffusion15, StableDiffusionXL
from t2ialign.errors import EnvironmentProblem, InputError, UserError
from t2ialign.types import Conditioning

CPU = torch.device("cpu")
PROMPTS = ["a red circle", "", "two cats, one blue square & a dog"]
LONG = "a red circle above a blue square left of a green triangle and a cat"


def build(family: str, folder: Path | str, dtype: torch.dtype = torch.float32, **options):
    config = StableDiffusionXL if family == "sdxl" else StableDiffusion15
    return config(pretrained=str(folder), **options).build(CPU, dtype)


@pytest.fixture(scope="module")
def sd15(sd15_folder: Path):
    return build("sd15", sd15_folder)


@pytest.fixture(scope="module")
def sdxl(sdxl_folder: Path):
    return build("sdxl", sdxl_folder)


@pytest.fixture
def pixels() -> torch.Tensor:
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1


def failure(error: type[UserError], family: str, pretrained: Path | str, **options) -> str:
    with pytest.raises(error) as caught:
        build(family, pretrained, **options)
    return str(caught.value)


# prompts


def test_sd15_prompts_equal_the_pipelines(sd15):
    given, null = sd15.pipeline().encode_prompt(PROMPTS, CPU, 1, True)
    cond = sd15.encode_prompts(PROMPTS)
    torch.testing.assert_close(cond.tokens, given)
    assert cond.pooled is None
    torch.testing.assert_close(sd15.null().tokens.expand(3, -1, -1), null)


def test_sdxl_prompts_and_pooled_equal_the_pipelines(sdxl):
    given, null, pooled, null_pooled = sdxl.pipeline().encode_prompt(PROMPTS, device=CPU)
    cond = sdxl.encode_prompts(PROMPTS)
    torch.testing.assert_close(cond.tokens, given)
    torch.testing.assert_close(cond.pooled, pooled)
    assert cond.tokens.shape == (3, standins.MAX_TOKENS, 32 + 40)
    assert null.count_nonzero() == null_pooled.count_nonzero() == 0  # force_zeros_for_empty_prompt
    torch.testing.assert_close(sdxl.null().tokens.expand(3, -1, -1), null)
    torch.testing.assert_close(sdxl.null().pooled.expand(3, -1), null_pooled)


def test_null_can_be_the_encoded_empty_prompt_or_zeros(sd15_folder: Path, sdxl_folder: Path):
    sdxl = build("sdxl", sdxl_folder, null="empty")
    torch.testing.assert_close(sdxl.null().tokens, sdxl.encode_prompts([""]).tokens)
    torch.testing.assert_close(sdxl.null().pooled, sdxl.encode_prompts([""]).pooled)
    assert build("sd15", sd15_folder, null="zeros").null().tokens.count_nonzero() == 0


def test_a_model_that_does_not_force_zeros_gets_the_encoded_empty_prompt(sdxl_folder: Path, tmp_path: Path):
    folder = shutil.copytree(sdxl_folder, tmp_path / "model")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "force_zeros_for_empty_prompt": False}))
    assert build("sdxl", folder).null().tokens.count_nonzero() > 0


def test_prompts_cut_short_are_counted_and_warned_of_once(sd15_folder: Path, caplog):
    backbone = build("sd15", sd15_folder)
    with caplog.at_level(logging.WARNING, logger="t2ialign"):
        cut = backbone.encode_prompts([LONG, "a cat"])
        backbone.encode_prompts([LONG + " " + LONG])
    assert backbone.truncated_prompts == 2
    ours = [record.message for record in caplog.records if record.name.startswith("t2ialign")]
    assert len(ours) == 1
    assert "1 of 2 prompts exceed" in ours[0]
    assert cut.tokens.shape == (2, standins.MAX_TOKENS, 32)


# images


@pytest.mark.parametrize(("family", "scaling"), [("sd15", 0.18215), ("sdxl", 0.13025)])
def test_latents_are_the_vaes_times_the_scaling_factor(request, pixels, family: str, scaling: float):
    backbone = request.getfixturevalue(family)
    vae = backbone.pipeline().vae
    with torch.no_grad():
        expected = vae.encode(pixels).latent_dist
        images = vae.decode(expected.mean).sample
    posterior = backbone.encode_images(pixels)
    torch.testing.assert_close(posterior.mean, expected.mean * scaling)
    torch.testing.assert_close(posterior.std, expected.std * scaling)
    assert posterior.mean.shape == (2, backbone.latent_channels, 64 // backbone.vae_factor, 64 // backbone.vae_factor)
    decoded = backbone.decode_latents(posterior.mean)
    torch.testing.assert_close(decoded, (images / 2 + 0.5).clamp(0, 1), atol=1e-5, rtol=1e-4)


def test_in_fp16_the_stock_sdxl_vae_stays_in_fp32(sdxl_folder: Path, sd15_folder: Path):
    sdxl = build("sdxl", sdxl_folder, torch.float16).pipeline()
    assert (sdxl.vae.dtype, sdxl.unet.dtype, sdxl.text_encoder.dtype) == (torch.float32, torch.float16, torch.float16)
    assert build("sdxl", sdxl_folder, torch.bfloat16).pipeline().vae.dtype == torch.bfloat16
    assert build("sd15", sd15_folder, torch.float16).pipeline().vae.dtype == torch.float16


def test_a_vae_that_overflows_is_named(sd15_folder: Path, pixels):
    backbone = build("sd15", sd15_folder)
    backbone.pipeline().vae.quant_conv.bias.data.fill_(float("nan"))
    with pytest.raises(EnvironmentProblem, match="sdxl-vae-fp16-fix"):
        backbone.encode_images(pixels)


def test_another_vae_replaces_the_models_own(sd15_folder: Path, tmp_path: Path, pixels):
    other = standins.tiny_sd15(tmp_path / "other", seed=1)
    expected = build("sd15", other).encode_images(pixels).mean
    for place in (other, other / "vae"):
        found = build("sd15", sd15_folder, vae=str(place)).encode_images(pixels).mean
        torch.testing.assert_close(found, expected)


# denoiser


def test_sdxl_time_ids_equal_the_pipelines(sdxl):
    ours = sdxl.geometry((768, 1365), (16, 0), (64, 64))
    theirs = sdxl.pipeline()._get_add_time_ids((768, 1365), (16, 0), (64, 64), torch.float32, 24)
    assert ours.tolist() == theirs[0].tolist() == [768, 1365, 16, 0, 64, 64]


def test_sd15_has_no_geometry(sd15):
    assert sd15.geometry((64, 64), (0, 0), (64, 64)) is None


def test_sdxl_without_geometry_or_pooled_text_is_refused(sdxl):
    cond = sdxl.encode_prompts(["a cat"])
    latents, timestep = torch.zeros(1, 4, 8, 8), torch.tensor([1])
    with pytest.raises(ValueError, match="geometry"):
        sdxl.predict(sdxl.denoiser, latents, timestep, cond, None)
    with pytest.raises(ValueError, match="pooled"):
        sdxl.predict(sdxl.denoiser, latents, timestep, Conditioning(cond.tokens), torch.zeros(1, 6))


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_everything_is_frozen_and_in_evaluation_mode(request, family: str):
    for part in request.getfixturevalue(family).pipeline().components.values():
        if isinstance(part, torch.nn.Module):
            assert not part.training
            assert not any(parameter.requires_grad for parameter in part.parameters())


def test_sizes_and_sampling_come_from_the_models_own_files(sd15, sdxl):
    for backbone in (sd15, sdxl):
        assert (backbone.resolution, backbone.vae_factor, backbone.latent_channels) == (64, 8, 4)
        assert backbone.sampling == {"spacing": "leading", "offset": 1}
        assert backbone.schedule.num_train_timesteps == 1000


# fingerprint and release


def test_the_fingerprint_changes_with_encoders_only(sd15, sd15_folder: Path, tmp_path: Path):
    assert build("sd15", sd15_folder).fingerprint == sd15.fingerprint
    assert build("sd15", standins.tiny_sd15(tmp_path / "other", seed=1)).fingerprint != sd15.fingerprint
    unet = build("sd15", sd15_folder)
    for parameter in unet.denoiser.parameters():
        parameter.data.add_(1)
    assert unet.fingerprint == sd15.fingerprint
    text = build("sd15", sd15_folder)
    next(iter(text.pipeline().text_encoder.parameters())).data.add_(1e-3)
    assert text.fingerprint != sd15.fingerprint


def test_released_encoders_leave_null_and_fingerprint(sdxl_folder: Path, sdxl):
    backbone = build("sdxl", sdxl_folder, null="empty")
    expected = backbone.encode_prompts([""])
    backbone.release_encoders()
    torch.testing.assert_close(backbone.null().tokens, expected.tokens)
    assert backbone.fingerprint
    with pytest.raises(RuntimeError, match="released"):
        backbone.encode_prompts(["a cat"])


# wrong weights


def test_a_missing_path_suggests_its_neighbour(sd15_folder: Path):
    wrong = sd15_folder.parent / "tiny-sd16"
    assert failure(InputError, "sd15", wrong) == f"{wrong}: no such file or folder; did you mean {sd15_folder}?"


def test_a_folder_without_model_index_suggests_the_one_inside(sd15_folder: Path, tmp_path: Path):
    shutil.copytree(sd15_folder, tmp_path / "outer" / "inner")
    message = failure(InputError, "sd15", tmp_path / "outer")
    assert "no model_index.json" in message
    assert message.endswith(f"did you mean {tmp_path / 'outer' / 'inner'}?")


def test_a_damaged_model_index_is_named(sd15_folder: Path, tmp_path: Path):
    folder = shutil.copytree(sd15_folder, tmp_path / "model")
    (folder / "model_index.json").write_text("{")
    assert "model_index.json: damaged" in failure(InputError, "sd15", folder)


@pytest.mark.parametrize(("family", "other"), [("sd15", "sdxl"), ("sdxl", "sd15")])
def test_a_model_of_the_other_family_is_refused(request, family: str, other: str):
    message = failure(InputError, family, request.getfixturevalue(f"{other}_folder"))
    assert f"not a model of backbone '{family}'; set backbone.name: {other}" in message


@pytest.mark.parametrize("name", ["model.ckpt", "model.bin"])
def test_pickles_are_refused(name: str, sd15_folder: Path):
    assert "pickles" in failure(InputError, "sd15", name)
    assert "pickles" in failure(InputError, "sd15", sd15_folder, vae=name)


def test_a_folder_of_pickles_is_refused_and_not_opened(sd15_folder: Path, tmp_path: Path):
    folder = shutil.copytree(sd15_folder, tmp_path / "model")
    for path in list(folder.glob("*/*.safetensors")):
        torch.save(load_file(path), path.with_name(path.stem.replace("model", "pytorch_model") + ".bin"))
        path.unlink()
    assert "it holds only pickles" in failure(InputError, "sd15", folder)


def test_a_torn_weight_file_is_an_input_error(sd15_folder: Path, tmp_path: Path):
    folder = shutil.copytree(sd15_folder, tmp_path / "model")
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert str(folder) in failure(InputError, "sd15", folder)


def test_a_missing_weight_file_is_an_input_error(sd15_folder: Path, tmp_path: Path):
    folder = shutil.copytree(sd15_folder, tmp_path / "model")
    (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    assert str(folder) in failure(InputError, "sd15", folder)


def test_an_unreachable_hub_says_so_and_suggests_a_folder(monkeypatch, tmp_path: Path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "shapes-sd").mkdir(parents=True)
    message = failure(EnvironmentProblem, "sd15", "models/shapes-sb")
    assert "no such folder here; did you mean models/shapes-sd?" in message
    assert "the hub cannot be reached" in message
    assert "the hub cannot be reached" in failure(EnvironmentProblem, "sdxl", "some-owner/some-model")


def test_a_hub_model_that_moved_names_its_new_place(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    message = failure(InputError, "sd15", "runwayml/stable-diffusion-v1-5")
    assert message.endswith("the same weights: stable-diffusion-v1-5/stable-diffusion-v1-5")


@pytest.mark.parametrize(
    ("cause", "error", "advice"),
    [
        (GatedRepoError, EnvironmentProblem, "hf auth login"),
        (RepositoryNotFoundError, InputError, "no such model on the hub"),
        (RevisionNotFoundError, InputError, "no revision 'v9'"),
    ],
)
def test_what_the_hub_answers_becomes_advice(monkeypatch, cause, error, advice: str):
    def refuse(*_, **__):
        raise OSError("cannot load") from cause.__new__(cause, "4xx")  # as diffusers wraps it

    monkeypatch.setattr(StableDiffusionPipeline, "download", refuse)
    assert advice in failure(error, "sd15", "some-owner/some-model", revision="v9")


def test_an_inpainting_unet_is_refused(sd15_folder: Path, tmp_path: Path):
    folder = shutil.copytree(sd15_folder, tmp_path / "model")
    config = json.loads((folder / "unet" / "config.json").read_text())
    (folder / "unet" / "config.json").write_text(json.dumps({**config, "in_channels": 9}))
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    weights["conv_in.weight"] = torch.zeros(16, 9, 3, 3)
    save_file(weights, path, metadata={"format": "pt"})
    assert "in-painting" in failure(InputError, "sd15", folder)


def test_a_model_without_a_variance_preserving_schedule_is_refused(sdxl_folder: Path, tmp_path: Path):
    folder = shutil.copytree(sdxl_folder, tmp_path / "model")
    index = json.loads((folder / "model_index.json").read_text())
    index["scheduler"] = ["diffusers", "EDMDPMSolverMultistepScheduler"]
    (folder / "model_index.json").write_text(json.dumps(index))
    (folder / "scheduler" / "scheduler_config.json").write_text('{"_class_name": "EDMDPMSolverMultistepScheduler"}')
    assert "EDMDPMSolverMultistepScheduler is not a schedule" in failure(InputError, "sdxl", folder)


def test_a_lora_given_as_the_model_is_named(tmp_path: Path):
    path = tmp_path / "style.safetensors"
    save_file({"unet.mid_block.to_q.lora_A.weight": torch.zeros(4, 8)}, path)
    assert "a LoRA" in failure(InputError, "sd15", path)


def test_a_vae_alone_is_no_checkpoint(sd15_folder: Path):
    path = sd15_folder / "vae" / "diffusion_pytorch_model.safetensors"
    assert "no complete Stable Diffusion checkpoint" in failure(InputError, "sd15", path)
