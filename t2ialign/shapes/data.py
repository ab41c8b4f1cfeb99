"""Pictures with captions, as the base model was pre-trained on: training combinations only, some captions careless."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from t2ialign.shapes.caption import Split, corrupt, describe
from t2ialign.shapes.families import FAMILIES
from t2ialign.shapes.render import render
from t2ialign.shapes.scene import Scene, sample_scene

CAPTION_NOISE = 0.3
"""Share of the pre-training captions that went through `caption.corrupt`."""
FAMILY_WEIGHTS = {
    "vertical": 5.0,
    "horizontal": 4.0,
    "comparison": 4.0,
    "sized pair": 3.0,
    "triple": 3.0,
    "groups": 2.0,
    "none of": 2.0,
    "single": 0.5,
    "sized": 0.5,
}
"""How often a family is tried first, relative to the others' 1; relations are the hardest words to learn."""
FOCUS_WEIGHTS = {
    **FAMILY_WEIGHTS,
    "vertical": 9.0,
    "horizontal": 9.0,
    "comparison": 6.0,
    "same color": 5.0,
    "background": 0.5,
    "negation": 0.5,
}
"""The same for the second part of the pre-training, when everything but relations has been learnt."""


class Example(NamedTuple):
    """A picture, what stands beside it, and what is true of it; the two captions differ where noise struck."""

    image: Image.Image
    caption: str
    true_caption: str
    scene: Scene


def sample_caption(
    scene: Scene, rng: np.random.Generator, split: Split = "train", weights: Mapping[str, float] = FAMILY_WEIGHTS
) -> str | None:
    """A true caption of the scene, of a family drawn by the weights; None where none is of the split."""
    names = list(FAMILIES)
    arrivals = rng.exponential(size=len(names)) / [weights.get(name, 1.0) for name in names]
    for i in np.argsort(arrivals):
        caption = describe(scene, names[i], rng, split)
        if caption is not None:
            return caption
    return None


def examples(n: int, seed: int, split: Split = "train", noise: float = CAPTION_NOISE) -> Iterator[Example]:
    """n random pictures with captions; the same seed gives the same ones.

    Args:
        n: how many.
        seed: of everything random.
        split: which combinations of facts the true captions state.
        noise: share of corrupted captions, in [0, 1].

    Raises:
        ValueError: noise is outside [0, 1].
    """
    if not 0.0 <= noise <= 1.0:
        raise ValueError(f"noise is a share of the captions, in [0, 1], not {noise}")
    rng = np.random.default_rng(seed)
    while n > 0:
        scene = sample_scene(rng)
        caption = sample_caption(scene, rng, split)
        if caption is None:
            continue
        n -= 1
        shown = corrupt(caption, rng, split) if rng.random() < noise else caption
        yield Example(render(scene, rng), shown, caption, scene)


def write_dataset(folder: Path, n: int, seed: int, split: Split = "train", noise: float = CAPTION_NOISE) -> Path:
    """Renders n examples to `folder`: 000000.png … and captions.jsonl (file_name, caption, true_caption).

    Raises:
        FileExistsError: the folder already has captions.jsonl.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "captions.jsonl").open("x", encoding="utf-8") as lines:
        for i, example in enumerate(examples(n, seed, split, noise)):
            name = f"{i:06d}.png"
            example.image.save(folder / name)
            row = {"file_name": name, "caption": example.caption, "true_caption": example.true_caption}
            lines.write(json.dumps(row) + "\n")
    return folder
