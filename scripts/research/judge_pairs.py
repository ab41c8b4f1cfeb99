"""Pairs of pictures for shapes-judge: what it is asked about two, and the reply that the verifier would give."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
from judge_examples import ROOT, Example, again, caption_of, evidence, verdicts, wanted
from PIL import Image

from t2ialign.rewards.vlm.formats import PAIR_FORMATS
from t2ialign.shapes.caption import constraints
from t2ialign.shapes.render import render_array
from t2ialign.shapes.scene import BACKGROUNDS, COLORS, SHAPES, Scene, Thing, sample_scene
from t2ialign.shapes.verify import read

FORMAT = PAIR_FORMATS["plain"]
"""Of the forms that a reply may have, the one that knows ties."""
MOST_CHECKS = 6
SHOWS = ("; Image 1 shows", "; Image 2 shows")
BETTER = {1.0: "\nImage 1 is better", 0.0: "\nImage 2 is better", 0.5: "\nBoth images are equally good"}
MARKS = {"yes": "true", "no": "false"}
"""Words of the second image for those of the first."""
COUNTS = [form.format(n) for form in ("\nRight: {}", " and {}") for n in range(MOST_CHECKS + 1)]
UNRELATED = 0.5
"""Share of the pairs whose pictures have nothing in common: from them is learnt which of the two is spoken of."""
EQUAL_KEPT = 0.3
"""Share of the equal pairs that are trained on; most pictures of one caption are equally right."""


class Pair(NamedTuple):
    """Two pictures and the caption that they are compared by."""

    first: Example
    second: Example

    @property
    def caption(self) -> str:
        return self.first.caption

    @property
    def turned(self) -> Pair:
        return Pair(self.second, self.first)

    @property
    def right(self) -> tuple[int, int]:
        """How many constraints hold in each."""
        return sum(verdicts(self.caption, self.first.seen)), sum(verdicts(self.caption, self.second.seen))

    @property
    def preferred(self) -> float:
        """1 for the first, 0 for the second, 0.5 for neither."""
        first, second = self.right
        return 0.5 * ((first > second) - (first < second)) + 0.5


def pair_texts() -> list[str]:
    """The sentences of question and reply that are one token each."""
    texts = [
        FORMAT.question.split("CAPTION")[0],
        *SHOWS,
        *(f" {mark}" for mark in MARKS.values()),
        *BETTER.values(),
        "1 wants",
    ]
    return texts + [f"\n{k} wants" for k in range(2, MOST_CHECKS + 1)] + COUNTS


def pair_answer(pair: Pair) -> str:
    """The reply that the judge learns to give: each check on both pictures, how many are right, and the verdict."""
    lines = []
    for k, stated in enumerate(constraints(pair.caption)):
        line = f"{k + 1} wants {wanted(stated)}"
        for shows, example in zip(SHOWS, pair, strict=True):
            digit = verdicts(pair.caption, example.seen)[k]
            said = f" {evidence(stated, example.seen)}:{again(stated)} {'yes' if digit else 'no'}"
            line += shows + (said if shows == SHOWS[0] else _of_second(said))
        lines.append(line)
    first, second = pair.right
    return "\n".join(lines) + f"\nRight: {first} and {second}{BETTER[pair.preferred]}"


def _of_second(said: str) -> str:
    """The same in the words of the second image, so that what followed a word in the first is not repeated."""
    return re.sub(r"\b(yes|no)\b", lambda word: MARKS[word[1]], said)


class Pictures:
    """Pictures that assets/shapes-sd drew, several for a caption, with what the verifier reads in them."""

    def __init__(self, captions: Sequence[str], pixels: np.ndarray):
        """
        Args:
            captions: one for each picture.
            pixels: uint8 [N, 64, 64, 3]
        """
        self.pixels, self.captions = pixels, list(captions)
        self.seen = [read(Image.fromarray(picture)) for picture in pixels]
        together: dict[str, list[int]] = {}
        for at, caption in enumerate(captions):
            together.setdefault(caption, []).append(at)
        self.groups = [group for group in together.values() if len(group) > 1]

    def sample(self, rng: np.random.Generator) -> Example:
        """One picture with its own caption, one that is true of it, or one nearly so."""
        at = int(rng.integers(len(self.captions)))
        return self.example(at, self.captions[at] if rng.random() < 0.35 else caption_of(self.seen[at], rng))

    def sample_pair(self, rng: np.random.Generator) -> Pair:
        """Two pictures of one caption, or of any two, now and then compared by a caption of the first."""
        group = self.groups[rng.integers(len(self.groups))]
        first, second = (int(at) for at in rng.choice(group, 2, replace=False))
        if rng.random() < UNRELATED:
            second = int(rng.integers(len(self.captions)))
        caption = self.captions[first] if rng.random() < 0.7 else caption_of(self.seen[first], rng)
        pair = Pair(self.example(first, caption), self.example(second, caption))
        return pair if rng.random() < 0.5 else pair.turned

    def example(self, at: int, caption: str) -> Example:
        return Example(self.pixels[at], self.seen[at], caption)


def shipped_pictures(built: Path | None = None) -> Pictures:
    """The pictures of the demo's pairs, two for a training prompt, and those of a folder of `t2ialign data build`."""
    rows = pq.read_table(ROOT / "assets/pairs/shapes-sd/pairs.parquet").to_pylist()
    found = [(row["prompt"], io.BytesIO(row[side])) for row in rows for side in ("chosen", "rejected")]
    if built is not None:
        made = json.loads((built / "generation.json").read_text(encoding="utf-8"))["images"]
        found += [(entry["prompt"], built / entry["file"]) for entry in made if (built / entry["file"]).exists()]
    pixels = [np.asarray(Image.open(file).convert("RGB")) for _, file in found]
    return Pictures([caption for caption, _ in found], np.stack(pixels))


