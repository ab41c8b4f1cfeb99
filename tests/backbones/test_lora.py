"""LoRA adapters and their files: the same output in plain diffusers, and what wrong files say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from peft import LoraConfig, get_peft_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from t2ialign.backbones.adapters import TARGETS, adapter_parameters, add_adapter, tuner_layers
from t2ialign.backbones.facts import count_parameters, read_facts
from t2ialign.backbones.lora import load_lora, save_lora
from t2ialign.backbones.lora_checks import FILE_NAME
from t2ialign.backbones.lora_write import adapter_layers
from t2ialign.backbones.stable_diffusion import StableDiffusion15, StableDiffusionXL
from t2ialign.config.schema import Lora
from t2ialign.errors import InputError
from t2ialign.policy import Policy

FAMILIES = ["sd15", "sdxl"]
LORA = Lora(rank=4, alpha=6)  # alpha / rank = 1.5: a reader that ignores alpha gives another output


def folder_of(request, family: str) -> Path:
    return request.getfixturevalue(f"{family}_folder")


def build(folder: Path):
    config = StableDiffusionXL if (folder / "text_encoder_2").exists() else StableDiffusion15
    return config(pretrained=str(folder)).build(torch.device("cpu"))


def trained(folder: Path, lora: Lora = LORA):
    """A backbone with an adapter 'learner' that is not zero."""
    backbone = build(folder)
    add_adapter(backbone.denoiser, "learner", lora, seed=0, trainable=True)
    random = torch.Generator().manual_seed(1)
    for parameter in adapter_parameters(backbone.denoiser, "learner").values():
        parameter.data = 0.1 * torch.randn(parameter.shape, generator=random)
    return backbone


def output(backbone) -> torch.Tensor:
    """The denoiser's output, whatever adapters are active in it. [2, 4, 8, 8]"""
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    size = backbone.geometry((64, 64), (0, 0), (64, 64))
    cond = backbone.encode_prompts(["a red circle", "two cats"])
    with torch.no_grad():
        geometry = None if size is None else size.expand(2, -1)
        return backbone.predict(backbone.denoiser, latents, torch.tensor([10, 900]), cond, geometry)


# fresh adapters


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("targets", TARGETS)
def test_a_fresh_adapter_changes_nothing(request, family: str, targets: str):
    backbone = build(folder_of(request, family))
    before = output(backbone)
    add_adapter(backbone.denoiser, "learner", Lora(rank=2, alpha=2, targets=targets), seed=0, trainable=True)  # type: ignore[arg-type]
    assert torch.equal(output(backbone), before)


def test_targets_name_the_layers_that_get_an_adapter(sdxl_folder: Path):
    kinds: dict[str, set[str]] = {}
    for targets in TARGETS:
        backbone = build(sdxl_folder)
        add_adapter(backbone.denoiser, "learner", Lora(targets=targets), seed=0, trainable=True)  # type: ignore[arg-type]
        names = {key.split(".lora_")[0] for key in adapter_parameters(backbone.denoiser, "learner")}
        kinds[targets] = names
        assert len(names) == len(tuner_layers(backbone.denoiser))
    attention = kinds["attention"]
    assert all(".attn1." in name or ".attn2." in name for name in attention)
    blocks = sum(".attn2.to_k" in name for name in attention)
    assert len(attention) == blocks * 2 * 4  # self- and cross-attention, four projections each
    assert len(kinds["attention+ff"]) == blocks * (2 * 4 + 2)
    assert kinds["attention"] < kinds["attention+ff"] < kinds["all"]
    modules = dict(build(sdxl_folder).denoiser.named_modules())
    assert any(isinstance(modules[name], torch.nn.Conv2d) for name in kinds["all"])
    everything = {name for name, m in modules.items() if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear))}
    outside = {name.split(".")[0] for name in everything - kinds["all"]}
    assert outside == {"conv_in", "conv_out", "time_embedding", "add_embedding"}


