"""Every shipped config loads, does two steps on a tiny model, and says what its sources say."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from rich.console import Console
from safetensors.torch import load_file
from toys import pair_folder, saved_lora

from t2ialign.config.reader import dump, load, parse, read_yaml
from t2ialign.config.schema import Config, OnlineConfig
from t2ialign.training.trackers import read_metrics
from t2ialign.training.train import train

ROOT = Path(__file__).parent.parent
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
FAST = {"dpo_sdxl", "kto_sd15", "lpo_sd15", "mapo_sdxl", "shapes_dpo", "shapes_lipo", "shapes_sft", "shapes_tdpo"}
FAST |= {"smpo_sdxl", "shapes_self_npo", "shapes_nft", "shapes_pref_grpo"}
"""Each objective and each kind of data once; the others take their two steps among the slow tests."""
PUBLISHED = [path for path in CONFIGS if "# As published" in path.read_text()]


class Recipe(NamedTuple):
    batch: int
    """Examples (pairs, lists, single images) of an optimizer step."""
    rate: float
    multiplier: float | None
    """What multiplies a difference of per-element mean squared errors; None where nothing is compared."""
    seen: int
    """Examples seen in all."""


# docs/recipes.md. One GPU, LoRA: 64 pairs, as dpo_*; 64 single images; 32 lists of 4, as many images as 64 pairs;
# MaPO's own demo has 16 pairs. Rate 1e-5. 2000 steps. Betas are halved in the margin but for KTO's and MaPO's.
LORA = {
    "dpo": Recipe(64, 1e-5, 2500, 128_000),  # beta 5000, as released
    "sdpo": Recipe(64, 1e-5, 2500, 128_000),  # the same beta, as released
    "ipo": Recipe(64, 1e-5, 2500, 128_000),  # dpo's beta: no recipe is known to us
    "lpo": Recipe(32, 1e-5, 2500, 64_000),  # dpo's beta: the paper's was not at hand
    "lipo": Recipe(32, 1e-5, 2500, 64_000),  # likewise
    "kto": Recipe(64, 1e-5, 1000, 128_000),  # beta 1000, the released default
    "tkto": Recipe(64, 1e-5, 1000, 128_000),  # KTO's
    "tdpo": Recipe(64, 1e-5, 1000, 128_000),  # beta 2000, the lower end of dpo's range
    "mapo": Recipe(16, 1e-5, 250, 32_000),  # T * s / 2 = 1000 * 0.5 / 2; the README of the code: 8 x 2, 1e-5, 2000
    "mapo_v2": Recipe(64, 1e-5, 4, 128_000),  # beta / 2 at beta 8
}
# docs/recipes.md. Ours, measured on Shapes: 64 pairs, 128 single images or 32 lists of 4 a step, 132 steps, rate 5e-4.
SHAPES = {
    "dpo": Recipe(64, 5e-4, 150, 8_448),  # beta / 2 at beta 300
    "sdpo": Recipe(64, 5e-4, 150, 8_448),  # dpo's
    "ipo": Recipe(64, 5e-4, 150, 8_448),  # dpo's
    "tdpo": Recipe(64, 5e-4, 150, 8_448),  # dpo's
    "lpo": Recipe(32, 5e-4, 150, 4_224),  # dpo's beta
    "lipo": Recipe(32, 5e-4, 150, 4_224),  # dpo's beta
    "kto": Recipe(128, 5e-4, 150, 16_896),  # beta 150, not halved: as strong as dpo
    "tkto": Recipe(128, 2e-4, 300, 16_896),  # beta 300, not halved: twice as strong, at a lower rate
    "mapo": Recipe(64, 5e-4, 50, 8_448),  # T * s / 2 = 200 * 0.5 / 2
    "mapo_v2": Recipe(64, 5e-4, 4, 8_448),  # beta / 2 at beta 8, the paper's
    "sft": Recipe(64, 4e-4, None, 19_200),  # 300 steps of 64 images; nothing is compared
}
SHAPES |= {
    "inpo": Recipe(64, 5e-4, 150, 8_448),  # dpo's
    "smpo": Recipe(64, 5e-4, 40, 8_448),  # beta / 2 at beta 80, times a weight of 3.6 on average
    "npo": Recipe(64, 5e-4, 150, 8_448),  # dpo's
    "self_npo": Recipe(64, 3e-4, None, 12_800),  # 200 steps of 64 prompts; nothing is compared
}
ONLINE = {
    "nft": Recipe(512, 5e-4, None, 61_440),  # 16 x 8 images x 4 draws, 120 iterations, rate to 0
    "pref_nft": Recipe(512, 5e-4, None, 51_200),  # the same, 100 iterations
    "grpo": Recipe(256, 3e-4, None, 51_200),  # the same images in two updates; the rate that is usual for LoRA
    "pref_grpo": Recipe(256, 3e-4, None, 40_960),  # grpo's, 80 iterations, rate to 0
}
"""Of loop online, on Shapes."""
RECIPES = {f"{method}_{family}": recipe for method, recipe in LORA.items() for family in ("sd15", "sdxl")}
RECIPES |= {f"shapes_{method}": recipe for method, recipe in (SHAPES | ONLINE).items()}
RECIPES |= {
    "inpo_sd15": Recipe(64, 1e-5, 1000, 25_600),  # beta 2000 and 400 steps, as released
    "inpo_sdxl": Recipe(64, 1e-5, 2500, 25_600),  # beta 5000
    "smpo_sd15": Recipe(64, 1e-5, 1000, 12_800),  # beta 2000 and 200 steps, as released
    "smpo_sdxl": Recipe(64, 1e-5, 2500, 12_800),
    "npo_sd15": Recipe(64, 5e-6, 500, 128_000),  # script: 64 pairs, 5e-6, beta 500 without the 1/2; 2,000 iterations
    "npo_sdxl": Recipe(60, 5e-6, 1000, 120_000),  # script: 30 x 2 pairs, 5e-6, beta 2000 with it
    "self_npo_sd15": Recipe(20, 1e-5, None, 20_000),  # script: 20 images, 1,000 steps; the rate is ours, for LoRA
    "self_npo_sdxl": Recipe(10, 1e-5, None, 10_000),  # script: 10 images
    "pref_grpo_sd15": Recipe(320, 3e-4, None, 192_000),  # 8 x 8 images x 10 steps in two updates, 300 iterations
    "pref_grpo_sdxl": Recipe(320, 1e-4, None, 192_000),
    "nft_sd15": Recipe(768, 3e-4, None, 307_200),  # 16 x 12 images x 4 draws, 400 iterations; published rate
    "nft_sdxl": Recipe(768, 1e-4, None, 307_200),
    "sft_sd15": Recipe(64, 1e-5, None, 128_000),  # dpo's
    "sft_sdxl": Recipe(64, 1e-5, None, 128_000),
}
AS_PUBLISHED = {
    "dpo_sd15": Recipe(2048, 2.048e-5, 2500, 4_096_000),  # launcher: 1 x 128 x 16, 1e-8 scaled by 2048, 2000 steps
    "dpo_sdxl": Recipe(2048, 2.048e-5, 2500, 4_096_000),  # launcher: the same rate, 2000 steps at most
    "mapo_sdxl": Recipe(16, 1e-5, 250, 32_000),  # README: 8 pairs x 2 accumulation, 2000 steps
    "mapo_v2_sdxl": Recipe(2048, 1e-7, 4, 4_096_000),  # paper v2: 32 x 8 x 8 pairs, 1e-7 cosine, 2000 steps, beta 8
    "kto_sd15": Recipe(8, 1e-7, 5000, 80_000),  # paper: 2 images on 4 GPUs, 1e-7, 10,000 steps, beta 5000
    "sdpo_sd15": Recipe(2048, 2.048e-5, 2500, 4_096_000),  # script: 1e-8 scaled by 2048, 2000 steps, beta 5000
    "sdpo_sdxl": Recipe(2048, 2.048e-6, 2500, 4_096_000),  # script: 1e-9 scaled by 2048
    "inpo_sd15": Recipe(1024, 1.024e-5, 1000, 409_600),  # launcher: 1 x 128 x 8, 1e-8 scaled by 1024, 400 steps
    "inpo_sdxl": Recipe(1024, 1.024e-5, 2500, 409_600),
    "smpo_sd15": Recipe(1024, 1.024e-5, 1000, 204_800),  # launcher: the same, 200 steps
    "smpo_sdxl": Recipe(1024, 1.024e-5, 2500, 204_800),
    "self_npo_sd15": Recipe(20, 1e-6, None, 20_000),  # script: 1e-6
    "self_npo_sdxl": Recipe(10, 1e-7, None, 10_000),  # script: 1e-7
}
START = {"dpo": math.log(2), "ipo": 0.25, "kto": 0.5, "lpo": math.log(6), "lipo": math.log(2)}
"""Loss of an untouched policy; the lists below have 3 images."""


@pytest.fixture
def at_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def examples(data: dict[str, Any], folder: Path) -> Path:
    """A table of the kind that a config reads, over the images of four pairs."""
    pairs = pair_folder(folder, 4, scores="relabelled" in data["path"] or "shapes-sd" in data["path"])
    if data["name"] == "lists":
        rows = [
            {"prompt": f"list {number}", "image": f"{(number + place) % 4}_chosen.png", "score": place}
            for number in range(4)
            for place in range(3)
        ]
        table = folder / "scores.jsonl"
        table.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return table
    if "text_pairs" in data["path"]:
        table = folder / "texts.csv"
        rows = [f"{number}_chosen.png,a red circle,a blue circle" for number in range(4)]
        table.write_text("\n".join(["image,prompt,mismatched", *rows]))
        return table
    return pairs


def tiny(path: Path, folder: Path, sd15: Path, sdxl: Path) -> list[str]:
    """What makes a shipped config small: the model, the data, the size; its method stays."""
    content, _ = read_yaml(path)
    family = content["backbone"]["name"]
    overrides = [
        f"run_dir={folder / 'run'}",
        f"backbone.pretrained={sdxl if family == 'sdxl' else sd15}",
        f"data.path={examples(content['data'], folder / 'pairs')}",
        "train.steps=2",
        "train.micro_batch=2",
        "train.effective_batch=4",
        "checkpoint.every_steps=1",
    ]
    overrides += ["backbone.vae=null"] if "vae" in content["backbone"] else []
    overrides += ["data.resolution=64"] if "resolution" in content["data"] else []
    if content.get("loop") == "online":
        overrides += ["rollout.prompts=2", "rollout.images=2", "rollout.timesteps=1", "rollout.updates=1"]
        overrides += ["rewards=[brightness]", "advantage.scale=group_std", "advantage.fixed_scale=null"]
    if "validate" in content:
        overrides += ["validate.inference_steps=1", "validate.max_prompts=2"]
    if "rewards" in content.get("validate", {}):
        overrides += ["validate.rewards=[sharpness]", "validate.best=null"]
    return overrides


def published(path: Path) -> list[str]:
    """The overrides that a config's head names as the published recipe."""
    return added(path, "), add:\n")


