"""Images from prompts and seeds, and the folder that the evaluation reads."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from t2ialign.backbones.base import tensor_digest
from t2ialign.draws import keyed_seed
from t2ialign.errors import InputError
from t2ialign.files import whole_file
from t2ialign.policy import Policy
from t2ialign.rollout import Guidance, Sampler
from t2ialign.types import Conditioning

RECORD = "generation.json"
"""Every folder's record of its settings, and of the prompt and seed of each image."""
UNCOMPARED = "versions"
"""Key of the record that may differ when a folder is gone on with."""
SeedPolicy = Literal["keyed", "official", "per_prompt"]
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


def image_seed(seed: int, index: int, k: int, policy: SeedPolicy = "keyed") -> int:
    """The seed of image k of prompt `index` in a folder made with `seed`.

    Args:
        policy: keyed gives each image 32 bits of its own; official is seed + k, so that all prompts start from the same
            noise, as UniGenBench's script has it; per_prompt is seed + 10000 k + index.
    """
    if policy == "official":
        return seed + k
    if policy == "per_prompt":
        return seed + 10_000 * k + index
    return keyed_seed(seed, "image", index, k) % 2**32


def initial_latents(policy: Policy, seeds: Sequence[int], resolution: int) -> Tensor:
    """Standard normal latents, each from its own seed as a diffusers pipeline with that CPU generator draws them.

    [B, C, H, W] float32
    """
    side = resolution // policy.backbone.vae_factor
    shape = (policy.backbone.latent_channels, side, side)
    rows = [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(rows).to(policy.device)


def to_images(pixels: Tensor) -> list[Image.Image]:
    """8-bit images of [B, 3, H, W] in [0, 1]."""
    rows = (pixels * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(row) for row in rows]


def generate_images(
    policy: Policy,
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    guidance: Guidance,
    steps: int,
    resolution: int | None = None,
    batch: int,
) -> Iterator[Image.Image]:
    """One image a (prompt, seed), in order; which others share its batch changes it by rounding only.

    Args:
        guidance: the scale, and the weights that answer.
        steps: DDIM steps.
        resolution: side in px, the backbone's own if not said.
        batch: images made at once.

    Raises:
        InputError: the resolution does not fit the VAE, or the model cannot make that many steps.
        ValueError: prompts and seeds differ in number.
    """
    if len(prompts) != len(seeds):
        raise ValueError(f"{len(prompts)} prompts but {len(seeds)} seeds")
    backbone = policy.backbone
    side = resolution or backbone.resolution
    if side % backbone.vae_factor:
        raise InputError(f"resolution {side} is not a multiple of {backbone.vae_factor}, the VAE's cell")
    try:
        sampler = Sampler(backbone.schedule, backbone.sampling, steps)
    except ValueError as error:
        raise InputError(f"inference steps: {error}") from error
    size = backbone.geometry((side, side), (0, 0), (side, side))
    known: dict[str, Conditioning] = {}
    for start in range(0, len(prompts), batch):
        wanted = prompts[start : start + batch]
        known = _conditionings(policy, wanted, known)
        latents = initial_latents(policy, seeds[start : start + batch], side)
        cond = Conditioning.cat([known[prompt] for prompt in wanted])
        geometry = None if size is None else size.to(policy.device).expand(len(wanted), -1)
        yield from to_images(
            backbone.decode_latents(sampler.sample(policy, latents, cond, backbone.null(), geometry, guidance))
        )


def _conditionings(policy: Policy, wanted: Sequence[str], known: Mapping[str, Conditioning]) -> dict[str, Conditioning]:
    """The conditioning of each wanted prompt, encoding only what is not known; [1, ...] each."""
    new = [prompt for prompt in dict.fromkeys(wanted) if prompt not in known]
    found = {prompt: known[prompt] for prompt in wanted if prompt in known}
    if new:
        encoded = policy.backbone.encode_prompts(new)
        found |= {prompt: encoded.map(lambda rows, row=row: rows[row : row + 1]) for row, prompt in enumerate(new)}
    return found


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
    with _alone(out):
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
            with whole_file(out / job.file) as partial:
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


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Holds the folder against other processes that open it at the same moment; waits for its turn."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _open_folder(out: Path, settings: Mapping[str, Any], jobs: Sequence[Job]) -> None:
    """Writes the folder's record, or checks that the one there says the same."""
    record = {**settings, "images": [{**job._asdict(), "file": job.file} for job in jobs]}
    path = out / RECORD
    if not path.is_file():
        stranger = next(out.glob("*.png"), None)
        if stranger is not None:
            raise InputError(f"{out}: holds images ({stranger.name}) but no {RECORD}; give an empty folder")
        with whole_file(path) as partial:
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
