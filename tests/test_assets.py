"""What is shipped: models that open, draw what they are asked more often than not, and stay small."""

from pathlib import Path

import pytest

from t2ialign.config.generation import GenerationConfig
from t2ialign.demo.evaluation import judge, mean
from t2ialign.demo.pair_set import find_pairs
from t2ialign.demo.settings import Settings
from t2ialign.generation.shards import ImageJob, ImageModel, make_images
from t2ialign.models import family_of
from t2ialign.shapes.caption import family_of as family_of_caption
from t2ialign.shapes.caption import prompts
from t2ialign.storage.resources import shipped

MODELS = {"shapes-sd": "sd15", "shapes-sdxl": "sdxl"}


@pytest.mark.parametrize(("name", "family"), MODELS.items())
def test_a_shipped_model_draws_what_it_is_asked(name: str, family: str, tmp_path: Path):
    model, settings = shipped(f"assets/{name}"), Settings()
    assert family_of(str(model)) == family
    easy = [prompt for prompt in prompts("test", 400, 0) if family_of_caption(prompt) in ("single", "horizontal")][:24]
    generation = GenerationConfig(
        guidance_scale=settings.guidance_scale, inference_steps=settings.inference_steps, batch=24
    )
    make_images([ImageJob(ImageModel(model), easy, tmp_path / "drawn", generation)], None, threads=1)
    rows = judge(easy, tmp_path, {"drawn": "drawn"}, "verdicts.jsonl")
    # the cards say 0.69 to 0.83 of each family fully right; of 24, fewer than 11 by chance one time in a hundred
    assert mean(rows, "drawn", "all_right") >= 11 / 24


def test_the_shipped_models_fit_into_20_mb():
    files = [file for name in MODELS for file in shipped(f"assets/{name}").rglob("*") if not file.is_symlink()]
    assert sum(file.stat().st_size for file in files if file.is_file()) <= 20e6
    assert {file.suffix for file in files if file.is_file()} <= {".json", ".safetensors", ".txt", ".md"}


def test_both_models_share_one_vae():
    name = "vae/diffusion_pytorch_model.safetensors"
    one, other = (shipped(f"assets/{model}") / name for model in MODELS)
    assert other.resolve() == one.resolve()


@pytest.mark.parametrize(("model", "count"), [("shapes-sd", 800), ("shapes-sdxl", 400)])
def test_the_demo_finds_the_shipped_pairs_of_its_settings(model: str, count: int):
    found = find_pairs(Settings(pair_prompts=count), shipped(f"assets/{model}"))
    assert found is not None, "run scripts/research/ship_pairs.py again: weights or settings have changed"
    assert found.shipped
    assert found.totals["prompts"] == count
    assert 0.9 * count <= found.totals["pairs"] <= count  # a prompt of eight equal pictures gives none
    assert found.path.stat().st_size <= 8e6
