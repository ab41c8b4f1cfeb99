"""LoRAs with parts for text encoders: embeddings and UNet equal a merge by hand and plain diffusers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lora_files import saved
from safetensors.torch import load_file, save_file
from text_loras import (
    Parts,
    assert_same,
    differ,
    made_parts,
    merge,
    ours,
    pipeline_of,
    published,
    settings,
    theirs,
    write_diffusers,
    write_dotted,
    write_kohya,
)
from toys import backbone, pair_folder

from t2ialign.backbones.lora import add_text_loras
from t2ialign.backbones.lora_checks import lora_elements
from t2ialign.backbones.lora_read import LoraFile
from t2ialign.config.reader import validated
from t2ialign.errors import InputError
from t2ialign.models import open_guided_model, open_model
from t2ialign.training.pair_accuracy import measure_pairs

FAMILIES = ["sd15", "sdxl"]


def comfy(path: Path, parts: Parts) -> Path:
    """As ComfyUI saves LoRAs."""
    clip = {"text_encoder": "clip_l", "text_encoder_2": "clip_g"}
    prefixes = {part: f"text_encoders.{name}.transformer." for part, name in clip.items()}
    return write_dotted(path, parts, {"unet": "diffusion_model.", **prefixes}, down="lora_down")


def peft_folder(path: Path, parts: Parts) -> Path:
    """As peft saves the adapters of a pipeline, with one file of settings."""
    layers = {name: made for part in parts.values() for name, made in part.items()}
    file = write_dotted(
        path.parent / "adapter_model.safetensors", parts, {part: f"base_model.model.{part}." for part in parts}
    )
    (path.parent / "adapter_config.json").write_text(json.dumps(settings(layers)))
    return file


def written(layout: str, path: Path, parts: Parts, family: str) -> Path:
    if layout == "kohya":
        return write_kohya(path, parts, family)
    return {"diffusers": write_diffusers, "comfy": comfy, "peft": peft_folder}[layout](path, parts)


def opened(folder: Path, *loras: tuple[Path, float]) -> Any:
    policy, mixture = open_model(str(folder), loras={str(path): scale for path, scale in loras})
    return ours(policy, mixture)


@pytest.mark.parametrize("layout", ["kohya", "diffusers", "comfy", "peft"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_layout_is_all_parts_merged_by_hand(request, tmp_path: Path, family: str, layout: str):
    folder: Path = request.getfixturevalue(f"{family}_folder")
    plain = pipeline_of(folder)
    parts = made_parts(plain)
    if layout == "peft" and family == "sdxl":  # whose one file of settings cannot tell layers of equal names apart
        parts = made_parts(plain, "equal")
    path = written(layout, tmp_path / "x.safetensors", parts, family)
    for scale in (1.0, 0.5):
        found = opened(folder, (path, scale))
        assert differ(found, theirs(plain))
        assert_same(found, theirs(merge(pipeline_of(folder), parts, scale)))


@pytest.mark.parametrize(("layout", "kind"), [("kohya", "equal"), ("diffusers", "per-layer"), ("diffusers", "dora")])
@pytest.mark.parametrize("scale", [1.0, 0.5])
@pytest.mark.parametrize("family", FAMILIES)
def test_plain_diffusers_answers_the_same(request, tmp_path: Path, family: str, scale: float, layout: str, kind: str):
    """Of kohya's layout diffusers reads alphas of text encoders only where all layers have the same."""
    folder: Path = request.getfixturevalue(f"{family}_folder")
    pipeline = pipeline_of(folder)
    before = theirs(pipeline)
    parts = made_parts(pipeline, kind)
    path = written(layout, tmp_path / "x.safetensors", parts, family)
    if layout == "diffusers":  # which names modules as its own version of transformers does
        stated = {f"{part}.{key}": value for part, layers in parts.items() for key, value in settings(layers).items()}
        save_file(load_file(path), path, metadata={"lora_adapter_metadata": json.dumps(stated)})
    pipeline.load_lora_weights(str(tmp_path), weight_name=path.name, adapter_name="style")
    pipeline.set_adapters("style", scale)
    assert differ(theirs(pipeline), before)
    assert_same(opened(folder, (path, scale)), theirs(pipeline))


