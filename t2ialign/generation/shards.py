"""Folders of images, made by one process or shared with a second."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from t2ialign.config.generation import GenerationConfig
from t2ialign.generation.folder import generate_folder
from t2ialign.generation.worker import WorkerProcess
from t2ialign.models import open_model
from t2ialign.progress import plain_console


@dataclass(frozen=True)
class ImageJob:
    """A folder of images to make; picklable, so that a second process can share it."""

    model: Path
    lora: Path | None
    prompts: list[str]
    out: Path
    settings: GenerationConfig


def make_images(jobs: Sequence[ImageJob], second: WorkerProcess | None, threads: int) -> None:
    """Makes what is missing of the jobs' images, in two processes where there are two.

    Args:
        jobs: those of one model and LoRA one after the other, so that it is loaded once.
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
    loaded: tuple[Path, Path | None] | None = None
    policy, mixture = None, {}
    for job in jobs:
        loras = {} if job.lora is None else {str(job.lora): 1.0}
        if policy is None or loaded != (job.model, job.lora):
            policy, mixture = open_model(str(job.model), loras=loras)
            loaded = (job.model, job.lora)
        generate_folder(
            policy,
            job.prompts,
            job.out,
            job.settings,
            weights=mixture,
            description={"model": str(job.model), "loras": loras},
            shard=shard,
            progress=progress,
        )
