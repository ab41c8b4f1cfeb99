"""LoRA files of every public layout, made here and compared with the weights merged by hand."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import toys
from diffusers import StableDiffusionPipeline
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from single_file import unet_layer_names
from torch import Tensor, nn

from t2ialign.backbones.adapters import (
    EMA,
    INIT,
    LEARNER,
    TARGETS,
    adapter_parameters,
    add_adapter,
    copy_adapter,
    tuner_layers,
)
from t2ialign.backbones.lora import add_training_adapters, load_lora, save_lora
from t2ialign.config.schema import Lora
from t2ialign.errors import InputError
from t2ialign.policy import Policy

FAMILIES = ["sd15", "sdxl"]


class Made(NamedTuple):
    """One layer's LoRA."""

    down: Tensor
    up: Tensor
    alpha: float


def made_layers(denoiser: nn.Module, *, same: bool = False) -> dict[str, Made]:
    """Random matrices for every layer that `targets: all` adapts; ranks and alphas differ unless `same`."""
    random = torch.Generator().manual_seed(0)
    layers = {}
    for name, module in denoiser.named_modules():
        if name.endswith(tuple(TARGETS["all"])) and isinstance(module, (nn.Linear, nn.Conv2d)):
            rank = 2 if same else 1 + len(layers) % 3
            down = torch.randn(rank, *module.weight.shape[1:], generator=random) * 0.3
            up = torch.randn(module.weight.shape[0], rank, *[1] * (down.ndim - 2), generator=random) * 0.3
            layers[name] = Made(down, up, 2.0 if same else 0.5 + len(layers) % 2)
    assert {made.down.ndim for made in layers.values()} == {2, 4}  # linear and convolutional
    return layers


def merge(denoiser: nn.Module, layers: dict[str, Made], scale: float = 1.0) -> None:
    """Adds every layer's scale * alpha / rank * up @ down to its weight."""
    modules = dict(denoiser.named_modules())
    for name, made in layers.items():
        weight: Any = modules[name].weight
        product = made.up.flatten(1) @ made.down.flatten(1)
        weight.data += scale * made.alpha / made.down.shape[0] * product.view_as(weight)


def kohya(prefix: str, names: dict[str, str], layers: dict[str, Made], separator: str = "_") -> dict[str, Tensor]:
    tensors = {}
    for name, made in layers.items():
        stem = prefix + names[name].replace(".", separator)
        tensors |= {f"{stem}.lora_down.weight": made.down, f"{stem}.lora_up.weight": made.up}
        tensors[f"{stem}.alpha"] = torch.tensor(made.alpha)
    return tensors


def peft(prefix: str, layers: dict[str, Made], down: str = "lora_A", up: str = "lora_B") -> dict[str, Tensor]:
    tensors = {f"{prefix}{name}.{down}.weight": made.down for name, made in layers.items()}
    return tensors | {f"{prefix}{name}.{up}.weight": made.up for name, made in layers.items()}


def settings(layers: dict[str, Made], **more: Any) -> dict[str, Any]:
    return {
        "r": 1,
        "lora_alpha": 0.5,
        "rank_pattern": {name: made.down.shape[0] for name, made in layers.items()},
        "alpha_pattern": {name: made.alpha for name, made in layers.items()},
        "target_modules": sorted(layers),
        **more,
    }


Writer = Callable[[Path, dict[str, Made]], Path]


def written(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path, metadata=metadata)
    return path


def _same(layers: dict[str, Made]) -> dict[str, str]:
    return {name: name for name in layers}


def _kohya(folder: Path, layers: dict[str, Made]) -> Path:
    return written(folder / "x.safetensors", kohya("lora_unet_", _same(layers), layers))


def _kohya_original_names(folder: Path, layers: dict[str, Made]) -> Path:
    return written(folder / "x.safetensors", kohya("lora_unet_", unet_layer_names(list(layers)), layers))


def _comfy(folder: Path, layers: dict[str, Made]) -> Path:
    names = unet_layer_names(list(layers))
    return written(folder / "x.safetensors", kohya("diffusion_model.", names, layers, "."))


def _unprefixed(folder: Path, layers: dict[str, Made]) -> Path:
    return written(folder / "x.safetensors", kohya("", _same(layers), layers, "."))


def _diffusers(folder: Path, layers: dict[str, Made]) -> Path:
    stated = {f"unet.{key}": value for key, value in settings(layers).items()}
    return written(
        folder / "x.safetensors", peft("unet.", layers), {"lora_adapter_metadata": json.dumps(stated), "format": "pt"}
    )


