"""What shapes-judge learns from: pictures, captions, and the answers that the verifier would give."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageFilter

from t2ialign.shapes.caption import constraints, describe, perturb, perturbations, prompts
from t2ialign.shapes.constraint import Constraint, Spec, holds
from t2ialign.shapes.families import FAMILIES
from t2ialign.shapes.judge import points_of
from t2ialign.shapes.render import render_array
from t2ialign.shapes.scene import CANVAS, COLORS, SHAPES, SIZES, Scene, Thing, sample_scene
from t2ialign.shapes.verify import Unreadable, read
from unigenbench.types import Prompt

ROOT = Path(__file__).parents[2]
BEGIN, NEXT, SEES, LAST = '<analysis>["{k} wants', '","{k} wants', "; sees", '"]</analysis>\n<score>['


def log(line: str) -> None:
    print(time.strftime("%H:%M:%S", time.gmtime()), line, flush=True)


class Example(NamedTuple):
    """A picture, what the verifier reads in it, and the caption that it is judged by."""

    pixels: np.ndarray
    seen: Scene | Unreadable
    caption: str


def prompt_of(caption: str) -> Prompt:
    """The caption with the verifier's constraints as its test points."""
    return Prompt(0, caption, "", "", "", "", points_of(caption))


def verdicts(caption: str, seen: Scene | Unreadable) -> list[int]:
    """The verifier's answers, 0 or 1."""
    return [int(isinstance(seen, Scene) and holds(stated, seen)) for stated in constraints(caption)]


def answer(caption: str, seen: Scene | Unreadable) -> str:
    """The reply that the judge learns to give: what each check wants, what is seen of it, whether that is right."""
    digits = verdicts(caption, seen)
    text = ""
    for k, (stated, digit) in enumerate(zip(constraints(caption), digits, strict=True), 1):
        text += (NEXT if text else BEGIN).replace("{k}", str(k))
        text += f" {wanted(stated)}{SEES} {evidence(stated, seen)}:{again(stated)} {'yes' if digit else 'no'}"
    return f"{text}{LAST}{','.join(map(str, digits))}]</score>"


def again(stated: Constraint) -> str:
    """What was wanted, once more: repeating what followed a word is learnt long before comparing two words is."""
    if stated.kind == "background":
        return f" {stated.value}"
    if stated.kind not in ("every", "exists", "absent"):
        return ""
    words = (stated.subject.size, stated.subject.color, stated.subject.shape)
    return "".join(f" {word}" for word in words if word)


def wanted(stated: Constraint) -> str:
    """What a constraint asks for, in few words."""
    match stated.kind:
        case "total":
            return f"{stated.value} things"
        case "background":
            return f"{stated.value} background"
        case "count":
            return f"{stated.value} {stated.subject}"
        case "absent":
            return f"no {stated.subject}"
        case "same color":
            return "same color"
        case "relation" | "comparison":
            return f"{stated.subject} {stated.value} {stated.target}"
    return str(stated.subject)


def evidence(stated: Constraint, seen: Scene | Unreadable) -> str:
    """What of a scene decides a constraint, in a fixed order so that there is one right answer."""
    if isinstance(seen, Unreadable) or not seen.things:
        return "nothing clear"
    match stated.kind:
        case "total":
            return f"{len(seen.things)} things"
        case "background":
            return f"{seen.background} yes"
        case "count":
            matching = sum(stated.subject.matches(thing) for thing in seen.things)
            return f"{matching} {Spec(stated.subject.color, stated.subject.shape)}"
        case "relation":
            along = (lambda thing: thing.x) if "of" in str(stated.value) else (lambda thing: thing.y)
            return ", ".join(f"{thing.color} {thing.shape}" for thing in sorted(seen.things, key=along))
        case "comparison":
            return _listed(seen, lambda thing: f"{thing.size} {thing.color} {thing.shape}")
        case "same color":
            return _listed(seen, lambda thing: thing.color)
    subject = stated.subject
    listed = _listed(
        seen,
        lambda thing: " ".join(
            word
            for word, asked in ((thing.size, subject.size), (thing.color, subject.color), (thing.shape, subject.shape))
            if asked
        ),
    )
    several = stated.kind == "every" and "," in listed  # one kind among others is not what every thing is
    mark = "no" if several or stated.kind == "absent" else "yes"
    return listed.replace(",", f" {mark},") + f" {mark}"


