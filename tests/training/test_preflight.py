"""What preflight refuses: with its exit code, before a weight is loaded and anything but the lock is written."""

from __future__ import annotations

import importlib.util
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from lora_files import saved
from rich.console import Console
from safetensors.torch import save_file
from toys import lora_policy, pair_folder, write_config

from t2ialign.backbones.adapters import adapter_parameters, add_adapter
from t2ialign.backbones.facts import count_parameters, read_facts
from t2ialign.backbones.lora import save_lora
from t2ialign.backbones.stable_diffusion import StableDiffusion15, StableDiffusionXL
from t2ialign.config.reader import load
from t2ialign.config.schema import Lora
from t2ialign.errors import UserError
from t2ialign.objectives.base import Passes
from t2ialign.policy import LEARNER
from t2ialign.training.preflight import check
from t2ialign.training.train import train

QUIET = Console(quiet=True)


class Refusal(NamedTuple):
    overrides: tuple[str, ...]
    code: int
    says: str


PROMPTS = "validate.prompts={here}/prompts.txt"
REFUSALS = {
    "reward typo": Refusal((PROMPTS, "validate.rewards=[sharpnes]"), 2, "did you mean 'sharpness'"),
    "missing prompts": Refusal(("validate.prompts={here}/no.txt",), 2, "no.txt: no such file of prompts"),
    "rewards without prompts": Refusal(("validate.rewards=[sharpness]",), 2, "validate.prompts"),
    "bitsandbytes": Refusal(("optim.name=adamw8bit",), 3, r'pip install "t2ialign\[bnb\]"'),
    "trained weights in 4 bits": Refusal(("lora=null", "train.quantize=nf4"), 2, "nf4 holds frozen weights; add the"),
    "8-bit moments in parts": Refusal(
        ("lora=null", "train.shard=fsdp2", "optim.name=adamw8bit"), 2, "with optimizers of torch tensors"
    ),
    "xformers": Refusal(("train.attention=xformers",), 3, r'pip install "t2ialign\[xformers\]"'),
    "timesteps": Refusal(("noiser.max_timestep=5000",), 2, "the model has 1000"),
    "inversion steps": Refusal(("noiser={name: inversion, steps: 1001}",), 2, "steps is 1001, and the model has 1000"),
    "rollout steps": Refusal(
        ("noiser={name: self_rollout, grid_steps: 4, weights: reference}",), 2, "rollout_steps 5, grid_steps 4"
    ),
    "no average": Refusal(
        ("noiser={name: self_rollout}",),
        2,
        "noiser 'self_rollout' reads the average of the weights; set optim.ema_decay",
    ),
    "no scores": Refusal(
        ("objective.score_weight.score_range=1",), 2, "reads scores; data 'pairs' has none; `t2ialign data relabel`"
    ),
    "views": Refusal(
        ("data={name: singles, path: {here}/pairs/pairs.csv}",),
        2,
        "compares 2 views per example; data 'singles' yields 1",
    ),
    "no images": Refusal(
        ("data={name: prompts, path: {here}/prompts.txt}", "objective={name: denoising}"),
        2,
        "data 'prompts' has no images, and noiser 'forward' starts from them; set noiser.name=self_rollout and "
        "noiser.start=noise, or use data with images, as data.name=singles",
    ),
    "no images to roll out from": Refusal(
        (
            "data={name: prompts, path: {here}/prompts.txt}",
            "objective={name: denoising}",
            "noiser={name: self_rollout, weights: reference}",
        ),
        2,
        "data 'prompts' has no images, and noiser 'self_rollout' starts from them",
    ),
    "no pairs": Refusal(
        ("data={name: prompts, path: {here}/prompts.txt}",),
        2,
        "objective 'dpo' compares 2 views per example; data 'prompts' yields 1",
    ),
    "no labels": Refusal(
        (
            "data={name: prompts, path: {here}/prompts.txt}",
            "objective={name: kto, beta: 100}",
            "noiser={name: self_rollout, weights: reference, start: noise}",
        ),
        2,
        "objective 'kto' reads labels; data 'prompts' has none",
    ),
    "LoRA that is no file": Refusal(("lora.init={here}/none",), 2, "none: no such LoRA"),
    "LoRA that cannot be read": Refusal(("lora.init={here}/broken.safetensors",), 2, "not a readable safetensors"),
    "LoRA of another family": Refusal(("lora.init={here}/xl",), 2, "cross-attention width"),
    "resolution": Refusal(("data.resolution=60",), 2, "needs a multiple of 8: 56 or 64"),
    "mirrored prompts": Refusal(
        (
            "data={name: prompts, path: {here}/prompts.txt, flip: 0.5}",
            "objective={name: denoising}",
            "noiser={name: self_rollout, weights: reference, start: noise}",
        ),
        2,
        "data.flip is 0.5; data 'prompts' has no images to mirror: leave the key out",
    ),
    "mirrored held-out pairs": Refusal(
        ("validate.pairs={name: pairs, path: {here}/pairs/pairs.csv, flip: 0.5}",),
        2,
        "validate.pairs.flip has no part in what is measured",
    ),
    "mirrored trajectories": Refusal(
        ("data.flip=0.5", "noiser={name: inversion, steps: 4, weights: reference, levels: 3}"),
        2,
        "stores trajectories of the images as they are, and data.flip is 0.5; set data.flip=0",
    ),
    "reward of a folder that is not there": Refusal(
        (PROMPTS, "validate.rewards=[{name: clip_score, pretrained: {here}/none}]"),
        2,
        "none: no such folder of reward weights",
    ),
    "reward of a folder without weights": Refusal(
        (PROMPTS, "validate.rewards=[{name: pickscore, pretrained: {here}/pairs}]"),
        2,
        "pairs: holds no model.safetensors or ",
    ),
    "reward whose weights are not in the hub's cache": Refusal(
        (PROMPTS, "validate.rewards=[{name: clip_score, pretrained: nobody/never-downloaded}]"),
        3,
        "'nobody/never-downloaded' are not on this machine and could not be fetched",
    ),
    "reward whose file is not there": Refusal(
        (PROMPTS, "validate.rewards=[{name: aesthetic, weights: {here}/none.pth}]"), 2, "none.pth: no such weights file"
    ),
    "negative model without images": Refusal(("validate.negative=[{here}/fits]",), 2, "give validate.prompts"),
    "share without a negative model": Refusal((PROMPTS, "validate.negative_alpha=0.5"), 2, "give validate.negative"),
    "negative model without guidance": Refusal(
        (PROMPTS, "validate.negative=[{here}/fits]", "validate.guidance_scale=1"), 2, "makes no unconditional pass"
    ),
    "negative model of a full fine-tuning": Refusal(
        (PROMPTS, "validate.negative=[{here}/fits]", "lora=null"), 2, "give a section lora"
    ),
    "negative model that is no file": Refusal((PROMPTS, "validate.negative=[{here}/none]"), 2, "none: no such LoRA"),
    "negative model that is a full fine-tune": Refusal(
        (PROMPTS, "validate.negative=[{here}/whole]"), 2, "whole: a full fine-tune; validate.negative takes LoRAs"
    ),
    "negative model that cannot be read": Refusal(
        (PROMPTS, "validate.negative=[{here}/broken.safetensors]"), 2, "not a readable safetensors"
    ),
    "negative model of another family": Refusal(
        (PROMPTS, "validate.negative=[{here}/xl:0.5]"), 2, "cross-attention width"
    ),
    "negative model without a number": Refusal(
        (PROMPTS, "validate.negative=['{here}/fits:half']"), 2, "validate.negative: .*fits:half: the scale 'half'"
    ),
    "held-out pairs": Refusal(("validate.pairs={name: pairs, path: {here}/none.csv}",), 2, "none.csv"),
}


