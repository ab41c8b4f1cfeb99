"""What a LoRA was made for, by shapes, headers and the file beside it; models not named; families that differ."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from lora_files import saved
from safetensors.torch import load_file, save_file
from toys import pair_folder, write_config
from typer.testing import CliRunner

from t2ialign.backbones.lora_checks import FILE_NAME, lora_origin
from t2ialign.cli.main import app
from t2ialign.errors import InputError
from t2ialign.models import StatedModel, model_of_loras, open_model

CROSS = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
CONV = "lora_unet_mid_block_resnets_0_conv1"
HUB = "someone/anime"


def lora(path: Path, width: int | None = None, extra: str | None = None, **header: str) -> Path:
    """A file with the tensors that tell, or none of them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {f"{CONV}.lora_down.weight": torch.ones(2, 4, 3, 3)}
    if width is not None:
        tensors[f"{CROSS}.lora_down.weight"] = torch.ones(2, width)
    if extra is not None:
        tensors[extra] = torch.ones(2, 4)
    save_file(tensors, path, metadata=header or None)
    return path


OF_SDXL = {"ss_base_model_version": "sdxl_base_v1-0"}
TELLING: dict[str, tuple[dict, str | None, str]] = {
    "narrow": ({"width": 768}, "sd15", "cross-attention width 768"),
    "wide": ({"width": 2048}, "sdxl", "cross-attention width 2048"),
    "wide, whatever others say": ({"width": 2048, "ss_base_model_version": "sd_v1"}, "sdxl", "width 2048"),
    "kohya": (OF_SDXL, "sdxl", "header entry ss_base_model_version: sdxl_base_v1-0"),
    "kohya sd15": ({"ss_base_model_version": "sd_v1"}, "sd15", "header entry ss_base_model_version: sd_v1"),
    "modelspec": (
        {"modelspec.architecture": "stable-diffusion-xl-v1-base/lora"},
        "sdxl",
        "header entry modelspec.architecture: stable-diffusion-xl-v1-base",
    ),
    "modelspec sd15": ({"modelspec.architecture": "stable-diffusion-v1/lora"}, "sd15", "stable-diffusion-v1"),
    "ours": ({"t2ialign": json.dumps({"family": "sdxl"}), "ss_base_model_version": "sd_v1"}, "sdxl", "t2ialign"),
    "base": ({"ss_sd_model_name": "sd_xl_base_1.0.safetensors"}, "sdxl", "its base sd_xl_base_1.0.safetensors"),
    "base on the hub": ({"ss_sd_model_name": "runwayml/stable-diffusion-v1-5"}, "sd15", "its base runwayml/"),
    "second text encoder": (
        {"extra": "lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight"},
        "sdxl",
        "tensor lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight",
    ),
    "others": ({"modelspec.architecture": "flux-1-dev/lora"}, "flux-1-dev", "modelspec.architecture: flux-1-dev"),
    "nothing": ({"format": "pt"}, None, "nothing in it"),
}


@pytest.mark.parametrize("name", TELLING)
def test_a_family_is_told_by(tmp_path: Path, name: str):
    made, family, evidence = TELLING[name]
    found = lora_origin(lora(tmp_path / "x.safetensors", **made))
    assert found.family == family
    assert evidence in found.evidence


def test_peft_names_the_base_in_the_file_beside(tmp_path: Path):
    lora(tmp_path / "adapter_model.safetensors", 768)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": HUB, "lora_alpha": 1}))
    assert lora_origin(tmp_path).base == HUB
    assert model_of_loras([str(tmp_path)]) == StatedModel(HUB, "sd15", {}, "the base that it names")
    (tmp_path / "adapter_config.json").write_text("{")
    with pytest.raises(InputError, match=r"adapter_config.json: damaged"):
        lora_origin(tmp_path)


def test_the_base_is_what_the_file_names_or_the_first_model_of_the_family(tmp_path: Path, sd15_folder: Path):
    def model(**made) -> StatedModel:
        return model_of_loras([str(lora(tmp_path / "x.safetensors", **made))])

    assert model(width=2048)[:2] == ("sdxl", "sdxl")
    assert model(width=768, ss_sd_model_name=str(sd15_folder))[:2] == (str(sd15_folder), "sd15")
    assert model(width=768, ss_sd_model_name="runwayml/stable-diffusion-v1-5")[0] == (
        "stable-diffusion-v1-5/stable-diffusion-v1-5"
    )
    found = model(width=2048, ss_sd_model_name="anime.safetensors")
    assert found[:2] == ("sdxl", "sdxl")
    assert found.why == "cross-attention width 2048; its base anime.safetensors is not here"
    own = {"t2ialign": json.dumps({"family": "sd15", "base": HUB})}
    assert model(**own)[:2] == (HUB, "sd15")
    assert model(ss_sd_model_name=str(sd15_folder))[:2] == (str(sd15_folder), "sd15")  # as its model_index.json says


