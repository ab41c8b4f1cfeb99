"""A UNet in one file on a named base: every layout, what it says of itself, and what is refused by name."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from lora_files import finetune, saved
from safetensors.torch import load_file, save_file
from single_file import unet_layer_names, write_single_file
from torch import Tensor
from toys import backbone

from t2ialign.backbones.facts import read_facts
from t2ialign.backbones.stable_diffusion import StableDiffusion15, StableDiffusionXL
from t2ialign.errors import InputError
from t2ialign.models import family_of, open_guided_model, open_model

FAMILIES = {"sd15": StableDiffusion15, "sdxl": StableDiffusionXL}
LAYOUTS = {
    "diffusers": "",
    "diffusers with a prefix": "unet.",
    "original": "model.diffusion_model.",
    "original of ComfyUI": "diffusion_model.",
    "original without a prefix": "",
}


def written(folder: Path, path: Path, layout: str, **more: Tensor) -> Path:
    """The UNet of a folder as one file in a layout."""
    tensors = load_file(folder / "diffusion_pytorch_model.safetensors")
    names = {name: name for name in tensors}
    if layout.startswith("original"):
        stems = {name.rpartition(".")[0]: None for name in tensors}
        called = unet_layer_names(list(stems))
        names = {name: f"{called[name.rpartition('.')[0]]}.{name.rpartition('.')[2]}" for name in tensors}
    save_file({LAYOUTS[layout] + names[name]: tensor for name, tensor in tensors.items()} | more, path)
    return path


@pytest.fixture(scope="module")
def tuned(sd15_folder: Path, sdxl_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Family -> the folder of a fine-tuned UNet."""
    out = tmp_path_factory.mktemp("tuned")
    folders = {"sd15": sd15_folder, "sdxl": sdxl_folder}
    return {name: finetune(folder, out / name, moved=0.1, seed=3) / "unet" for name, folder in folders.items()}


def built(family: str, base: Path, unet: Path, **options: Any) -> Any:
    return FAMILIES[family](pretrained=str(base), unet=str(unet), **options).build(torch.device("cpu"))


def assert_is(denoiser: Any, folder: Path) -> None:
    wanted, found = load_file(folder / "diffusion_pytorch_model.safetensors"), denoiser.state_dict()
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_layout_is_the_unet_of_its_folder(
    request, tuned: dict[str, Path], tmp_path: Path, family: str, layout: str
):
    base: Path = request.getfixturevalue(f"{family}_folder")
    path = written(tuned[family], tmp_path / "x.safetensors", layout)
    made = built(family, base, path)
    assert_is(made.denoiser, tuned[family])
    assert not any(parameter.requires_grad for parameter in made.denoiser.parameters())
    assert not made.denoiser.training
    assert read_facts(str(base), None, str(path)) == read_facts(str(base))


def test_the_unet_of_a_whole_checkpoint_is_taken(sd15_folder: Path, tuned: dict[str, Path], tmp_path: Path):
    """On a base that is a single file too."""
    release = tmp_path / "release"
    shutil.copytree(sd15_folder, release)
    shutil.copytree(tuned["sd15"], release / "unet", dirs_exist_ok=True)
    whole = write_single_file(release, tmp_path / "whole.safetensors")
    base = write_single_file(sd15_folder, tmp_path / "base.safetensors")
    made = built("sd15", base, whole, single_file_config=str(sd15_folder))
    assert_is(made.denoiser, tuned["sd15"])
    policy, _ = open_model(str(sd15_folder), backbone={"unet": str(whole)})
    assert_is(policy.denoiser, tuned["sd15"])


def test_half_precision_files_are_read_in_the_precision_that_is_asked_for(
    sd15_folder: Path, tuned: dict[str, Path], tmp_path: Path
):
    path = written(tuned["sd15"], tmp_path / "x.safetensors", "original")
    save_file({name: tensor.half() for name, tensor in load_file(path).items()}, path)
    wanted = load_file(tuned["sd15"] / "diffusion_pytorch_model.safetensors")
    for dtype in (torch.float32, torch.bfloat16):
        config = StableDiffusion15(pretrained=str(sd15_folder), unet=str(path))
        state = config.build(torch.device("cpu"), dtype).denoiser.state_dict()
        assert {tensor.dtype for tensor in state.values()} == {dtype}
        for name, tensor in wanted.items():
            assert torch.equal(state[name], tensor.half().to(dtype)), name