@pytest.fixture(scope="module")
def loras(sd15_folder: Path, sdxl_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA that fits the model and one that does not; read only."""
    folder = tmp_path_factory.mktemp("loras")
    other = lora_policy(sdxl_folder, family="sdxl")
    save_lora(folder / "xl", other.denoiser, LEARNER, family="sdxl", extra={})
    saved(sd15_folder, folder / "fits", moved=0.1)
    return folder


@pytest.fixture
def place(sd15_folder: Path, loras: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A config, its data, and LoRAs that do not fit; loading weights is an error."""
    write_config(
        tmp_path / "c.yaml", model=sd15_folder, pairs=pair_folder(tmp_path / "pairs", 4), run_dir=tmp_path / "run"
    )
    (tmp_path / "prompts.txt").write_text("a red circle\n")
    (tmp_path / "broken.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{not a header}}")
    for name, folder in {"whole": sd15_folder, "xl": loras / "xl", "fits": loras / "fits"}.items():
        (tmp_path / name).symlink_to(folder)

    def loads(*_: object) -> None:
        raise AssertionError("weights are loaded")

    monkeypatch.setattr(StableDiffusion15, "build", loads)
    monkeypatch.setattr(StableDiffusionXL, "build", loads)
    return tmp_path


def start(config: Path, overrides: list[str]) -> None:
    train(load(config, overrides), console=QUIET)


def left(run_dir: Path) -> list[str]:
    return sorted(str(path.relative_to(run_dir)) for path in run_dir.rglob("*")) if run_dir.is_dir() else []


@pytest.mark.parametrize("name", REFUSALS)
def test_a_mistake_is_refused_before_weights_are_loaded_and_anything_is_written(
    name: str, place: Path, monkeypatch: pytest.MonkeyPatch
):
    overrides, code, says = REFUSALS[name]
    find = importlib.util.find_spec
    absent = ("bitsandbytes", "xformers")  # whether or not they are installed here
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name in absent else find(name, *rest))
    filled = [text.replace("{here}", str(place)) for text in overrides]
    with pytest.raises(UserError, match=says) as raised:
        start(place / "c.yaml", filled)
    assert raised.value.exit_code == code
    assert [path for path in left(place / "run") if not path.startswith(".lock")] == []