def _peft_folder(folder: Path, layers: dict[str, Made]) -> Path:
    written(folder / "adapter_model.safetensors", peft("base_model.model.", layers))
    (folder / "adapter_config.json").write_text(json.dumps(settings(layers, peft_type="LORA", use_rslora=False)))
    return folder


def _peft_folder_of_the_pipeline(folder: Path, layers: dict[str, Made]) -> Path:
    written(folder / "adapter_model.safetensors", peft("base_model.model.unet.", layers))
    (folder / "adapter_config.json").write_text(json.dumps(settings(layers)))
    return folder


LAYOUTS: list[Writer] = [_kohya, _kohya_original_names, _comfy, _unprefixed, _diffusers, _peft_folder]
LAYOUTS += [_peft_folder_of_the_pipeline]


def output(backbone: Any) -> Tensor:
    """The denoiser's output, whatever adapters are active in it. [2, 4, 8, 8]"""
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    size = backbone.geometry((64, 64), (0, 0), (64, 64))
    geometry = None if size is None else size.expand(2, -1)
    with torch.no_grad():
        cond = backbone.encode_prompts(["a red circle", "two cats"])
        return backbone.predict(backbone.denoiser, latents, torch.tensor([10, 900]), cond, geometry)


@cache
def _loaded(folder: Path, family: str) -> Any:
    return toys.backbone(folder, family=family)


def fresh(folder: Path, family: str = "sd15") -> Any:
    """A backbone whose denoiser is a new copy."""
    made = copy.copy(_loaded(folder, family))
    made.denoiser = copy.deepcopy(made.denoiser)
    return made


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("write", LAYOUTS, ids=lambda write: write.__name__.strip("_"))
def test_every_layout_is_the_weights_merged_by_hand(request, tmp_path: Path, family: str, write: Writer):
    expected = fresh(request.getfixturevalue(f"{family}_folder"), family)
    layers = made_layers(expected.denoiser)
    before = output(expected)
    merge(expected.denoiser, layers)
    backbone = fresh(request.getfixturevalue(f"{family}_folder"), family)
    load_lora(backbone.denoiser, write(tmp_path / "lora", layers), "style", family=family)
    torch.testing.assert_close(output(backbone), output(expected), atol=1e-4, rtol=1e-3)
    assert (output(expected) - before).abs().max() > 0.01


@pytest.mark.parametrize("ends", [("lora.down", "lora.up"), ("lora_linear_layer.down", "lora_linear_layer.up")])
def test_diffusers_older_names_have_alpha_equal_to_rank(sd15_folder: Path, tmp_path: Path, ends: tuple[str, str]):
    expected, backbone = fresh(sd15_folder), fresh(sd15_folder)
    layers = made_layers(expected.denoiser, same=True)
    merge(expected.denoiser, layers)
    path = written(tmp_path / "x.safetensors", peft("unet.", layers, *ends))
    load_lora(backbone.denoiser, path, "style", family="sd15")
    torch.testing.assert_close(output(backbone), output(expected), atol=1e-4, rtol=1e-3)


def test_diffusers_oldest_names_are_those_of_attention_processors(sd15_folder: Path, tmp_path: Path):
    expected, backbone = fresh(sd15_folder), fresh(sd15_folder)
    layers = {n: made for n, made in made_layers(expected.denoiser, same=True).items() if ".attn" in n}
    merge(expected.denoiser, layers)
    tensors = {}
    for name, made in layers.items():
        attention, _, layer = name.removesuffix(".0").rpartition(".")
        tensors |= {f"unet.{attention}.processor.{layer}_lora.down.weight": made.down}
        tensors |= {f"unet.{attention}.processor.{layer}_lora.up.weight": made.up}
    load_lora(backbone.denoiser, written(tmp_path / "x.safetensors", tensors), "style", family="sd15")
    torch.testing.assert_close(output(backbone), output(expected), atol=1e-4, rtol=1e-3)


