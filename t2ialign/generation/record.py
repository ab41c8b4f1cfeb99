"""What a folder of images says of itself, and whether it may be continued."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from t2ialign.config.generation import GenerationConfig
from t2ialign.errors import InputError
from t2ialign.generation.images import image_size
from t2ialign.policy import Policy
from t2ialign.storage.atomic import atomic_write
from t2ialign.storage.digest import tensor_digest
from t2ialign.types import Weights

RECORD = "generation.json"
"""Every folder's record of its settings, and of the prompt and seed of each image."""
SAMPLER_NAMES = {"ddim": "DDIM", "euler": "Euler", "dpm++": "DPM++ 2M"}
"""Scheduler -> its name in web UIs."""
UNCOMPARED = "versions"
"""Key of the record that may differ when a folder is continued."""


@dataclass(frozen=True)
class PlannedImage:
    """One image of a folder."""

    index: int
    """Number of the prompt."""
    k: int
    """Number of the image among those of its prompt, from 0."""
    prompt: str
    seed: int

    @property
    def file(self) -> str:
        return f"{self.index}_{self.k}.png"


def make_record(
    policy: Policy,
    settings: GenerationConfig,
    images: Sequence[PlannedImage],
    *,
    weights: Weights,
    negative: Weights,
    description: Mapping[str, Any],
) -> dict[str, Any]:
    """Everything that decides the images, in effective values, and the list of them."""
    sampler: dict[str, Any] = {"name": settings.scheduler, **policy.backbone.sampling}
    if settings.eta:
        sampler["eta"] = settings.eta
    guidance: dict[str, Any] = {"scale": settings.guidance_scale, "cond": weights, "uncond": negative}
    if settings.negative_prompt is not None:
        guidance["negative_prompt"] = settings.negative_prompt
    height, width = image_size(policy, settings)
    prompts = {image.index: image.prompt for image in images}
    truncated = set(policy.backbone.truncated(list(prompts.values())))
    networks = dict.fromkeys((policy.network(weights), policy.network(negative)))
    tensors = (tensor for network in networks for tensor in network.state_dict().items())
    return {
        **description,
        "guidance": guidance,
        "steps": settings.inference_steps,
        "resolution": width if width == height else [width, height],
        "images_per_prompt": settings.images_per_prompt,
        "seed": settings.seed,
        "seed_policy": settings.seed_policy,
        "sampler": sampler,
        "truncated_prompts": [index for index, prompt in prompts.items() if prompt in truncated],
        "fingerprint": tensor_digest(tensors, policy.backbone.fingerprint),
        UNCOMPARED: {name: version(name) for name in ("t2ialign", "torch", "diffusers", "transformers")},
        "images": [{**asdict(image), "file": image.file} for image in images],
    }


def image_texts(image: PlannedImage, record: Mapping[str, Any]) -> dict[str, str]:
    """What a PNG says of itself: its numbers, its seed, and `parameters`, the line that web UIs and galleries read.

    Args:
        record: of the folder.
    """
    guidance = record["guidance"]
    negative = guidance.get("negative_prompt")
    size = record["resolution"]
    width, height = (size, size) if isinstance(size, int) else size
    facts = {
        "Steps": record["steps"],
        "Sampler": SAMPLER_NAMES[record["sampler"]["name"]],
        "CFG scale": guidance["scale"],
        "Seed": image.seed,
        "Size": f"{width}x{height}",
        "Model": record.get("model"),
        "Version": f"t2ialign {record[UNCOMPARED]['t2ialign']}",
    }
    settings = ", ".join(f"{name}: {value}" for name, value in facts.items() if value is not None)
    lines = [image.prompt, *([] if negative is None else [f"Negative prompt: {negative}"]), settings]
    numbers = {"prompt_index": image.index, "image_index": image.k, "seed": image.seed}
    return {**{name: str(value) for name, value in numbers.items()}, "parameters": "\n".join(lines)}


def write_or_compare(out: Path, record: Mapping[str, Any]) -> None:
    """Writes a new folder's record, or checks that the one there says the same.

    Raises:
        InputError: the folder was made with other settings, or by something else.
    """
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
    if not isinstance(found, dict):
        raise InputError(f"{path}: not a record of images; remove the folder or give another")
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