def test_an_effective_batch_that_the_processes_cannot_make_is_refused(place: Path):
    config = load(place / "c.yaml", ["train.effective_batch=6"])
    with pytest.raises(UserError, match=r"6 is not a multiple of 2 processes x train.micro_batch 2 = 4"):
        check(config, 2)
    with pytest.raises(UserError, match=r"effective_batch 6 is not a multiple of train.micro_batch 4"):
        load(place / "c.yaml", ["train.effective_batch=6", "train.micro_batch=4"])
    assert left(place / "run") == []


def test_a_disk_that_is_too_full_is_refused_with_the_estimate(place: Path, monkeypatch: pytest.MonkeyPatch):
    usage = shutil.disk_usage(place)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(UserError, match=r"the run writes about .* lower checkpoint.keep") as raised:
        train(load(place / "c.yaml"), console=QUIET)
    assert raised.value.exit_code == 75
    assert [path for path in left(place / "run") if not path.startswith(".lock")] == []


def test_what_is_right_passes_and_is_counted(place: Path):
    config = load(place / "c.yaml", [f"validate.prompts={place}/prompts.txt", "validate.rewards=[sharpness]"])
    plan = check(config, 2)
    assert plan.accumulation == 1  # 4 pairs of 2 processes x 2
    assert len(plan.source) == 4
    assert plan.prompts == ["a red circle"]
    assert plan.passes == Passes(reference=2, forward=2, backward=2)
    assert plan.facts is not None
    assert (plan.facts.num_train_timesteps, plan.facts.vae_factor, plan.facts.resolution) == (1000, 8, 64)
    assert left(place / "run") == []