def _listed(seen: Scene, name: Callable[[Thing], str]) -> str:
    """The different names of the things, in the order of the palettes."""
    order = {word: place for place, word in enumerate((*COLORS, *SHAPES, *SIZES))}
    names = {name(thing) for thing in seen.things}
    return ", ".join(sorted(names, key=lambda text: [order[word] for word in reversed(text.split())]))


class Pool:
    """Pictures of the diffusion model with what the verifier reads in them."""

    def __init__(self, path: Path):
        stored = np.load(path)
        self.pixels, self.captions = stored["pixels"], [str(caption) for caption in stored["captions"]]
        self.seen = [read(Image.fromarray(pixels)) for pixels in self.pixels]

    def sample(self, rng: np.random.Generator) -> Example:
        at = int(rng.integers(len(self.captions)))
        pixels, seen = self.pixels[at], self.seen[at]
        return Example(pixels, seen, self.captions[at] if rng.random() < 0.35 else caption_of(seen, rng))


def sample_render(rng: np.random.Generator) -> Example:
    """A rendered scene, some of them blurred, noisy or spoilt; what is spoilt is read by the verifier."""
    scene = sample_scene(rng)
    pixels = render_array(scene, rng)
    spoilt = rng.random() < 0.12
    if spoilt:
        other = render_array(sample_scene(rng), rng)
        low, high = np.sort(rng.integers(0, CANVAS, 2))
        mix = float(rng.choice((0.0, 0.3, 0.5)))
        pixels = pixels.copy()
        pixels[:, low:high] = (mix * pixels[:, low:high] + (1 - mix) * other[:, low:high]).astype(np.uint8)
    image = Image.fromarray(pixels)
    if rng.random() < 0.5:
        image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.2, 0.7))))
    noisy = np.asarray(image, np.float32) + rng.normal(0, rng.uniform(0, 6), (CANVAS, CANVAS, 3))
    pixels = np.clip(np.rint(noisy), 0, 255).astype(np.uint8)
    seen = read(Image.fromarray(pixels)) if spoilt else scene
    return Example(pixels, seen, caption_of(seen, rng))


def caption_of(seen: Scene | Unreadable, rng: np.random.Generator) -> str:
    """A caption that is true of the scene, or nearly true, or of another scene."""
    kind = rng.random()
    its_own = isinstance(seen, Scene) and 1 <= len(seen.things) <= 4 and kind < 0.85
    scene = seen if isinstance(seen, Scene) and its_own else sample_scene(rng)
    names = list(FAMILIES)
    for at in rng.permutation(len(names)):
        if (caption := describe(scene, names[at], rng)) is not None:
            break
    else:
        return "a red circle"
    kinds = perturbations(caption)
    return perturb(caption, kinds[rng.integers(len(kinds))], rng) if kinds and 0.4 < kind < 0.85 else caption


def draw(captions: list[str], seed: int, guidance: float, steps: int = 16) -> np.ndarray:
    """What assets/shapes-sd makes of the captions. uint8 [N, 64, 64, 3]"""
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(
        ROOT / "assets/shapes-sd", safety_checker=None, torch_dtype=torch.float32
    )
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(
        captions, num_inference_steps=steps, guidance_scale=guidance, generator=torch.Generator().manual_seed(seed),
        output_type="np", height=CANVAS, width=CANVAS, return_dict=False,
    )[0]  # fmt: skip
    return np.rint(np.asarray(images) * 255).astype(np.uint8)


def draw_in_parts(
    folder: Path, captions: list[str], seed: int, guidances: Sequence[float], steps: int = 16, batch: int = 50
) -> np.ndarray:
    """As `draw`, in parts that survive a kill, each with the next of the guidances. uint8 [N, 64, 64, 3]"""
    folder.mkdir(parents=True, exist_ok=True)
    parts = []
    for start in range(0, len(captions), batch):
        part = folder / f"{start:06d}.npy"
        parts.append(part)
        if not part.exists():
            guidance = guidances[start // batch % len(guidances)]
            np.save(part, draw(captions[start : start + batch], seed + start, guidance, steps))
            log(f"images {start + batch}/{len(captions)}")
    return np.concatenate([np.load(part) for part in parts])


def make_images(out: Path, count: int, seed: int) -> None:
    """Draws `count` pictures for training prompts."""
    captions = prompts("train", count, seed)
    random.Random(seed).shuffle(captions)
    pixels = draw_in_parts(out.with_suffix(".parts"), captions, seed * 1_000_003, (2.0, 3.0, 5.0))
    np.savez(out, pixels=pixels, captions=np.array(captions))