def test_the_start_depends_on_the_seed_alone_and_leaves_the_global_random_numbers(sd15_folder: Path):
    def start(seed: int, draws: int) -> dict[str, torch.Tensor]:
        backbone = build(sd15_folder)
        torch.rand(draws)
        state = torch.get_rng_state()
        add_adapter(backbone.denoiser, "learner", LORA, seed=seed, trainable=True)
        assert torch.equal(torch.get_rng_state(), state)
        return {key: p.detach() for key, p in adapter_parameters(backbone.denoiser, "learner").items()}

    first, again, other = start(0, 1), start(0, 7), start(1, 1)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert all(not torch.equal(first[key], other[key]) for key in first if ".lora_A." in key)
    spread = torch.cat([tensor.flatten() for key, tensor in first.items() if ".lora_A." in key])
    assert spread.std().item() == pytest.approx(1 / LORA.rank, rel=0.1)


def test_only_a_trainable_adapter_needs_gradients(sd15_folder: Path):
    denoiser = build(sd15_folder).denoiser
    add_adapter(denoiser, "learner", LORA, seed=0, trainable=True)
    add_adapter(denoiser, "frozen", LORA, seed=1, trainable=False)
    needing = {key for key, parameter in denoiser.named_parameters() if parameter.requires_grad}
    assert needing == set(adapter_parameters(denoiser, "learner"))


def test_adapters_are_float32_on_a_half_precision_base(sd15_folder: Path):
    backbone = StableDiffusion15(pretrained=str(sd15_folder)).build(torch.device("cpu"), torch.bfloat16)
    add_adapter(backbone.denoiser, "learner", LORA, seed=0, trainable=True)
    assert {p.dtype for p in adapter_parameters(backbone.denoiser, "learner").values()} == {torch.float32}
    assert backbone.denoiser.conv_in.weight.dtype == torch.bfloat16  # type: ignore[union-attr]


def test_dropout_acts_in_a_trained_adapter_only(sd15_folder: Path):
    backbone = build(sd15_folder)
    add_adapter(backbone.denoiser, "frozen", Lora(rank=4, alpha=4, dropout=0.5), seed=0, trainable=False)
    for parameter in adapter_parameters(backbone.denoiser, "frozen").values():
        parameter.data.fill_(0.1)
    assert torch.equal(output(backbone), output(backbone))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_a_fresh_dora_changes_nothing(sdxl_folder: Path, dtype: torch.dtype):
    """Whatever the base's precision: the magnitudes are the norms that a pass finds."""
    backbone = StableDiffusionXL(pretrained=str(sdxl_folder)).build(torch.device("cpu"))
    backbone.denoiser.to(dtype).float()  # rounded, and compared in float32, in which no order of sums matters
    before = output(backbone)
    backbone.denoiser.to(dtype)
    add_adapter(backbone.denoiser, "learner", Lora(rank=2, targets="all", dora=True), seed=0, trainable=True)
    backbone.denoiser.float()
    assert torch.equal(output(backbone), before)
    assert sum("magnitude" in key for key in adapter_parameters(backbone.denoiser, "learner")) == len(
        tuner_layers(backbone.denoiser)
    )


def test_patterns_give_layers_their_own_ranks_and_alphas(sd15_folder: Path):
    lora = Lora(rank=4, alpha=6, rank_pattern={"attn2.to_k": 2, "mid_block.*": 3}, alpha_pattern={"to_v": 5})
    denoiser = build(sd15_folder).denoiser
    add_adapter(denoiser, "learner", lora, seed=0, trainable=True)
    for name, layer in adapter_layers(denoiser, "learner").items():
        rank = 2 if name.endswith("attn2.to_k") else 3 if name.startswith("mid_block") else 4
        assert (layer.rank, layer.alpha) == (rank, 5 if name.endswith("to_v") else 6), name
    held = sum(parameter.numel() for parameter in adapter_parameters(denoiser, "learner").values())
    assert count_parameters(read_facts(str(sd15_folder)), lora).trained == held


