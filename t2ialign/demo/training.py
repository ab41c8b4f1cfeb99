"""Trains SFT and Diffusion-DPO of a demo on the same pairs, with equally many UNet passes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from t2ialign.config.reader import parse, read_yaml, set_key
from t2ialign.config.schema import Config
from t2ialign.demo.pair_set import PairSet
from t2ialign.demo.settings import FOLDERS, Demo
from t2ialign.models import family_of
from t2ialign.progress import plain_console
from t2ialign.training.preflight import example_passes
from t2ialign.training.run_folder import result_path
from t2ialign.training.train import train


def train_both(demo: Demo, pairs: PairSet) -> dict[str, Path | None]:
    """The LoRA of each model; SFT and DPO are trained side by side where there are two processes."""
    dpo = training_content(demo, "aligned", pairs)
    sft = training_content(demo, "sft", pairs)
    sft["train"]["steps"] = equal_steps(parse(dpo), parse(sft))
    if demo.worker is None:
        train(parse(sft))
    else:
        demo.worker.start(train_quietly, sft, demo.threads)
    aligned = train(parse(dpo))
    if demo.worker is not None:
        with plain_console(stderr=True).status("waiting for the second process to end SFT"):
            demo.worker.finish()
    return {"base": None, "sft": result_path(parse(sft)), "aligned": aligned}


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


def training_content(demo: Demo, model: str, pairs: PairSet) -> dict[str, Any]:
    """The recipe's content with this demo's paths, seed and overrides.

    Args:
        model: "sft" or "aligned".
    """
    recipe, overrides = {
        "sft": (demo.recipes.sft, demo.settings.sft_overrides),
        "aligned": (demo.recipes.aligned, demo.settings.overrides),
    }[model]
    content, _ = read_yaml(recipe)
    changes = {
        "run_dir": str(demo.run_dir / FOLDERS[model]),
        "seed": demo.settings.seed,
        "backbone.name": family_of(str(demo.model)),
        "backbone.pretrained": str(demo.model),
        "data.path": str(pairs.path),
        **overrides,
    }
    for key, value in changes.items():
        set_key(content, key, value)
    return content
