"""Trains the models of a demo: SFT and Diffusion-DPO on the same pairs with equally many UNet passes, and online."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from t2ialign.config.reader import parse, read_yaml, set_key
from t2ialign.config.schema import Config
from t2ialign.demo.pair_set import PairSet
from t2ialign.demo.ranks import train_together
from t2ialign.demo.settings import FOLDERS, ONLINE, Demo
from t2ialign.models import family_of
from t2ialign.progress import plain_console
from t2ialign.shapes.caption import prompts as shapes_prompts
from t2ialign.storage.atomic import atomic_write
from t2ialign.training.preflight import example_passes
from t2ialign.training.run_folder import average_path
from t2ialign.training.train import train


def train_all(demo: Demo, pairs: PairSet) -> dict[str, Path | None]:
    """The LoRA of each model: SFT and DPO beside each other where there are two processes, online in both together."""
    contents = {name: training_content(demo, name, pairs.path) for name in ("sft", "aligned")}
    contents["sft"]["train"]["steps"] = equal_steps(parse(contents["aligned"]), parse(contents["sft"]))
    if demo.worker is None:
        train(parse(contents["sft"]))
    else:
        demo.worker.start(train_quietly, contents["sft"], demo.threads)
    train(parse(contents["aligned"]))
    if demo.worker is not None:
        with plain_console(stderr=True).status("waiting for the second process to end training"):
            demo.worker.finish()
    if demo.settings.online:
        contents[ONLINE] = training_content(demo, ONLINE, _write_prompts(demo))
        if demo.worker is None:
            train(parse(contents[ONLINE]))
        else:
            train_together(contents[ONLINE], demo.threads)
    return {"base": None} | {name: average_path(parse(content)) for name, content in contents.items()}


def _write_prompts(demo: Demo) -> Path:
    """The training prompts of the online model."""
    path = demo.run_dir / "prompts.txt"
    lines = shapes_prompts("train", demo.settings.online_prompts, demo.settings.seed)
    with atomic_write(path) as partial:
        partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def train_quietly(content: dict[str, Any], threads: int) -> None:
    """Trains beside another run, whose progress is shown."""
    torch.set_num_threads(threads)
    train(parse(content), console=Console(quiet=True))


def equal_steps(dpo: Config, sft: Config) -> int:
    """Optimizer steps in which SFT makes as many UNet passes as all of DPO's.

    A backward pass counts as one. By its cost of about two forward passes SFT would get 8/3 images for each pair, not
    3: the count is in its favour.
    """
    return round(dpo.train.steps * dpo.train.effective_batch * passes(dpo) / (sft.train.effective_batch * passes(sft)))


def passes(config: Config) -> float:
    """UNet passes that one example of a run costs, in rows of a batch."""
    return example_passes(config).total


def training_content(demo: Demo, model: str, data: Path) -> dict[str, Any]:
    """The recipe's content with this demo's paths, seed and overrides.

    Args:
        model: "sft", "aligned" or "online".
        data: what it learns from.
    """
    recipe, overrides = {
        "sft": (demo.recipes.sft, demo.settings.sft_overrides),
        "aligned": (demo.recipes.aligned, demo.settings.overrides),
        ONLINE: (demo.recipes.online, demo.settings.online_overrides),
    }[model]
    content, _ = read_yaml(recipe)
    changes = {
        "run_dir": str(demo.run_dir / FOLDERS[model]),
        "seed": demo.settings.seed,
        "backbone.name": family_of(str(demo.model)),
        "backbone.pretrained": str(demo.model),
        "data.path": str(data),
        **overrides,
    }
    for key, value in changes.items():
        set_key(content, key, value)
    return content