def rendered_pair(rng: np.random.Generator) -> Pair:
    """A rendered scene beside one that differs in one fact, or in all, and a caption of either, true or nearly so."""
    scene = sample_scene(rng)
    other = sample_scene(rng) if rng.random() < UNRELATED else changed(scene, rng)
    caption = caption_of(scene, rng)
    first, second = (Example(blurred(render_array(one, rng), rng), one, caption) for one in (scene, other))
    return Pair(first, second) if rng.random() < 0.5 else Pair(second, first)


def blurred(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The picture with a little noise, as the diffusion model's have it. uint8 [64, 64, 3]"""
    noisy = pixels.astype(np.float32) + rng.normal(0, rng.uniform(0, 6), pixels.shape)
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


def changed(scene: Scene, rng: np.random.Generator) -> Scene:
    """The scene with one fact changed: a thing's color, shape or size, a thing less, another background or places."""
    at = int(rng.integers(len(scene.things)))
    thing = scene.things[at]
    match int(rng.integers(7)):
        case 0 | 1:
            thing = replace(thing, color=_another(list(COLORS), thing.color, rng))
        case 2:
            thing = replace(thing, shape=_another(list(SHAPES), thing.shape, rng))
        case 3:
            thing = replace(thing, size="small")
        case 4 if len(scene.things) > 1:
            return replace(scene, things=scene.things[:at] + scene.things[at + 1 :])
        case 5:
            return replace(scene, background=_another(list(BACKGROUNDS), scene.background, rng))
        case _:
            return replace(scene, things=tuple(_mirrored(one) for one in scene.things))
    return replace(scene, things=(*scene.things[:at], thing, *scene.things[at + 1 :]))


def _mirrored(thing: Thing) -> Thing:
    return replace(thing, x=64 - thing.x, y=64 - thing.y)


def _another(words: list[str], word: str, rng: np.random.Generator) -> str:
    return str(rng.choice([one for one in words if one != word]))


def sample_pair(pictures: Pictures, drawn: float, rng: np.random.Generator) -> Pair:
    """A pair to learn from, `drawn` of them the diffusion model's; few are equal."""
    while True:
        pair = pictures.sample_pair(rng) if rng.random() < drawn else rendered_pair(rng)
        if pair.preferred != 0.5 or rng.random() < EQUAL_KEPT:
            return pair