@pytest.mark.parametrize("targets", ["attention", "attention+ff", "all"])
@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_trained_parameters_are_counted_without_weights(
    targets: str, family: str, sd15_folder: Path, sdxl_folder: Path
):
    folder = sdxl_folder if family == "sdxl" else sd15_folder
    facts = read_facts(str(folder))
    assert facts is not None
    lora = Lora.model_validate({"rank": 3, "alpha": 3, "targets": targets})
    denoiser = lora_policy(folder, family=family).backbone.denoiser
    add_adapter(denoiser, "counted", lora, seed=0, trainable=False)
    found = sum(parameter.numel() for parameter in adapter_parameters(denoiser, "counted").values())
    assert count_parameters(facts, lora).trained == found
    whole = sum(parameter.numel() for name, parameter in denoiser.named_parameters() if ".lora_" not in name)
    assert count_parameters(facts, None).trained == whole


def test_the_disk_estimate_is_what_a_run_writes(sd15_folder: Path, tmp_path: Path):
    pairs = pair_folder(tmp_path / "pairs", 4)
    config = load(
        write_config(tmp_path / "c.yaml", model=sd15_folder, pairs=pairs, run_dir=tmp_path / "run"),
        ["lora=null", "train.steps=5", "data.cache={latents: true, text: true}"],
    )
    disk = check(config, 1).disk
    assert disk is not None
    train(config, console=QUIET)

    def size(*patterns: str) -> int:
        return sum(path.stat().st_size for pattern in patterns for path in config.run_dir.glob(pattern))

    # saved after steps 2, 4 and 5, of which two are kept; headers add a few percent to so small a model
    kept = disk.checkpoints * 2 / 3
    assert size("checkpoints/*/*.safetensors") == pytest.approx(kept, rel=0.1)
    assert size("unet/*.safetensors") == pytest.approx(disk.result, rel=0.1)
    assert size("cache/*/*.safetensors") == pytest.approx(disk.cache, rel=0.1)


def test_a_model_whose_folder_is_damaged_is_named(place: Path, sd15_folder: Path):
    copy = shutil.copytree(sd15_folder, place / "copy")
    (copy / "unet" / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"unet/config.json: not readable JSON"):
        check(load(place / "c.yaml", [f"backbone.pretrained={copy}"]), 1)
    (copy / "unet" / "config.json").write_text("{}")
    with pytest.raises(UserError, match="lacks what a Stable Diffusion model states"):
        check(load(place / "c.yaml", [f"backbone.pretrained={copy}"]), 1)