def added(path: Path, after: str) -> list[str]:
    """The overrides that a config's head names after some words."""
    head = path.read_text().split(after)[1].splitlines()
    lines = head[: next(number for number, line in enumerate(head) if not line.startswith("#   "))]
    return " ".join(line.removeprefix("#   ") for line in lines).split()


def recipe(config: Config) -> Recipe:
    batch, steps = config.train.effective_batch, config.train.steps
    return Recipe(batch, config.optim.lr, config.objective.margin_multiplier(), steps * batch)


def two_steps(config: Config) -> list[dict[str, Any]]:
    train(config, console=Console(quiet=True))
    rows = [row for row in read_metrics(config.run_dir / "metrics.jsonl") if "loss" in row]
    assert [row["step"] for row in rows] == [1, 2]
    assert [row["samples_seen"] for row in rows] == [4, 8]
    assert all(math.isfinite(row["loss"]) for row in rows)
    rates = [config.optim.lr * (step + 1) / max(1, config.optim.warmup_steps) for step in (0, 1)]
    if config.optim.schedule == "constant":
        assert [row["lr"] for row in rows] == pytest.approx([min(rate, config.optim.lr) for rate in rates])
    return rows


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_loads_and_dumps(path: Path, at_root: None):
    loaded = load(path)
    content, _ = read_yaml(path)
    assert parse(content) == loaded
    assert loaded.run_dir == Path("runs") / path.stem
    assert dump(loaded)
    if loaded.validation.prompts is not None:
        assert loaded.validation.prompts.is_file()


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=[] if path.stem in FAST else [pytest.mark.slow]) for path in CONFIGS],
    ids=lambda path: path.stem,
)
def test_every_config_takes_two_steps(path: Path, tmp_path: Path, sd15_folder: Path, sdxl_folder: Path, at_root: None):
    config = load(path, tiny(path, tmp_path, sd15_folder, sdxl_folder))
    rows = two_steps(config)
    if config.objective.name in START:
        assert rows[0]["loss"] == pytest.approx(START[config.objective.name], abs=1e-6)
    assert any(tensor.abs().max() > 0 for name, tensor in saved_lora(tmp_path / "run").items() if "lora_B" in name)
    written = (tmp_path / "run" / "lora" / "README.md").read_text()
    assert f"objective:\n  name: {config.objective.name}" in written