def test_rank_stabilised_scales_are_alpha_over_the_root_of_the_rank(sd15_folder: Path, tmp_path: Path):
    expected, backbone = fresh(sd15_folder), fresh(sd15_folder)
    layers = made_layers(expected.denoiser)
    written(tmp_path / "adapter_model.safetensors", peft("base_model.model.", layers))
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings(layers, use_rslora=True)))
    load_lora(backbone.denoiser, tmp_path, "style", family="sd15")
    merge(
        expected.denoiser,
        {n: made._replace(alpha=made.alpha * made.down.shape[0] ** 0.5) for n, made in layers.items()},
    )
    torch.testing.assert_close(output(backbone), output(expected), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_matrices_of_every_floating_type_are_read(sd15_folder: Path, tmp_path: Path, dtype: torch.dtype):
    expected, backbone = fresh(sd15_folder), fresh(sd15_folder)
    layers = {
        n: made._replace(down=made.down.to(dtype), up=made.up.to(dtype))
        for n, made in made_layers(expected.denoiser).items()
    }
    load_lora(backbone.denoiser, _kohya(tmp_path, layers), "style", family="sd15")
    merge(
        expected.denoiser, {n: made._replace(down=made.down.float(), up=made.up.float()) for n, made in layers.items()}
    )
    torch.testing.assert_close(output(backbone), output(expected), atol=1e-4, rtol=1e-3)


def test_linear_layers_written_as_convolutions_and_the_reverse_are_the_same_layers(sd15_folder: Path, tmp_path: Path):
    expected, backbone = fresh(sd15_folder), fresh(sd15_folder)
    layers = made_layers(expected.denoiser)
    merge(expected.denoiser, layers)
    turned = {
        name: made._replace(down=made.down[:, :, None, None], up=made.up[:, :, None, None])
        if made.down.ndim == 2
        else made._replace(down=made.down.flatten(1), up=made.up.flatten(1))
        if made.down.shape[2:] == (1, 1)
        else made
        for name, made in layers.items()
    }
    load_lora(backbone.denoiser, _kohya(tmp_path, turned), "style", family="sd15")
    torch.testing.assert_close(output(backbone), output(expected), atol=1e-4, rtol=1e-3)


def test_several_loras_of_different_layouts_add_up_by_their_scales(sdxl_folder: Path, tmp_path: Path):
    expected, backbone = (fresh(sdxl_folder, "sdxl") for _ in range(2))
    first = made_layers(expected.denoiser)
    second = {name: made for name, made in made_layers(expected.denoiser, same=True).items() if "attn2" in name}
    load_lora(backbone.denoiser, _kohya_original_names(tmp_path / "a", first), "one", family="sdxl")
    load_lora(backbone.denoiser, _diffusers(tmp_path / "b", second), "two", family="sdxl")
    merge(expected.denoiser, first, 0.5)
    merge(expected.denoiser, second, -0.25)
    with Policy(backbone).mixture({"one": 0.5, "two": -0.25}):
        torch.testing.assert_close(output(backbone), output(expected), atol=1e-4, rtol=1e-3)


# a run that starts from a LoRA


@pytest.mark.parametrize("write", [_kohya, _diffusers])
def test_the_learner_and_the_average_are_the_lora_they_start_from(sd15_folder: Path, tmp_path: Path, write: Writer):
    expected, backbone = fresh(sd15_folder), fresh(sd15_folder)
    layers = made_layers(expected.denoiser)
    lora = Lora(rank=16, alpha=4, dropout=0.25, init=write(tmp_path, layers))
    add_training_adapters(backbone.denoiser, lora, family="sd15", seed=0, keeps_ema=True)
    merge(expected.denoiser, layers)
    wanted = output(expected)
    policy = Policy(backbone, keeps_ema=True)
    for dropout in policy.dropouts:
        dropout.eval()
    for weights in (LEARNER, INIT, EMA):
        with policy.mixture({weights: 1.0}):
            torch.testing.assert_close(output(backbone), wanted, atol=1e-4, rtol=1e-3)
    adapters = {name: adapter_parameters(backbone.denoiser, name) for name in (LEARNER, INIT, EMA)}
    assert all(p.requires_grad == (name == LEARNER) for name, part in adapters.items() for p in part.values())
    dropouts = {layer.lora_dropout[LEARNER].p for layer in tuner_layers(backbone.denoiser)}  # type: ignore[union-attr]
    assert dropouts == {0.25}
    for name in (LEARNER, EMA):  # saved with each layer's own rank and alpha, plain diffusers gives the same output
        save_lora(tmp_path / name, backbone.denoiser, name, family="sd15", extra={})
        plain = fresh(sd15_folder)
        pipeline = StableDiffusionPipeline.from_pretrained(sd15_folder)
        pipeline.load_lora_weights(tmp_path / name)
        plain.denoiser = pipeline.unet
        torch.testing.assert_close(output(plain), wanted, atol=1e-4, rtol=1e-3)


def test_settings_that_the_first_lora_overrules_are_named(sd15_folder: Path, tmp_path: Path, caplog):
    backbone = fresh(sd15_folder)
    path = _kohya(tmp_path, made_layers(backbone.denoiser, same=True))
    lora = Lora(rank=16, alpha=2, init=path)
    with caplog.at_level(logging.WARNING, logger="t2ialign"):
        add_training_adapters(backbone.denoiser, lora, family="sd15", seed=0, keeps_ema=False)
    assert caplog.messages == [f"{path}: rank and alpha are those of lora.init, not lora.rank 16 (there: 2)"]


def test_the_average_of_a_fresh_learner_begins_as_the_learner(sd15_folder: Path):
    backbone = fresh(sd15_folder)
    state = torch.get_rng_state()
    add_training_adapters(backbone.denoiser, Lora(rank=4, alpha=6), family="sd15", seed=3, keeps_ema=True)
    assert torch.equal(torch.get_rng_state(), state)
    average = adapter_parameters(backbone.denoiser, EMA)
    for key, parameter in adapter_parameters(backbone.denoiser, LEARNER).items():
        assert torch.equal(average[key.replace(LEARNER, EMA)], parameter)
    alone = fresh(sd15_folder)
    add_adapter(alone.denoiser, LEARNER, Lora(rank=4, alpha=6), seed=3, trainable=True)
    for key, parameter in adapter_parameters(alone.denoiser, LEARNER).items():
        assert torch.equal(adapter_parameters(backbone.denoiser, LEARNER)[key], parameter)


def test_a_copy_of_no_adapter_is_refused(sd15_folder: Path):
    with pytest.raises(ValueError, match="there is no adapter 'learnr'; there are: none"):
        copy_adapter(fresh(sd15_folder).denoiser, "learnr", EMA, trainable=False)


# refused


def failure(folder: Path, path: Path, family: str = "sd15") -> str:
    denoiser = fresh(folder, family).denoiser
    with pytest.raises(InputError) as caught:
        load_lora(denoiser, path, "other", family=family)
    assert not adapter_parameters(denoiser, "other")
    return str(caught.value)


def test_a_dora_without_the_magnitudes_of_all_its_rows_is_refused(sd15_folder: Path, tmp_path: Path):
    layers = made_layers(fresh(sd15_folder).denoiser)
    name, other = list(layers)[:2]
    rows = len(layers[name].up)
    two, one = (
        kohya("lora_unet_", _same(layers), {key: layers[key] for key in keys}) for keys in ((name, other), (name,))
    )
    scale = f"{_stem(name)}.dora_scale"
    path = written(tmp_path / "some.safetensors", {**two, scale: torch.ones(rows, 1)})
    assert f"a DoRA (weight-decomposed) whose layer {other} has no magnitude" in failure(sd15_folder, path)
    path = written(tmp_path / "columns.safetensors", {**one, scale: torch.ones(1, rows)})
    assert f"whose magnitudes of layer {name} are [1, {rows}], where the model's" in failure(sd15_folder, path)
    _peft_folder(tmp_path, layers)
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings(layers, use_dora=True)))
    assert f"whose layer {name} has no magnitude" in failure(sd15_folder, tmp_path / "adapter_model.safetensors")