def test_a_moved_run_with_moved_data_and_model_continues(
    sd15_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Paths are compared by what lies there; other contents are refused."""
    pairs = pair_folder(tmp_path / "pairs", 4)
    path = write_config(tmp_path / "c.yaml", model=sd15_folder, pairs=pairs, run_dir=tmp_path / "run")
    train(load(path, ["train.steps=2"]), console=QUIET)
    moved, data = tmp_path / "moved", shutil.copytree(tmp_path / "pairs", tmp_path / "elsewhere")
    model = shutil.copytree(sd15_folder, tmp_path / "model")
    (tmp_path / "run").rename(moved)
    here = [f"run_dir={moved}", f"data.path={data}/pairs.csv", f"backbone.pretrained={model}/"]
    train(load(path, [*here, "train.steps=3"]), console=QUIET)
    assert "3 steps of 4 examples" in (moved / "lora" / "README.md").read_text()
    with pytest.raises(UserError, match=r"3 steps are done, more than train\.steps 2"):
        train(load(path, [*here, "train.steps=2"]), console=QUIET)
    other = pair_folder(tmp_path / "other", 4, seed=1)
    with pytest.raises(UserError, match="made with data"):
        train(load(path, [*here, f"data.path={other}", "train.steps=4"]), console=QUIET)


def test_another_micro_batch_is_refused_only_where_it_changes_what_is_learnt(sd15_folder: Path, tmp_path: Path):
    path = write_config(
        tmp_path / "c.yaml", model=sd15_folder, pairs=pair_folder(tmp_path / "pairs", 4), run_dir=tmp_path / "run"
    )
    said = Console(record=True, width=200, file=(tmp_path / "log").open("w"))
    train(load(path, ["train.steps=1", "lora.dropout=0.2"]), console=said)
    assert "note: with lora.dropout, train.micro_batch and the number of processes have a part" in said.export_text()
    with pytest.raises(UserError, match=r"train.micro_batch: 2 there, 4 now"):
        train(load(path, ["train.steps=2", "lora.dropout=0.2", "train.micro_batch=4"]), console=QUIET)


def test_a_cache_may_move_but_not_be_rounded(sd15_folder: Path, tmp_path: Path):
    path = write_config(
        tmp_path / "c.yaml", model=sd15_folder, pairs=pair_folder(tmp_path / "pairs", 4), run_dir=tmp_path / "run"
    )
    train(load(path, ["train.steps=1"]), console=QUIET)
    train(load(path, ["train.steps=2", f"data.cache.folder={tmp_path / 'cache'}"]), console=QUIET)
    with pytest.raises(UserError, match=r"data.cache.dtype: 'float32' there, 'float16' now"):
        train(load(path, ["train.steps=3", "data.cache.dtype=float16"]), console=QUIET)


@pytest.mark.parametrize("steps", [2, 3])
def test_a_measurement_that_fails_leaves_what_was_learnt(
    steps: int, sd15_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """In the middle of a run its state, after the last step its LoRA too; the same command measures again."""
    (tmp_path / "prompts.txt").write_text("a red circle\n")
    (tmp_path / "moody.py").write_text(
        "from pathlib import Path\n"
        "def mood(images, prompts):\n"
        f"    if Path({str(tmp_path / 'gone')!r}).exists(): raise MemoryError('out of memory')\n"
        "    return [1.0] * len(images)\n"
    )
    monkeypatch.chdir(tmp_path)
    extra = "validate: {every_steps: 2, prompts: prompts.txt, rewards: ['moody.py:mood'], inference_steps: 1}\n"
    path = write_config(
        tmp_path / "c.yaml", model=sd15_folder, pairs=pair_folder(tmp_path / "pairs", 4), run_dir=tmp_path / "run",
        extra=extra,
    )  # fmt: skip
    said = Console(record=True, width=200, file=(tmp_path / "log").open("w"))

    def break_at(step: int) -> Callable[..., None]:
        return lambda engine: (tmp_path / "gone").touch() if engine.step == step else None

    overrides = ["train.steps=3", "checkpoint.every_steps=100"]
    with pytest.raises(Exception, match="out of memory"):
        train(load(path, overrides), console=said, hooks=[break_at(steps)])
    assert f"validation after step {steps} failed" in said.export_text()
    assert (tmp_path / "run" / "checkpoints" / f"step-{steps:06d}").is_dir()
    assert (tmp_path / "run" / "lora" / "pytorch_lora_weights.safetensors").is_file() == (steps == 3)
    (tmp_path / "gone").unlink()
    train(load(path, overrides), console=QUIET)
    assert (tmp_path / "run" / "lora" / "pytorch_lora_weights.safetensors").is_file()


def test_facts_are_read_from_json_alone(sd15_folder: Path, tmp_path: Path):
    for file in sd15_folder.rglob("*.json"):
        target = tmp_path / "bare" / file.relative_to(sd15_folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
    bare, whole = read_facts(str(tmp_path / "bare")), read_facts(str(sd15_folder))
    assert whole is not None
    assert bare == whole._replace(folder=tmp_path / "bare")
    assert bare is not None
    assert math.prod((bare.latent_channels, bare.text_width, bare.text_tokens)) > 0
    save_file({"x": torch.zeros(1)}, tmp_path / "one.safetensors")
    assert read_facts(str(tmp_path / "one.safetensors")) is None
    assert read_facts("someone/never-downloaded") is None