@pytest.mark.parametrize("ends", ["lora_linear_layer", "processor"])
def test_older_names_of_diffusers_have_alpha_equal_to_rank(sd15_folder: Path, tmp_path: Path, ends: str):
    plain = pipeline_of(sd15_folder)
    layers = made_parts(plain)["text_encoder"]
    if ends == "processor":
        layers = {name: made for name, made in layers.items() if "self_attn" in name}
    parts = {"text_encoder": {name: made._replace(alpha=len(made.down)) for name, made in layers.items()}}
    path = write_dotted(
        tmp_path / "x.safetensors", parts, {"text_encoder": "text_encoder."}, down="lora_linear_layer.down"
    )
    if ends == "processor":
        tensors = {}
        for key, tensor in load_file(path).items():
            tensors[key.replace("_proj.lora_linear_layer", "_lora").replace("attn.", "attn.to_")] = tensor
        assert "text_encoder.text_model.encoder.layers.0.self_attn.to_out_lora.up.weight" in tensors
        save_file(tensors, path)
    assert_same(opened(sd15_folder, (path, 1.0)), theirs(merge(plain, parts)))


def test_several_loras_add_up_whichever_parts_they_have(sdxl_folder: Path, tmp_path: Path):
    plain = pipeline_of(sdxl_folder)
    whole, other = made_parts(plain), made_parts(plain, seed=1)
    second = {"text_encoder_2": other["text_encoder_2"]}
    denoiser = {"unet": other["unet"]}
    files = [
        (write_kohya(tmp_path / "whole.safetensors", whole, "sdxl"), 0.5),
        (write_diffusers(tmp_path / "second.safetensors", second), -0.7),  # of a text encoder alone
        (write_diffusers(tmp_path / "denoiser.safetensors", denoiser), 0.3),
    ]
    for parts, (_, scale) in zip((whole, second, denoiser), files, strict=True):
        merge(plain, parts, scale)
    assert_same(opened(sdxl_folder, *files), theirs(plain))


def test_the_fingerprint_tells_text_encoders_apart(sd15_folder: Path, tmp_path: Path):
    plain = pipeline_of(sd15_folder)
    parts, other = made_parts(plain), made_parts(plain, seed=1)
    made = {
        "one": {"text_encoder": parts["text_encoder"]},
        "other": {"text_encoder": other["text_encoder"]},
        "denoiser": {"unet": parts["unet"]},
    }
    files = {name: write_kohya(tmp_path / f"{name}.safetensors", own, "sd15") for name, own in made.items()}

    def fingerprint(**scales: float) -> str:
        policy, _ = open_model(str(sd15_folder), loras={str(files[name]): scale for name, scale in scales.items()})
        return policy.backbone.fingerprint

    different = [{}, {"one": 1.0}, {"one": 0.5}, {"other": 1.0}, {"one": 1.0, "other": 1.0}]
    found = [fingerprint(**scales) for scales in different]
    assert len(set(found)) == len(different)
    assert fingerprint(denoiser=1.0) == found[0]
    assert fingerprint(one=1.0, denoiser=1.0) == found[1]


def test_what_was_read_of_a_text_encoder_before_is_read_anew(sd15_folder: Path, tmp_path: Path):
    made = backbone(sd15_folder)
    fingerprint, null = made.fingerprint, made.null().tokens
    path = write_kohya(tmp_path / "x.safetensors", made_parts(pipeline_of(sd15_folder)), "sd15")
    add_text_loras(made, [(LoraFile(path), 1.0)], family="sd15")
    assert made.fingerprint != fingerprint
    assert (made.null().tokens - null).abs().max() > 0.01
    torch.testing.assert_close(made.null().tokens, made.encode_prompts([""]).tokens)


def test_in_half_precision_weights_are_rounded_once(sd15_folder: Path, tmp_path: Path):
    plain = pipeline_of(sd15_folder)
    parts = {"text_encoder": made_parts(plain)["text_encoder"]}
    path = write_kohya(tmp_path / "x.safetensors", parts, "sd15")
    policy, _ = open_model(str(sd15_folder), loras={str(path): 1.0}, precision="bf16")
    plain.text_encoder.bfloat16().float()
    expected = merge(plain, parts).text_encoder.bfloat16().state_dict()
    found = policy.backbone.text_encoders["text_encoder"].state_dict()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, msg=name)


def test_the_part_for_text_encoders_is_no_trained_parameter(sd15_folder: Path, tmp_path: Path):
    parts = made_parts(pipeline_of(sd15_folder))
    whole = write_kohya(tmp_path / "whole.safetensors", parts, "sd15")
    wanted = sum(made.down.numel() + made.up.numel() for made in parts["unet"].values())
    assert lora_elements(whole) == wanted


# pair accuracy: each model with its own text encoders