def _stem(name: str) -> str:
    return f"lora_unet_{name.replace('.', '_')}"


def _renamed_to_kohya(state: dict[str, Tensor]) -> dict[str, Tensor]:
    ends = {"lora_A": "lora_down.weight", "lora_B": "lora_up.weight", "lora_magnitude_vector": "dora_scale"}
    tensors = {}
    for key, part in state.items():
        end = next(new for old, new in ends.items() if old in key)
        tensors[f"{_stem(key.split('.lora_')[0])}.{end}"] = part.flatten()[:, None] if end == "dora_scale" else part
    return tensors


@pytest.mark.parametrize("layout", ["diffusers", "peft", "kohya"])
def test_doras_of_other_programs_give_their_output(sd15_folder: Path, tmp_path: Path, layout: str):
    """Saved from peft's own adapter by diffusers, in peft's layout, and renamed to kohya's."""
    theirs = fresh(sd15_folder)
    denoiser: Any = theirs.denoiser
    denoiser.add_adapter(LoraConfig(r=2, lora_alpha=2, use_dora=True, target_modules=["to_q", "conv1"]))
    random = torch.Generator().manual_seed(0)
    for key, parameter in adapter_parameters(denoiser, "default").items():
        change = parameter if "magnitude" in key else torch.randn(parameter.shape, generator=random)
        parameter.data += 0.3 * change
    state = get_peft_model_state_dict(denoiser)
    if layout == "diffusers":
        StableDiffusionPipeline.save_lora_weights(tmp_path, unet_lora_layers=convert_state_dict_to_diffusers(state))
    elif layout == "peft":
        written(
            tmp_path / "adapter_model.safetensors", {f"base_model.model.{key}": part for key, part in state.items()}
        )
        (tmp_path / "adapter_config.json").write_text(json.dumps({"lora_alpha": 2, "use_dora": True}))
    else:
        written(tmp_path / "x.safetensors", _renamed_to_kohya(state))
    backbone = fresh(sd15_folder)
    load_lora(backbone.denoiser, tmp_path, "style", family="sd15")
    torch.testing.assert_close(output(backbone), output(theirs), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("end", "method"),
    [
        ("hada_w1_a", "a LoHa"),
        ("lokr_w1", "a LoKr"),
        ("oft_blocks", "an OFT"),
        ("lora_mid.weight", "a LoRA with a core matrix"),
        ("lora_up.bias", "a LoRA with biases"),
        ("diff_b", "a file of whole weight differences"),
        ("mystery", "no part of a LoRA"),
    ],
)
def test_tensors_of_other_methods_are_named(sd15_folder: Path, tmp_path: Path, end: str, method: str):
    layers = made_layers(fresh(sd15_folder).denoiser)
    key = f"lora_unet_{next(iter(layers)).replace('.', '_')}.{end}"
    path = written(tmp_path / "x.safetensors", {**kohya("lora_unet_", _same(layers), layers), key: torch.ones(2, 2)})
    message = failure(sd15_folder, path)
    assert method in message
    assert key in message


