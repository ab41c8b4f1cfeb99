"""Diffusers folders: every tensor comes from the folder, in the variant that is there, or a message says what to do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from t2ialign.backbones.stable_diffusion import StableDiffusion15, StableDiffusionXL
from t2ialign.errors import InputError

PARTS = {
    "sd15": ["unet", "vae", "text_encoder"],
    "sdxl": ["unet", "vae", "text_encoder", "text_encoder_2"],
}


def build(family: str, folder: Path, **options):
    config = StableDiffusionXL if family == "sdxl" else StableDiffusion15
    return config(pretrained=str(folder), **options).build(torch.device("cpu"))


def failure(family: str, folder: Path, **options) -> str:
    with pytest.raises(InputError) as caught:
        build(family, folder, **options)
    return str(caught.value)


def weights(folder: Path, part: str) -> Path:
    return next((folder / part).glob("*.safetensors"))


def change(path: Path, how: Callable[[dict[str, Tensor]], None]) -> None:
    tensors = load_file(path)
    how(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


@pytest.mark.parametrize(("family", "part"), [(family, part) for family, parts in PARTS.items() for part in parts])
def test_a_tensor_that_is_missing_or_left_over_is_named(request, tmp_path: Path, family: str, part: str):
    folder = shutil.copytree(request.getfixturevalue(f"{family}_folder"), tmp_path / "model")
    path = weights(folder, part)
    whole = path.read_bytes()
    for number in (0, len(load_file(path)) // 2, -1):
        missing: list[str] = []
        change(path, lambda tensors, number=number, missing=missing: missing.append(sorted(tensors)[number]))
        change(path, lambda tensors, missing=missing: [tensors.pop(name) for name in missing] and None)
        message = failure(family, folder)
        assert f"its {part} lacks 1 tensors, the first: " in message
        assert missing[0].removeprefix("text_model.") in message
        path.write_bytes(whole)
    change(path, lambda tensors: tensors.update({"stray.weight": torch.zeros(2)}))
    message = failure(family, folder)
    assert f"its {part} holds 1 tensors that have no place in the model, the first: " in message
    assert "stray.weight" in message


def test_tensors_that_older_tools_saved_are_no_strangers(sd15_folder: Path, tmp_path: Path):
    folder = shutil.copytree(sd15_folder, tmp_path / "model")
    name = "text_model.embeddings.position_ids"
    change(weights(folder, "text_encoder"), lambda tensors: tensors.update({name: torch.arange(16)[None]}))
    assert build("sd15", folder).fingerprint == build("sd15", sd15_folder).fingerprint


def test_attention_of_older_vaes_is_read_by_its_old_names(sd15_folder: Path, tmp_path: Path):
    folder = shutil.copytree(sd15_folder, tmp_path / "model")
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def rename(tensors: dict[str, Tensor]) -> None:
        for name in list(tensors):
            for new, former in old.items():
                if f"attentions.0.{new}." in name:
                    tensors[name.replace(f".{new}.", f".{former}.")] = tensors.pop(name)

    change(weights(folder, "vae"), rename)
    assert build("sd15", folder).fingerprint == build("sd15", sd15_folder).fingerprint


@pytest.mark.parametrize("part", PARTS["sd15"])
def test_a_tensor_of_another_shape_is_refused(sd15_folder: Path, tmp_path: Path, part: str):
    folder = shutil.copytree(sd15_folder, tmp_path / "model")

    def narrow(tensors: dict[str, Tensor]) -> None:
        name = next(name for name, tensor in tensors.items() if tensor.ndim == 2)
        tensors[name] = tensors[name][:-1].contiguous()

    change(weights(folder, part), narrow)
    assert f"its {part} cannot be loaded" in failure("sd15", folder)


def test_a_part_of_another_class_is_refused(sd15_folder: Path, tmp_path: Path):
    folder = shutil.copytree(sd15_folder, tmp_path / "model")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "vae": ["diffusers", "AutoencoderTiny"]}))
    assert "its vae is a AutoencoderTiny; this backbone needs a AutoencoderKL" in failure("sd15", folder)
    (folder / "model_index.json").write_text(json.dumps({**index, "vae": [None, None]}))
    assert "its vae is missing" in failure("sd15", folder)


def as_variant(folder: Path, variant: str, parts: list[str]) -> None:
    for part in parts:
        path = weights(folder, part)
        path.rename(path.with_name(f"{path.stem}.{variant}.safetensors"))


def test_a_folder_of_one_variant_is_read_and_of_two_names_the_key(sd15_folder: Path, tmp_path: Path):
    folder = shutil.copytree(sd15_folder, tmp_path / "model")
    as_variant(folder, "fp16", PARTS["sd15"])
    for options in ({}, {"variant": "fp16"}):
        assert build("sd15", folder, **options).fingerprint == build("sd15", sd15_folder).fingerprint
    assert "has no files of variant 'fp8' (backbone.variant); there are: fp16" in failure("sd15", folder, variant="fp8")
    whole = failure("sd15", sd15_folder, variant="fp16")
    assert "has no files of variant 'fp16' (backbone.variant); it has files without a variant only" in whole
    path = weights(folder, "unet")
    shutil.copy(path, path.with_name("diffusion_pytorch_model.ema.safetensors"))
    message = failure("sd15", folder)
    assert "its unet has weights of variants ema and fp16; say which: backbone.variant: ema" in message
    assert "--backbone variant=ema" in message
    assert build("sd15", folder, variant="ema").fingerprint


def test_a_part_that_lacks_the_variant_is_read_without(sd15_folder: Path, tmp_path: Path):
    folder = shutil.copytree(sd15_folder, tmp_path / "model")
    as_variant(folder, "fp16", ["unet"])
    assert build("sd15", folder).fingerprint == build("sd15", folder, variant="fp16").fingerprint


def test_another_vae_of_one_variant_is_read(sd15_folder: Path, tmp_path: Path):
    vae = shutil.copytree(sd15_folder / "vae", tmp_path / "vae")
    path = next(vae.glob("*.safetensors"))
    path.rename(path.with_name("diffusion_pytorch_model.fp16.safetensors"))
    assert build("sd15", sd15_folder, vae=str(vae)).fingerprint == build("sd15", sd15_folder).fingerprint


def test_the_prediction_type_of_a_folder_can_be_set(sd15_folder: Path):
    assert build("sd15", sd15_folder).schedule.prediction_type == "epsilon"
    backbone = build("sd15", sd15_folder, prediction_type="v_prediction", zero_terminal_snr=True)
    assert backbone.schedule.prediction_type == "v_prediction"
    last = torch.tensor([backbone.schedule.num_train_timesteps - 1])
    assert backbone.schedule.alpha_sigma(last)[0].item() == 0
    assert backbone.sampling["spacing"] == "trailing"
    assert backbone.pipeline().scheduler.config.prediction_type == "v_prediction"
    assert "zero terminal SNR (ztsnr) needs v-prediction" in failure("sd15", sd15_folder, zero_terminal_snr=True)


@pytest.mark.parametrize(
    ("file", "key", "value", "said"),
    [
        ("unet/config.json", "sample_size", None, "unet/config.json: sample_size is None, no positive number"),
        ("vae/config.json", "scaling_factor", "x", "vae/config.json: scaling_factor is 'x', no positive number"),
        ("unet/config.json", "block_out_channels", 3, "its unet cannot be loaded"),
        ("scheduler/scheduler_config.json", "beta_schedule", "x", "model"),
        ("scheduler/scheduler_config.json", "timestep_spacing", "x", "its scheduler has timestep_spacing 'x'"),
        ("scheduler/scheduler_config.json", "prediction_type", "sample", "predicts 'sample'; known: epsilon"),
    ],
)
def test_configs_that_cannot_be_used_are_named(sd15_folder: Path, tmp_path: Path, file, key, value, said: str):
    folder = shutil.copytree(sd15_folder, tmp_path / "model")
    config = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({**config, key: value}))
    message = failure("sd15", folder)
    assert str(folder) in message
    assert said in message