@pytest.mark.slow
@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
def test_the_published_recipes_take_two_steps(
    path: Path, tmp_path: Path, sd15_folder: Path, sdxl_folder: Path, at_root: None
):
    small = tiny(path, tmp_path, sd15_folder, sdxl_folder)
    runs_anywhere = [override for override in published(path) if override != "optim.name=adamw8bit"]  # needs a GPU
    config = load(path, [*runs_anywhere, *small])
    assert config.lora is None
    rows = two_steps(config)
    if config.objective.name in START:
        # the frozen copy answers in the training's precision, as the policy does
        assert rows[0]["loss"] == pytest.approx(START[config.objective.name], abs=1e-6)
    assert load_file(tmp_path / "run" / "unet" / "diffusion_pytorch_model.safetensors")


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_what_their_sources_say(name: str, at_root: None):
    assert recipe(load(ROOT / "configs" / f"{name}.yaml")) == RECIPES[name]


def test_every_config_is_in_the_table():
    assert {path.stem for path in CONFIGS} == set(RECIPES)
    assert {path.stem for path in PUBLISHED} == set(AS_PUBLISHED)


@pytest.mark.parametrize("name", AS_PUBLISHED)
def test_published_recipes_are_what_their_sources_say(name: str, at_root: None):
    path = ROOT / "configs" / f"{name}.yaml"
    config = load(path, published(path))
    assert recipe(config) == AS_PUBLISHED[name]
    assert config.lora is None