def test_accuracy_compares_with_the_base_and_its_own_text_encoders(sd15_folder: Path, tmp_path: Path):
    parts = made_parts(pipeline_of(sd15_folder))
    path = write_kohya(tmp_path / "x.safetensors", parts, "sd15")
    data = validated("data", {"name": "pairs", "path": pair_folder(tmp_path / "pairs", 4)})
    numbers = {"max_pairs": 4, "draws": 2, "seed": 0, "batch": 2}
    policy, mixture = open_model(str(sd15_folder), loras={str(path): 1.0})
    base, _ = open_model(str(sd15_folder))
    found = measure_pairs(policy, mixture, data, **numbers, base=base)
    merge(pipeline_of(sd15_folder), parts).save_pretrained(tmp_path / "merged")
    whole, _ = open_model(str(tmp_path / "merged"))
    expected = measure_pairs(whole, {}, data, **numbers, base=base)
    assert found.mean == expected.mean
    assert found.chosen_change == pytest.approx(expected.chosen_change, rel=1e-3)
    mixed = measure_pairs(policy, mixture, data, **numbers)  # the base with the LoRA's text encoder
    assert abs(mixed.chosen_change - found.chosen_change) > 1e-4


# refused


def refusal(*arguments: Any, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        open_guided_model(*arguments, **options)
    return str(caught.value)


def test_a_negative_model_with_a_text_encoder_is_refused_and_a_positive_one_is_of_both_branches(
    sd15_folder: Path, tmp_path: Path
):
    plain = pipeline_of(sd15_folder)
    parts = made_parts(plain)
    path = str(write_kohya(tmp_path / "x.safetensors", parts, "sd15"))
    said = refusal(str(sd15_folder), {path: 1.0})
    assert said.startswith(f"{path}: adapts the text encoder too (tensor lora_te_text_model_encoder_layers_0_")
    assert "a negative model can change the denoiser alone" in said
    negative = saved(sd15_folder, tmp_path / "negative", moved=0.1)
    policy, weights, _ = open_guided_model(str(sd15_folder), {str(negative): 1.0}, loras={path: 1.0}, alpha=0.5)
    merge(plain, parts)
    assert_same(ours(policy, weights), theirs(plain))
    tokens, _ = plain.encode_prompt([""], torch.device("cpu"), 1, False)
    torch.testing.assert_close(policy.null().tokens, tokens, atol=1e-5, rtol=1e-5)


def test_parts_that_the_model_has_not_are_named(sd15_folder: Path, sdxl_folder: Path, tmp_path: Path):
    second = {"text_encoder_2": made_parts(pipeline_of(sdxl_folder))["text_encoder_2"]}
    path = write_kohya(tmp_path / "x.safetensors", second, "sdxl")
    with pytest.raises(InputError, match=r"made for 'sdxl' \(tensor lora_te2_text_model.*\); the model is a 'sd15'"):
        opened(sd15_folder, (path, 1.0))
    encoders = backbone(sd15_folder).text_encoders  # of a family that is not known
    with pytest.raises(InputError, match=r"adapts a text encoder 2 \(tensor lora_te2_text_model.*, a 'mine', has not"):
        LoraFile(path).text(encoders, family="mine")
    layers = made_parts(pipeline_of(sd15_folder))["text_encoder"]
    deeper = {"text_encoder": {name.replace("layers.2", "layers.7"): made for name, made in layers.items()}}
    path = write_kohya(tmp_path / "deeper.safetensors", deeper, "sd15")
    with pytest.raises(InputError, match="18 of its 54 text encoder tensors belong to no layer of the model"):
        opened(sd15_folder, (path, 1.0))
    name = next(iter(layers))
    wider = {"text_encoder": {name: layers[name]._replace(down=torch.ones(1, 40), up=torch.ones(40, 1))}}
    path = write_kohya(tmp_path / "wider.safetensors", wider, "sd15")
    with pytest.raises(InputError, match=rf"layer {published('text_encoder', name)} has matrices \[1, 40\] and"):
        opened(sd15_folder, (path, 1.0))


def test_an_open_clip_layout_of_the_second_text_encoder_is_refused_by_name(sdxl_folder: Path, tmp_path: Path):
    key = "conditioner.embedders.1.model.transformer.resblocks.0.attn.in_proj.lora_down.weight"
    save_file({key: torch.ones(2, 40)}, tmp_path / "x.safetensors")
    with pytest.raises(InputError, match=f"text encoder 2 tensors belong to no layer of the model, the first: {key}"):
        opened(sdxl_folder, (tmp_path / "x.safetensors", 1.0))