def test_the_model_of_a_run_is_its_base_with_all_that_was_set_of_it(sd15_folder: Path, tmp_path: Path):
    run = tmp_path / "run"
    run.mkdir()
    config = write_config(run / "config.yaml", model=sd15_folder, pairs=pair_folder(tmp_path / "p", 2), run_dir=run)
    config.write_text(config.read_text().replace("name: sd15,", "name: sd15, 'null': zeros,"))
    saved(sd15_folder, run / "lora", moved=0.1)
    for path in (run, run / "lora"):
        assert model_of_loras([str(path)])[:3] == (str(sd15_folder), "sd15", {"null": "zeros"})


@pytest.mark.parametrize(
    ("made", "family", "said"),
    [
        ([{"width": 768}, {"width": 2048}], None, r"for 'sd15' \(cross-attention width 768\), .* for 'sdxl' \(cross-"),
        ([{"width": 768}], "sdxl", r"made for 'sd15' \(cross-attention width 768\), not for --family sdxl"),
        ([{}], None, "nothing in it says which model it was made for; add --model, as --model sdxl"),
        ([{"modelspec.architecture": "flux-1-dev"}], None, r"made for 'flux-1-dev' .*; known families: sd15, sdxl"),
    ],
)
def test_loras_that_do_not_tell_or_contradict_are_refused(tmp_path: Path, made: list[dict], family: str | None, said):
    paths = [str(lora(tmp_path / f"{number}.safetensors", **one)) for number, one in enumerate(made)]
    with pytest.raises(InputError, match=said):
        model_of_loras(paths, family)


def test_the_family_may_be_given_where_nothing_tells(tmp_path: Path):
    path = str(lora(tmp_path / "x.safetensors"))
    assert model_of_loras([path], "sd15")[:2] == ("sd15", "sd15")


# families that differ


@pytest.mark.parametrize(
    ("made", "evidence"),
    [({"width": 2048}, "cross-attention width 2048"), (OF_SDXL, "header entry ss_base_model_version: sdxl_base_v1-0")],
)
def test_another_family_is_named_before_the_model_is_loaded(
    sd15_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: dict, evidence: str
):
    path = lora(tmp_path / "x.safetensors", **made)
    monkeypatch.setattr("t2ialign.backbones.stable_diffusion.load_pipeline", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(InputError) as caught:
        open_model(str(sd15_folder), loras={str(path): 1.0})
    assert str(caught.value) == (
        f"{path}: this LoRA was made for 'sdxl' ({evidence}); the model is a 'sd15'. Give the model that the LoRA was "
        "made for"
    )


# commands


def run(*arguments: object) -> str:
    done = CliRunner().invoke(app, [*map(str, arguments)])
    assert done.exit_code == 0, done.output + str(done.exception)
    return " ".join(done.output.split())


def test_commands_take_the_model_from_the_lora(sd15_folder: Path, tmp_path: Path):
    file = saved(sd15_folder, tmp_path / "lora", moved=0.1) / FILE_NAME
    save_file(load_file(file), file, metadata={"ss_sd_model_name": str(sd15_folder), "ss_base_model_version": "sd_v1"})
    small = ("--steps", 1, "--guidance", 1)
    said = run("generate", "--lora", f"{file}:0.5", "--prompt", "a cat", "--out", tmp_path / "images", *small)
    assert f"model: {sd15_folder}, what --lora is made for (the base that it names)" in said
    record = json.loads((tmp_path / "images" / "generation.json").read_text())
    assert (record["model"], record["loras"]) == (str(sd15_folder), {str(file): 0.5})
    named = ("--model", sd15_folder, "--out", tmp_path / "named")
    run("generate", "--lora", f"{file}:0.5", "--prompt", "a cat", *named, *small)
    assert (tmp_path / "images" / "0_0.png").read_bytes() == (tmp_path / "named" / "0_0.png").read_bytes()
    pairs = pair_folder(tmp_path / "pairs", 4)
    run("accuracy", pairs, "--lora", file, "--max-pairs", 2, "--draws", 1)
    run("export", "--lora", file, "--to", "kohya", "--out", tmp_path / "kohya")
    assert sorted(path.name for path in (tmp_path / "kohya").iterdir()) == ["README.md", "lora.safetensors"]
    (tmp_path / "prompts.txt").write_text("a cat\n")
    built = ("--prompts", tmp_path / "prompts.txt", "--reward", "sharpness", "--images-per-prompt", 2)
    run("data", "build", "--lora", file, *built, "--out", tmp_path / "built", *small)


def test_neither_a_model_nor_a_lora_is_refused(tmp_path: Path):
    done = CliRunner().invoke(app, ["generate", "--prompt", "a cat", "--out", str(tmp_path / "images")])
    assert "give --model, or --lora with a file that says which model it was made for" in str(done.exception)