def test_single_images_are_as_often_liked_as_diffusion_kto_draws_them(at_root: None):
    assert load(ROOT / "configs" / "kto_sd15.yaml").data.desirable_share == 0.8


def test_the_pairs_of_shapes_are_seen_as_often_by_every_method(at_root: None):
    # 64 pairs, 128 single images, 32 lists of 4: 128 images a step, 132 steps
    for path in CONFIGS:
        if not path.stem.startswith("shapes_") or path.stem in ("shapes_sft", "shapes_self_npo"):
            continue
        config = load(path)
        if isinstance(config, OnlineConfig):
            continue
        assert config.train.effective_batch * config.data.views == 128, path.stem
        assert config.train.steps == 132, path.stem


@pytest.mark.parametrize("method", [method for method in SHAPES if method != "self_npo"])
def test_shapes_recipes_have_one_adapter_and_the_same_timesteps(method: str, at_root: None):
    config = load(ROOT / "configs" / f"shapes_{method}.yaml")
    assert config.lora is not None
    assert (config.lora.rank, config.lora.alpha, config.lora.targets) == (16, 16, "all")
    assert config.noiser.min_timestep == 250  # of 1000: all but the least noisy quarter


@pytest.mark.parametrize(("name", "warmup_steps"), [("dpo_sd15", 500), ("dpo_sdxl", 200)])
def test_dpo_as_published_warms_up_and_drops_prompts_as_the_launchers_do(name: str, warmup_steps: int, at_root: None):
    path = ROOT / "configs" / f"{name}.yaml"
    config = load(path, published(path))
    assert config.optim.warmup_steps == warmup_steps
    assert config.data.prompt_dropout == 0.2


@pytest.mark.parametrize("name", [name for name in RECIPES if "self_npo" in name])
def test_self_npo_without_images_is_what_the_head_of_its_config_adds(name: str, at_root: None):
    path = ROOT / "configs" / f"{name}.yaml"
    config = load(path, added(path, "without any image, add:\n"))
    assert not config.data.has_images
    assert config.data.resolution == load(path).data.resolution
    assert not config.noiser.reads_images


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_says_in_its_first_line_what_it_is(path: Path):
    first = path.read_text().splitlines()[0]
    assert first.startswith("# ")
    assert first.endswith(".")