def test_a_pattern_of_no_layer_is_named(sd15_folder: Path):
    lora = Lora(rank_pattern={"to_k": 2, "attn2.to_k": 3})
    with pytest.raises(InputError, match=r"lora.rank_pattern: 'attn2.to_k' is of no layer that lora.targets attention"):
        add_adapter(build(sd15_folder).denoiser, "learner", lora, seed=0, trainable=True)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"dora": True, "dropout": 0.1}, "dropout has no part in a DoRA"),
        ({"rank_pattern": {"(": 2}}, r"pattern '\(' cannot be read"),
        ({"alpha_pattern": {"to_k": 0}}, "pattern 'to_k' gives 0"),
        ({"init": "x.safetensors", "dora": True}, "init has ranks and alphas of its own"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(keys: dict[str, Any], said: str):
    with pytest.raises(ValueError, match=said):
        Lora(**keys)


# files


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("more", [*TARGETS, "dora", "patterns"])
def test_plain_diffusers_gives_the_same_output_with_alpha_unlike_rank(request, tmp_path: Path, family: str, more: str):
    folder = folder_of(request, family)
    kinds: dict[str, dict[str, Any]] = {"dora": {"targets": "all", "dora": True}}
    kinds["patterns"] = {"rank_pattern": {"to_k": 2}, "alpha_pattern": {"attn2.*": 3, "to_v": 5}}
    backbone = trained(folder, LORA.model_copy(update=kinds.get(more, {"targets": more})))
    expected, base = output(backbone), output(build(folder))
    save_lora(tmp_path, backbone.denoiser, "learner", family=family, extra={})
    plain = build(folder)
    pipeline = DiffusionPipeline.from_pretrained(folder)
    pipeline.load_lora_weights(tmp_path)
    plain.denoiser = pipeline.unet
    torch.testing.assert_close(output(plain), expected)
    assert (expected - base).abs().max() > 0.01  # the adapter does something


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_lora_comes_back(request, tmp_path: Path, family: str):
    folder = folder_of(request, family)
    backbone = trained(folder)
    save_lora(tmp_path, backbone.denoiser, "learner", family=family, extra={})
    again = build(folder)
    state = torch.get_rng_state()
    load_lora(again.denoiser, tmp_path / FILE_NAME, "init", family=family)
    assert torch.equal(torch.get_rng_state(), state)
    before = adapter_parameters(backbone.denoiser, "learner")
    after = adapter_parameters(again.denoiser, "init")
    assert {key.replace(".init.", ".learner.") for key in after} == set(before)
    assert all(torch.equal(after[key.replace(".learner.", ".init.")], value) for key, value in before.items())
    assert not any(parameter.requires_grad for parameter in after.values())
    assert {layer.scaling["init"] for layer in tuner_layers(again.denoiser)} == {1.5}  # type: ignore[index]
    torch.testing.assert_close(output(again), output(backbone))


def test_a_second_adapter_leaves_the_first_alone(sd15_folder: Path, tmp_path: Path):
    backbone = trained(sd15_folder)
    save_lora(tmp_path, backbone.denoiser, "learner", family="sd15", extra={})
    before = {key: p.detach().clone() for key, p in adapter_parameters(backbone.denoiser, "learner").items()}
    load_lora(backbone.denoiser, tmp_path, "init", family="sd15")
    after = adapter_parameters(backbone.denoiser, "learner")
    assert all(torch.equal(after[key], value) and after[key].requires_grad for key, value in before.items())
    policy = Policy(backbone)
    with policy.mixture("policy"):
        learner = output(backbone)
    with policy.mixture("reference"):
        torch.testing.assert_close(output(backbone), learner)


def test_the_header_tells_what_made_the_file(sd15_folder: Path, tmp_path: Path):
    path = save_lora(tmp_path, trained(sd15_folder).denoiser, "learner", family="sd15", extra={"objective": "dpo"})
    with safe_open(path, framework="pt") as file:
        header = file.metadata()
    assert json.loads(header["t2ialign"]) == {"family": "sd15", "objective": "dpo"}
    settings = json.loads(header["lora_adapter_metadata"])
    assert (settings["unet.r"], settings["unet.lora_alpha"]) == (4, 6)
    assert [entry.name for entry in tmp_path.iterdir()] == [FILE_NAME]  # nothing temporary is left


def test_an_unknown_adapter_cannot_be_saved(sd15_folder: Path, tmp_path: Path):
    with pytest.raises(ValueError, match="learnr"):
        save_lora(tmp_path, trained(sd15_folder).denoiser, "learnr", family="sd15", extra={})
    assert not list(tmp_path.iterdir())


def test_a_diffusers_file_without_settings_has_alpha_equal_to_rank(sd15_folder: Path, tmp_path: Path):
    backbone = trained(sd15_folder, Lora(rank=4, alpha=4))
    path = save_lora(tmp_path, backbone.denoiser, "learner", family="sd15", extra={})
    save_file(load_file(path), tmp_path / "bare.safetensors")
    again = build(sd15_folder)
    load_lora(again.denoiser, tmp_path / "bare.safetensors", "bare", family="sd15")
    torch.testing.assert_close(output(again), output(backbone))


def test_pefts_own_folder_is_read_with_its_alpha(sd15_folder: Path, tmp_path: Path):
    backbone = build(sd15_folder)
    wrapped = get_peft_model(backbone.denoiser, LoraConfig(r=4, lora_alpha=10, target_modules=["to_q"]))  # type: ignore[arg-type]
    for key, parameter in wrapped.named_parameters():
        if ".lora_" in key:
            parameter.data.fill_(0.1)
    wrapped.save_pretrained(tmp_path)
    again = build(sd15_folder)
    load_lora(again.denoiser, tmp_path, "other", family="sd15")
    torch.testing.assert_close(output(again), output(backbone))


# wrong files


def failure(denoiser: torch.nn.Module, path: Path, family: str = "sd15") -> str:
    with pytest.raises(InputError) as caught:
        load_lora(denoiser, path, "other", family=family)
    return str(caught.value)


@pytest.mark.parametrize(("family", "other"), [("sd15", "sdxl"), ("sdxl", "sd15")])
def test_a_lora_of_the_other_family_names_both_widths(request, tmp_path: Path, family: str, other: str):
    widths = {"sd15": 32, "sdxl": 72}
    save_lora(tmp_path, trained(folder_of(request, other)).denoiser, "learner", family=other, extra={})
    message = failure(build(folder_of(request, family)).denoiser, tmp_path, family)
    assert f"cross-attention width {widths[other]}; the model, a '{family}', expects {widths[family]}" in message


def test_published_widths_are_called_by_name(sd15_folder: Path, tmp_path: Path):
    path = tmp_path / "xl.safetensors"
    save_file({"lora_unet_x_attn2_to_k.lora_down.weight": torch.zeros(4, 2048)}, path)
    assert "width 2048 (SDXL)" in failure(build(sd15_folder).denoiser, path)


def test_a_lora_of_other_layers_is_refused(sd15_folder: Path, tmp_path: Path):
    backbone = trained(sd15_folder)
    path = save_lora(tmp_path, backbone.denoiser, "learner", family="sd15", extra={})
    tensors = {key.replace("down_blocks.0", "down_blocks.7"): value for key, value in load_file(path).items()}
    save_file(tensors, tmp_path / "odd.safetensors")
    assert "denoiser tensors belong to no layer of the model" in failure(
        build(sd15_folder).denoiser, tmp_path / "odd.safetensors"
    )


def test_a_corrupt_file_is_named(sd15_folder: Path, tmp_path: Path):
    path = save_lora(tmp_path, trained(sd15_folder).denoiser, "learner", family="sd15", extra={})
    path.write_bytes(path.read_bytes()[:-50])
    assert f"{path}: not a readable safetensors file" in failure(build(sd15_folder).denoiser, tmp_path)


def test_a_file_that_is_no_lora_is_named(sd15_folder: Path):
    path = sd15_folder / "vae" / "diffusion_pytorch_model.safetensors"
    assert "not a LoRA" in failure(build(sd15_folder).denoiser, path)


def test_missing_files_and_pickles_say_what_to_give(sd15_folder: Path, tmp_path: Path):
    denoiser = build(sd15_folder).denoiser
    (tmp_path / "run" / "inner").mkdir(parents=True)
    (tmp_path / "run" / "inner" / FILE_NAME).touch()
    assert failure(denoiser, tmp_path / "rum") == f"{tmp_path / 'rum'}: no such LoRA; did you mean {tmp_path / 'run'}?"
    assert failure(denoiser, tmp_path / "run").endswith(f"did you mean {tmp_path / 'run' / 'inner' / FILE_NAME}?")
    assert "pickles" in failure(denoiser, tmp_path / "style.pt")
