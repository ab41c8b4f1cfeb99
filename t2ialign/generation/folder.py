"""A folder of images with its record, which the evaluation reads."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from PIL.PngImagePlugin import PngInfo
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from t2ialign.errors import InputError
from t2ialign.generation.images import SeedPolicy, generate_images, image_seed
from t2ialign.policy import Policy
from t2ialign.sampling.guidance import Guidance
from t2ialign.storage.atomic import atomic_write
from t2ialign.storage.digest import tensor_digest
from t2ialign.storage.lock import lock_folder

RECORD = "generation.json"
"""Every folder's record of its settings, and of the prompt and seed of each image."""
UNCOMPARED = "versions"
"""Key of the record that may differ when a folder is gone on with."""
PNG_END = b"\0\0\0\0IEND\xaeB`\x82"


class Job(NamedTuple):
    """One image to make."""

    index: int
    """Number of the prompt."""
    k: int
    """Number of the image among those of its prompt, from 0."""
    prompt: str
    seed: int

    @property
    def file(self) -> str:
        return f"{self.index}_{self.k}.png"


def generate_folder(
    policy: Policy,
    prompts: Sequence[str],
    out: Path,
    *,
    images_per_prompt: int,
    seed: int,
    guidance: Guidance,
    steps: int,
    resolution: int | None,
    batch: int,
    description: Mapping[str, Any],
    indices: Sequence[int] | None = None,
    seed_policy: SeedPolicy = "keyed",
    shard: tuple[int, int] = (0, 1),
    progress: bool = True,
) -> list[Path]:
    """Writes `<index>_<k>.png` and `generation.json`, and returns the paths of all the folder's images.

    The same call on the same folder makes only what is missing or was cut, for example after a kill. Each image carries
    its numbers and its seed. Prompts that exceed the text encoder are warned of first, and recorded.

    Args:
        description: what the record says of the model: its name, its adapters.
        indices: numbers of the prompts, which name their images; 0, 1, … if not said.
        seed_policy: see `image_seed`.
        shard: (which, of how many) processes share the folder; each makes every n-th image of it.
        progress: show a bar with the remaining time.

    Raises:
        InputError: no prompts; the folder holds images made with other settings, or made by something else.
        ValueError: not one index for each prompt, or an index twice.
        TryAgainError: the disk is full.
    """
    if not prompts:
        raise InputError("no prompts to make images of; give at least one")
    numbers = range(len(prompts)) if indices is None else indices
    if len(set(numbers)) != len(prompts):
        raise ValueError(f"{len(prompts)} prompts but {len(set(numbers))} different indices")
    jobs = [
        Job(index, k, prompt, image_seed(seed, index, k, seed_policy))
        for index, prompt in zip(numbers, prompts, strict=True)
        for k in range(images_per_prompt)
    ]
    cut = set(policy.backbone.truncated(list(prompts)))
    settings = {
        **description,
        "guidance": {"scale": guidance.scale, "cond": guidance.cond, "uncond": guidance.uncond},
        "steps": steps,
        "resolution": resolution or policy.backbone.resolution,
        "images_per_prompt": images_per_prompt,
        "seed": seed,
        "seed_policy": seed_policy,
        "sampler": {"name": "ddim", **policy.backbone.sampling},
        "truncated_prompts": [index for index, prompt in zip(numbers, prompts, strict=True) if prompt in cut],
        "fingerprint": tensor_digest(policy.denoiser.state_dict().items(), policy.backbone.fingerprint),
        "versions": {name: version(name) for name in ("t2ialign", "torch", "diffusers", "transformers")},
    }
    with lock_folder(out):
        _open_folder(out, settings, jobs)
    which, of = shard
    mine = jobs[which::of]
    missing = [job for job in mine if not _is_whole(out / job.file)]
    images = generate_images(
        policy,
        [job.prompt for job in missing],
        [job.seed for job in missing],
        guidance=guidance,
        steps=steps,
        resolution=resolution,
        batch=batch,
    )
    with _bar(progress and bool(missing)) as bar:
        task = bar.add_task(f"images in {out}", total=len(mine), completed=len(mine) - len(missing))
        for job, image in zip(missing, images, strict=True):
            with atomic_write(out / job.file) as partial:
                image.save(partial, format="PNG", pnginfo=_marks(job))
            bar.advance(task)
    return [out / job.file for job in jobs]


def _marks(job: Job) -> PngInfo:
    """What an image says of itself."""
    marks = PngInfo()
    for key, value in (("prompt_index", job.index), ("image_index", job.k), ("seed", job.seed)):
        marks.add_text(key, str(value))
    return marks


def _is_whole(path: Path) -> bool:
    """Whether a PNG is there with its last chunk."""
    if not path.is_file() or path.stat().st_size < len(PNG_END):
        return False
    with path.open("rb") as file:
        file.seek(-len(PNG_END), os.SEEK_END)
        return file.read() == PNG_END


def _bar(visible: bool) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, TextColumn("remaining"), TimeRemainingColumn(), disable=not visible)


def _open_folder(out: Path, settings: Mapping[str, Any], jobs: Sequence[Job]) -> None:
    """Writes the folder's record, or checks that the one there says the same."""
    record = {**settings, "images": [{**job._asdict(), "file": job.file} for job in jobs]}
    path = out / RECORD
    if not path.is_file():
        stranger = next(out.glob("*.png"), None)
        if stranger is not None:
            raise InputError(f"{out}: holds images ({stranger.name}) but no {RECORD}; give an empty folder")
        with atomic_write(path) as partial:
            partial.write_text(json.dumps(record, indent=1, ensure_ascii=False), encoding="utf-8")
        return
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error}); remove the folder or give another") from error
    wanted = json.loads(json.dumps(record))
    differing = [key for key in {**wanted, **found} if wanted.get(key) != found.get(key) and key != UNCOMPARED]
    if differing:
        raise InputError(f"{out}: {_difference(differing[0], found, wanted)}; give another folder, or remove this one")


def _difference(key: str, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    if key == "images":
        return "its images were made for other prompts"
    if key == "fingerprint":
        return "its images were made with other weights"
    return f"its images were made with {key} {found.get(key)!r}, not {wanted.get(key)!r}"
