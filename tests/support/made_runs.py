"""Small prompt sets, images and run manifests for the tests of running."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from unigenbench.types import ImageFile, Judgement, Point, Prompt, PromptSet, Status, Usage

POINTS = (
    Point("attribute.color", "Attribute - Color", "the dog is red"),
    Point("attribute.quantity", "Attribute - Quantity", "three dogs"),
)


def prompt_set(count: int, folder: Path, name: str = "en") -> PromptSet:
    """Prompts of two test points each."""
    prompts = tuple(Prompt(k, f"three red dogs, scene {k}", "Art", "Other", "Animal", "", POINTS) for k in range(count))
    return PromptSet(name, "en", prompts, folder / f"{name}.csv", "d" * 64, "unknown")


def write_csv(path: Path, prompts: PromptSet) -> None:
    """The set as a prompt file of the official schema."""
    import csv
    import json

    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["index", "prompt_en", "sub_dims_en"])
        for prompt in prompts.prompts:
            fields = {
                "Primary Categories": "Art",
                "Secondary Categories": "Graphic Art",
                "Subjects": "Animal",
                "Sentence Structure": "Descriptive",
                "Testpoints": [point.label for point in prompt.points],
                "Testpoint Description": [point.description for point in prompt.points],
            }
            writer.writerow([prompt.index, prompt.text, json.dumps(fields)])


def write_images(folder: Path, prompts: int, per_prompt: int = 1, side: int = 48) -> list[ImageFile]:
    """Noise, another for each image; `<prompt>_<image>.png`."""
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for prompt in range(prompts):
        for image in range(per_prompt):
            path = folder / f"{prompt}_{image}.png"
            write_noise(path, seed=prompt * 100 + image, side=side)
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            found.append(ImageFile(prompt, image, path, digest, side, side, "PNG"))
    return found


def write_noise(path: Path, seed: int, side: int = 48) -> None:
    """An image that no other seed gives."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def manifest(**judge: Any) -> dict[str, Any]:
    """As much of run.json as a run store looks at."""
    return {
        "schema_version": 1,
        "run_id": "r",
        "created": "2026-11-21T00:00:00+00:00",
        "dataset": {"sha256": "d" * 64},
        "rubric": {"id": "native-v1"},
        "judge": {"id": "j", "spec": judge},
        "images": {"per_prompt": 1},
    }


def judgement(key: str, status: Status = "ok", **fields: Any) -> Judgement:
    """One line."""
    _, prompt, image, _ = key.split("/")
    given = {"judge_id": "j", "image_sha256": "i" * 64, "prompt_sha256": "p" * 64, "usage": Usage(10, 1)} | fields
    verdicts = (1, 0) if status == "ok" else None
    return Judgement(
        key=key, prompt_index=int(prompt), image_index=int(image), status=status, verdicts=verdicts, **given
    )