def test_a_file_that_says_it_predicts_v_is_obeyed(sd15_folder: Path, tuned: dict[str, Path], tmp_path: Path):
    marks = {"v_pred": torch.zeros(()), "ztsnr": torch.zeros(())}
    path = written(tuned["sd15"], tmp_path / "x.safetensors", "original", **marks)
    made = built("sd15", sd15_folder, path)
    assert made.schedule.prediction_type == "v_prediction"
    alpha, _ = made.schedule.alpha_sigma(torch.tensor([999]))
    assert alpha.item() == pytest.approx(0, abs=1e-6)
    assert built("sd15", sd15_folder, tuned["sd15"]).schedule.prediction_type == "epsilon"


def test_a_file_is_a_negative_model(sd15_folder: Path, tuned: dict[str, Path], tmp_path: Path):
    path = written(tuned["sd15"], tmp_path / "x.safetensors", "original")
    x, t, null = torch.randn(1, 4, 8, 8), torch.tensor([300]), backbone(sd15_folder).null()
    answers = []
    for name in (path, tuned["sd15"]):
        policy, _, negative = open_guided_model(str(sd15_folder), {str(name): 0.7})
        answers.append(policy.denoise(x, t, null, None, negative))
    assert torch.equal(*answers)
    wrong = tmp_path / "v.safetensors"
    save_file({**load_file(path), "v_pred": torch.zeros(())}, wrong)
    with pytest.raises(InputError, match="a fine-tune that predicts v_prediction, and the model predicts epsilon"):
        open_guided_model(str(sd15_folder), {str(wrong): 1.0})


# refused


def refusal(base: Path, unet: Path, family: str = "sd15") -> str:
    with pytest.raises(InputError) as caught:
        built(family, base, unet)
    return str(caught.value)


def changed(path: Path, change: Any) -> Path:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    return path


@pytest.mark.parametrize("layout", ["diffusers", "original"])
def test_tensors_that_are_missing_left_over_or_of_another_shape_are_named(
    sd15_folder: Path, tuned: dict[str, Path], tmp_path: Path, layout: str
):
    conv = LAYOUTS[layout] + ("conv_in" if layout == "diffusers" else "input_blocks.0.0")

    def bad(name: str, change: Any) -> str:
        return refusal(sd15_folder, changed(written(tuned["sd15"], tmp_path / name, layout), change))

    said = bad("a.safetensors", lambda tensors: tensors.pop(f"{conv}.bias"))
    assert f"lacks 1 tensors, the first: {conv}.bias" in said
    said = bad("b.safetensors", lambda tensors: tensors.update({f"{conv}.scale_weight": torch.ones(())}))
    assert f"holds 1 tensors that have no place in the model, the first: {conv}.scale_weight" in said
    said = bad("c.safetensors", lambda tensors: tensors.update({f"{conv}.weight": torch.ones(16, 9, 3, 3)}))
    assert f"{conv}.weight is [16, 9, 3, 3] there and [16, 4, 3, 3] in the base" in said
    said = bad("d.safetensors", lambda tensors: tensors.update({f"{conv}.weight": torch.ones(16, 4, 3, 3).byte()}))
    assert f"{conv}.weight is stored as U8; quantised files are not supported" in said


def test_a_unet_of_another_family_names_both_widths(
    sd15_folder: Path, sdxl_folder: Path, tuned: dict[str, Path], tmp_path: Path
):
    xl = written(tuned["sdxl"], tmp_path / "xl.safetensors", "original")
    said = refusal(sd15_folder, xl)
    assert said.startswith(f"{xl}: a UNet with cross-attention width 72; the base's has 32.")
    said = refusal(sdxl_folder, written(tuned["sd15"], tmp_path / "x.safetensors", "diffusers"), "sdxl")
    assert "cross-attention width 32; the base's has 72" in said


def test_files_given_for_something_else_say_what_they_are(sd15_folder: Path, tuned: dict[str, Path], tmp_path: Path):
    unet = written(tuned["sd15"], tmp_path / "x.safetensors", "original without a prefix")
    with pytest.raises(InputError, match="a UNet without the other parts; give it as --unet beside a base"):
        family_of(str(unet))
    with pytest.raises(InputError, match=r"holds a whole UNet, no LoRA; give it as backbone.unet \(--unet\)"):
        open_model(str(sd15_folder), loras={str(unet): 1.0})
    lora = saved(sd15_folder, tmp_path / "lora", moved=0.1) / "pytorch_lora_weights.safetensors"
    assert "holds no UNet (first tensor: unet." in refusal(sd15_folder, lora)
    assert "holds no UNet (first tensor: " in refusal(
        sd15_folder, sd15_folder / "vae" / "diffusion_pytorch_model.safetensors"
    )
    (tmp_path / "torn.safetensors").write_bytes(unet.read_bytes()[:-9])
    assert "torn.safetensors: not a readable safetensors file" in refusal(sd15_folder, tmp_path / "torn.safetensors")
