"""The exported folder, loaded by diffusers where this package cannot be imported, gives the images of `generate`."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from diffusers import UNet2DConditionModel
from lora_files import finetune, saved
from safetensors.torch import load_file
from typer.testing import CliRunner

from t2ialign.cli.main import app
from t2ialign.config.generation import GenerationConfig
from t2ialign.errors import InputError
from t2ialign.export import folder, pipeline
from t2ialign.export.folder import export_guided
from t2ialign.export.pipeline import NegativeModelPipeline
from t2ialign.generation import images as generation
from t2ialign.models import open_guided_model
from t2ialign.storage.resources import shipped

PROMPTS, SEEDS, STEPS = ["a large red circle", "two blue squares"], [1, 2], 3
SCALES = (1.0, 3.0)
ALPHA = 0.5
PLAIN = Path(__file__).with_name("plain_diffusers.py")


class Case(NamedTuple):
    family: str
    loras: dict[str, float]
    negative: dict[str, float]

    @property
    def model(self) -> Path:
        return shipped("assets/shapes-sdxl" if self.family == "sdxl" else "assets/shapes-sd")


CASES = {
    "mixtures": Case("sd15", {"one": 0.8, "other": -0.3}, {"npo": 0.7, "one": 0.2}),
    "mixtures-xl": Case("sdxl", {"one": 0.8, "other": -0.3}, {"npo": 0.7}),
    "base-is-positive": Case("sd15", {}, {"npo": 0.7}),
    "finetune": Case("sd15", {}, {"tuned": 0.7}),
    "finetune-and-loras-xl": Case("sdxl", {"one": 0.8}, {"tuned": 0.7, "npo": -0.4}),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Path]]:
    """Family -> name -> a LoRA or a fine-tune of the shipped model."""
    out = tmp_path_factory.mktemp("made")
    found: dict[str, dict[str, Path]] = {}
    for case in (CASES["mixtures"], CASES["mixtures-xl"]):
        family, folder = case.family, out / case.family
        found[family] = {
            "one": saved(case.model, folder / "one", moved=0.05, family=family, rank=2, alpha=6),
            "other": saved(case.model, folder / "other", moved=0.05, family=family, rank=4, targets="all"),
            "npo": saved(case.model, folder / "npo", moved=-0.05, family=family, rank=3, targets="attention+ff"),
            "tuned": finetune(case.model, folder / "tuned", moved=0.01, seed=1),
        }
    return found


def opened(case: Case, made: dict[str, dict[str, Path]]) -> dict[str, Any]:
    """The arguments of `open_guided_model` and `export_guided`."""
    paths = made[case.family]
    return {
        "model": str(case.model),
        "negative": {str(paths[name]): beta for name, beta in case.negative.items()},
        "loras": {str(paths[name]): scale for name, scale in case.loras.items()},
        "alpha": ALPHA,
    }


@pytest.fixture(scope="module")
def exported(made: dict[str, dict[str, Path]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every case's export, and the images that plain diffusers made of it."""
    out = tmp_path_factory.mktemp("exported")
    for name, case in CASES.items():
        export_guided(out / name, **opened(case, made))
    environment = {**os.environ, "HF_MODULES_CACHE": str(out / "modules")}
    job = {"prompts": PROMPTS, "seeds": SEEDS, "steps": STEPS, "scales": SCALES, "folders": list(CASES)}
    call = [sys.executable, str(PLAIN), json.dumps(job)]
    done = subprocess.run(call, cwd=out, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return out


def images(case: Case, made: dict[str, dict[str, Path]], scale: float, dtype: torch.dtype) -> torch.Tensor:
    """The pixels in [0, 1] that `generate` makes 8-bit images of. [N, 3, H, W]"""
    policy, weights, negative = open_guided_model(**opened(case, made))
    for part in (*policy.backbone.pipeline().components.values(), policy.denoiser, *policy.copies.values()):
        if isinstance(part, torch.nn.Module):
            part.to(dtype)
    pixels: list[torch.Tensor] = []
    decode, draw = policy.backbone.decode_latents, generation.initial_latents

    def keep(latents: torch.Tensor) -> torch.Tensor:
        pixels.append(decode(latents))
        return pixels[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(policy.backbone, "decode_latents", keep)
        patch.setattr(generation, "initial_latents", lambda *arguments: draw(*arguments).to(dtype))
        settings = GenerationConfig(guidance_scale=scale, inference_steps=STEPS)
        list(generation.generate_images(policy, PROMPTS, SEEDS, settings, weights=weights, negative=negative))
    return torch.cat(pixels)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float32, 5e-5), (torch.float64, 1e-6)],  # rounding in three steps; rounding of diffusers' float32 tables
    ids=["float32", "float64"],
)
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", CASES)
def test_plain_diffusers_makes_the_images_of_generate(
    name: str, scale: float, dtype: torch.dtype, tolerance: float, exported: Path, made: dict[str, dict[str, Path]]
):
    theirs = load_file(exported / f"{name}.safetensors")[f"{str(dtype).removeprefix('torch.')} {scale:g}"]
    ours = images(CASES[name], made, scale, dtype)
    torch.testing.assert_close(theirs, ours, atol=tolerance, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_every_part_moves_and_off_loads_with_the_pipeline(name: str, exported: Path):
    """The script compares images with off-loading, and types after a cast; see there."""
    found = load_file(exported / f"{name}.safetensors")
    torch.testing.assert_close(found["off-loaded"], found["float32 3"], atol=1e-6, rtol=0)
    facts = json.loads((exported / f"{name}.json").read_text())
    networks = ["unet", *(["negative_unet"] if "finetune" in name else [])]
    assert facts["hooked"] == networks
    assert facts["types"] == dict.fromkeys(networks, "torch.float64")
    assert facts["scaled inputs"] == STEPS


def refusal(out: Path, case: Case, made: dict[str, dict[str, Path]], **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        export_guided(out, **opened(case, made), **options)
    return str(caught.value)


def test_what_cannot_be_exported_is_refused_and_leaves_nothing(
    made: dict[str, dict[str, Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    case = CASES["base-is-positive"]
    (tmp_path / "there").mkdir()
    assert "there: exists already; give a new folder" in refusal(tmp_path / "there", case, made)
    said = refusal(tmp_path / "zeros", case, made, backbone={"null": "zeros"})
    assert "--backbone null: a diffusers pipeline has its family's own; leave the key out" in said
    monkeypatch.setattr(folder, "_card", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export_guided(tmp_path / "broken", **opened(case, made))
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_an_adapter_that_is_gone_is_missed(made: dict[str, dict[str, Path]], tmp_path: Path):
    """Without it the pipeline would make plain images and say nothing."""
    out = export_guided(tmp_path / "out", **opened(CASES["base-is-positive"], made))
    (out / "negative").rename(tmp_path / "negative")
    parts = open_guided_model(**opened(CASES["base-is-positive"], made)).policy.backbone.pipeline().components
    unet = UNet2DConditionModel.from_pretrained(out / "unet")
    with pytest.raises(ValueError, match="negative: no such adapter; load the whole exported folder"):
        NegativeModelPipeline(**{**parts, "unet": unet}, requires_safety_checker=False, negative_adapter="negative")


def test_the_command_exports_what_generate_takes(made: dict[str, dict[str, Path]], tmp_path: Path):
    paths = made["sd15"]
    options = [
        "--model",
        str(CASES["mixtures"].model),
        "--lora",
        f"{paths['one']}:0.8",
        "--negative",
        str(paths["npo"]),
    ]
    out = tmp_path / "out"
    done = CliRunner().invoke(app, ["export", *options, "--negative-alpha", "0.5", "--out", str(out)])
    assert done.exit_code == 0, done.output
    index = json.loads((out / "model_index.json").read_text())
    assert index["_class_name"] == ["pipeline", "NegativeModelPipeline"]
    assert (index["positive_adapter"], index["negative_adapter"]) == ("positive", "negative")
    source = (out / "pipeline.py").read_text()
    assert source == inspect.getsource(pipeline)
    assert "t2ialign" not in source
    record = (out / "README.md").read_text()
    assert '"negative_alpha": 0.5' in record
