"""A negative model in validation: the images that it makes, and that training does not know of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toys
from lora_files import saved
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file

from t2ialign.config.generation import GenerationConfig
from t2ialign.config.reader import load
from t2ialign.generation.images import generate_images
from t2ialign.models import open_guided_model
from t2ialign.training.train import train
from t2ialign.training.validation_sheet import read_sheets

PROMPTS = ["a red circle", "a cat"]


@pytest.fixture(scope="module")
def place(sd15_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, prompts, an adapter to start from, and a negative model that has more layers than it."""
    folder = tmp_path_factory.mktemp("negative")
    toys.pair_folder(folder / "pairs", 4)
    (folder / "prompts.txt").write_text("\n".join(PROMPTS) + "\n")
    saved(sd15_folder, folder / "init", moved=0.2)
    saved(sd15_folder, folder / "npo" / "lora", moved=-0.2, rank=3, alpha=1.5, targets="all")
    return folder


def run(place: Path, model: Path, name: str, *overrides: str) -> Path:
    """The folder of a run of three steps with an average, from an adapter."""
    config = toys.write_config(place / "c.yaml", model=model, pairs=place / "pairs" / "pairs.csv", run_dir=place / name)
    settings = f"validate={{every_steps: 2, prompts: {place}/prompts.txt, inference_steps: 2, guidance_scale: 4}}"
    common = (settings, f"lora.init={place}/init", "optim.ema_decay=0.9", "validate.rewards=[sharpness]")
    train(load(config, [*common, *overrides]), console=Console(quiet=True))
    return place / name


def negative(place: Path) -> str:
    return f"validate.negative=['{place}/npo:0.7']"


def numbers(run_dir: Path) -> list[dict[str, Any]]:
    """What was logged of training."""
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows if "loss" in row]


def test_training_does_not_know_of_the_negative_model(sd15_folder: Path, place: Path):
    without = run(place, sd15_folder, "without")
    beside = run(place, sd15_folder, "beside", negative(place), "validate.negative_alpha=0.5")
    assert numbers(beside) == numbers(without)
    files = sorted(path.relative_to(without) for path in without.rglob("*.safetensors") if "cache" not in path.parts)
    assert {path.parts[0] for path in files} == {"checkpoints", "lora", "lora-ema"}
    for file in files:
        one, other = load_file(beside / file), load_file(without / file)
        assert one.keys() == other.keys()
        assert all(one[name].equal(other[name]) for name in other), file
    pictures = [np.asarray(Image.open(folder / "validation" / "step-000003.png")) for folder in (without, beside)]
    assert not np.array_equal(*pictures)


@pytest.mark.parametrize("alpha", [1.0, 0.5, 0.0])
def test_base_and_policy_are_drawn_with_beta_of_the_negative_model_and_alpha_of_their_own(
    alpha: float, sd15_folder: Path, place: Path
):
    run_dir = run(place, sd15_folder, f"alpha-{alpha}", negative(place), f"validate.negative_alpha={alpha}")
    path, sheet = read_sheets(run_dir / "validation")[-1]
    picture = Image.open(path)
    settings = GenerationConfig(guidance_scale=4, inference_steps=2)
    columns = []
    for loras in ({}, {str(run_dir): 1.0}):
        policy, weights, mixture = open_guided_model(
            str(sd15_folder), {str(place / "npo"): 0.7}, alpha=alpha, loras=loras
        )
        made = generate_images(policy, PROMPTS, [0, 1], settings, weights=weights, negative=mixture)
        columns.append([np.asarray(image, np.int16) for image in made])
    for row, images in zip(sheet.rows, zip(*columns, strict=True), strict=True):
        for label, image in zip(sheet.labels, images, strict=True):
            shown = np.asarray(picture.crop(row.boxes[label]), np.int16)[1::3, 1::3]  # 64 px, three times enlarged
            assert np.abs(shown - image).max() <= 1  # the order of float32 sums


@pytest.mark.slow
def test_a_run_goes_on_with_another_negative_model(sd15_folder: Path, place: Path):
    run(place, sd15_folder, "goes-on", "train.steps=2")
    run_dir = run(place, sd15_folder, "goes-on", negative(place))
    assert numbers(run_dir) == numbers(run(place, sd15_folder, "at-once"))
