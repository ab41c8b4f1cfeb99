"""Folders of images, made by one process or shared with a second."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from t2ialign.config.generation import GenerationConfig
from t2ialign.generation.folder import generate_folder
from t2ialign.generation.worker import WorkerProcess
from t2ialign.models import GuidedModel, open_guided_model, open_model
from t2ialign.progress import plain_console


@dataclass(frozen=True)
class ImageModel:
    """What makes images: a model, perhaps with a LoRA, perhaps with a negative model beside it."""

    folder: Path
    lora: Path | None = None
    negative: dict[str, float] = field(default_factory=dict)
    """Negative models and their beta; see `models.open_guided_model`."""
    negative_alpha: float = 1.0
    """Share of the LoRA in their branch."""

    @property
    def loras(self) -> dict[str, float]:
        return {} if self.lora is None else {str(self.lora): 1.0}

    @property
    def description(self) -> dict[str, Any]:
        """What a folder's record says of it."""
        negative = {"negative": self.negative, "negative_alpha": self.negative_alpha} if self.negative else {}
        return {"model": str(self.folder), "loras": self.loras, **negative}

    def open(self) -> GuidedModel:
        """The model, its weights loaded."""
        if self.negative:
            return open_guided_model(str(self.folder), self.negative, alpha=self.negative_alpha, loras=self.loras)
        policy, mixture = open_model(str(self.folder), loras=self.loras)
        return GuidedModel(policy, mixture, mixture)


@dataclass(frozen=True)
class ImageJob:
    """A folder of images to make; picklable, so that a second process can share it."""

    model: ImageModel
    prompts: list[str]
    out: Path
    settings: GenerationConfig


def make_images(jobs: Sequence[ImageJob], second: WorkerProcess | None, threads: int) -> None:
    """Makes what is missing of the jobs' images, in two processes where there are two.

    Args:
        jobs: those of one model one after the other, so that it is loaded once.
        second: an idle process.
        threads: of each process.
    """
    if second is None:
        generate_shard(jobs, (0, 1), threads, True)
        return
    second.start(generate_shard, jobs, (1, 2), threads, False)
    generate_shard(jobs, (0, 2), threads, True)
    with plain_console(stderr=True).status("waiting for the second process's images"):
        second.finish()


def generate_shard(jobs: Sequence[ImageJob], shard: tuple[int, int], threads: int, progress: bool) -> None:
    """Makes one process's shard of every job's images; see `generate_folder`."""
    torch.set_num_threads(threads)
    for model, own in groupby(jobs, key=lambda job: job.model):
        policy, weights, negative = model.open()
        for job in own:
            generate_folder(
                policy,
                job.prompts,
                job.out,
                job.settings,
                weights=weights,
                negative=negative,
                description=model.description,
                shard=shard,
                progress=progress,
            )