def test_a_lora_for_the_text_encoder_alone_is_refused(sd15_folder: Path, tmp_path: Path):
    layers = {"text_model.encoder.layers.0.self_attn.q_proj": Made(torch.zeros(2, 32), torch.zeros(32, 2), 2.0)}
    for number, tensors in enumerate((kohya("lora_te_", _same(layers), layers), peft("text_encoder.", layers))):
        message = failure(sd15_folder, written(tmp_path / f"{number}.safetensors", tensors))
        assert "adapts the text encoder only" in message


def test_a_layer_without_its_other_matrix_is_named(sd15_folder: Path, tmp_path: Path):
    layers = made_layers(fresh(sd15_folder).denoiser)
    tensors = kohya("lora_unet_", _same(layers), layers)
    for side, role in (("lora_up", "up"), ("lora_down", "down")):
        rest = {key: tensor for key, tensor in tensors.items() if side not in key or "to_q" not in key}
        assert f"has no {role} matrix" in failure(sd15_folder, written(tmp_path / f"{side}.safetensors", rest))


@pytest.mark.parametrize("change", ["narrow", "flat", "ranks", "nan", "integers", "alpha"])
def test_matrices_that_do_not_fit_or_are_no_numbers_are_named(sd15_folder: Path, tmp_path: Path, change: str):
    layers = made_layers(fresh(sd15_folder).denoiser)
    name = next(name for name in layers if name.endswith("attn1.to_q"))
    made = layers[name]
    bad = {
        "narrow": made._replace(down=made.down[:, :-1]),
        "flat": made._replace(up=made.up.flatten()),
        "ranks": made._replace(down=torch.cat([made.down, made.down])),
        "nan": made._replace(up=made.up / 0 * 0),
        "integers": made._replace(down=made.down.to(torch.int8)),
        "alpha": made._replace(alpha=float("inf")),
    }
    message = failure(sd15_folder, _kohya(tmp_path, {**layers, name: bad[change]}))
    assert name in message


@pytest.mark.parametrize(
    "header",
    [
        {"lora_adapter_metadata": "{"},
        {"lora_adapter_metadata": "[]"},
        {"t2ialign": "7"},
        {"lora_adapter_metadata": "[" * 99_999},
    ],
)
def test_a_damaged_header_is_named(sd15_folder: Path, tmp_path: Path, header: dict[str, str]):
    layers = made_layers(fresh(sd15_folder).denoiser)
    message = failure(sd15_folder, written(tmp_path / "x.safetensors", peft("unet.", layers), header))
    assert "header entry" in message


@pytest.mark.parametrize(
    "stated", [{"alpha_pattern": {"(": 1}}, {"alpha_pattern": 3}, {"lora_alpha": "four"}, {"peft_type": "LOHA"}]
)
def test_settings_of_peft_that_cannot_be_used_are_refused(sd15_folder: Path, tmp_path: Path, stated: dict[str, Any]):
    layers = made_layers(fresh(sd15_folder).denoiser)
    _peft_folder(tmp_path, layers)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"lora_alpha": 1, **stated}))
    failure(sd15_folder, tmp_path)
