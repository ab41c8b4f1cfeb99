"""Scene -> caption, caption -> constraints, negative and noisy captions, and the held-out split of prompts."""

import hashlib
import re
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np

from t2ialign.shapes.constraint import Constraint
from t2ialign.shapes.families import FAMILIES, NUMBERS, WORDS, Family, Slots
from t2ialign.shapes.scene import COLORS, MAX_THINGS, SHAPES, SIZES, Scene, sample_scene

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
Perturbation = Literal["color", "shape", "size", "count", "relation", "background", "swap"]
PERTURBATIONS: tuple[Perturbation, ...] = ("color", "shape", "size", "count", "relation", "background", "swap")

_SLOT = re.compile(r"\{(\w)(\d?)\}")
_SALT = "shapes"
_LETTERS = {"color": "c", "shape": "sp", "size": "z", "count": "n", "relation": "hvk", "background": "g"}


class Parsed(NamedTuple):
    """A caption taken apart: its family, its wording, and what fills the wording's slots."""

    family: str
    wording: str
    slots: Slots


def captions(scene: Scene, rng: np.random.Generator) -> dict[str, str]:
    """One caption of each family that can describe the scene, by family."""
    found = {name: describe(scene, name, rng) for name in FAMILIES}
    return {name: text for name, text in found.items() if text is not None}


def describe(scene: Scene, family: str, rng: np.random.Generator, split: Split | None = None) -> str | None:
    """A caption of the family that is true of the scene, in a random wording.

    Args:
        scene: what to describe.
        family: one of FAMILIES.
        rng: chooses what is said and how.
        split: only combinations of facts of this split; None allows all.

    Returns:
        None where the family cannot describe the scene, or says something of another split.
    """
    chosen = FAMILIES[family]
    slots = chosen.fill(scene, rng) if len(scene.things) in chosen.things else None
    wordings = [wording for wording in chosen.wordings if slots and _names(wording) <= slots.keys()]
    if not slots or not wordings:
        return None
    wording = wordings[rng.integers(len(wordings))]
    said = {name: slots[name] for name in _names(wording)}
    if split is not None and _split(_combination(chosen.state(said))) != split:
        return None
    return write(wording, said)


def write(wording: str, slots: Slots) -> str:
    """The wording with its slots filled."""
    return wording.format(**slots).replace("a orange", "an orange")


def parse(caption: str) -> Parsed:
    """Family, wording and slots of a caption.

    Raises:
        ValueError: no wording of any family has this text.
    """
    text = re.sub(r"\ban\b", "a", " ".join(caption.lower().split()).rstrip("."))
    for family, wording, pattern in _patterns():
        if match := pattern.fullmatch(text):
            return Parsed(family, wording, match.groupdict())
    raise ValueError(
        f"{caption!r} is not a caption of Shapes; see docs/shapes.md for the wordings. Colors: {', '.join(COLORS)}; "
        f"shapes: {', '.join(SHAPES)}; sizes: {', '.join(SIZES)}; numbers: a, {', '.join(NUMBERS)}"
    )


@lru_cache(maxsize=1 << 16)
def constraints(caption: str) -> tuple[Constraint, ...]:
    """What the caption states, in the order of reading.

    Raises:
        ValueError: the text is not a caption of Shapes.
    """
    parsed = parse(caption)
    return FAMILIES[parsed.family].state(parsed.slots)


def family_of(caption: str) -> str:
    """The name of the caption's family.

    Raises:
        ValueError: the text is not a caption of Shapes.
    """
    return parse(caption).family


@lru_cache(maxsize=1)
def _patterns() -> tuple[tuple[str, str, re.Pattern[str]], ...]:
    def pattern(wording: str) -> re.Pattern[str]:
        return re.compile(_SLOT.sub(lambda slot: f"(?P<{slot[1]}{slot[2]}>{'|'.join(WORDS[slot[1]])})", wording))

    return tuple((name, wording, pattern(wording)) for name, family in FAMILIES.items() for wording in family.wordings)


@lru_cache(maxsize=256)
def _names(wording: str) -> frozenset[str]:
    return frozenset({letter + digit for letter, digit in _SLOT.findall(wording)})


def perturb(caption: str, kind: Perturbation, rng: np.random.Generator) -> str:
    """The caption in the same wording with one fact changed, so that it contradicts what it described.

    Args:
        caption: any caption of Shapes.
        kind: color, shape, size, count, background: another value; relation: the opposite one (also of a comparison);
            swap: two things exchange their colors.
        rng: chooses which word changes, and to what.

    Raises:
        ValueError: the text is not a caption of Shapes, or it states nothing of this kind.
    """
    if kind not in PERTURBATIONS:
        raise ValueError(f"unknown kind of perturbation {kind!r}; the kinds are {', '.join(PERTURBATIONS)}")
    parsed = parse(caption)
    changes = _changes(parsed, kind)
    if not changes:
        raise ValueError(f"{caption!r} has nothing to change of kind {kind!r}; it allows {perturbations(caption)}")
    return write(parsed.wording, parsed.slots | changes[rng.integers(len(changes))])


def perturbations(caption: str) -> tuple[Perturbation, ...]:
    """The kinds of `perturb` that the caption allows."""
    parsed = parse(caption)
    return tuple(kind for kind in PERTURBATIONS if _changes(parsed, kind))


def _changes(parsed: Parsed, kind: Perturbation) -> list[Slots]:
    """Every way to change one fact: the slots that differ. What is absent stays, as another absence may be true too."""
    slots = parsed.slots
    if kind == "swap":
        both = {"c1", "c2", "s1", "s2"} <= slots.keys() and slots["c1"] != slots["c2"] and slots["s1"] != slots["s2"]
        return [{"c1": slots["c2"], "c2": slots["c1"]}] if both else []
    changes = [
        {name: word}
        for name, value in slots.items()
        if name[0] in _LETTERS[kind] and not (parsed.family in ("negation", "none of") and name[1:] == "2")
        for word in WORDS[name[0]]
        if word != value and word not in [slots[other] for other in slots if other[0] == name[0] != "n"]
    ]
    if parsed.family == "sized pair":
        changes = changes or [
            {name: SIZES[1 - SIZES.index(slots[name])]} for name in slots if name[0] in _LETTERS[kind] == "z"
        ]
    if parsed.family == "groups" and kind == "count":
        changes = [
            change for change in changes
            if sum(NUMBERS[(slots | change)[n]] if n in slots else 1 for n in ("n", "n2")) <= MAX_THINGS
        ]  # fmt: skip
    return changes


def corrupt(caption: str, rng: np.random.Generator, split: Split | None = None) -> str:
    """The caption as careless alt-text: a fact wrong, turned around or left out.

    Half of the time one fact is wrong (`perturb`), else a color or size is dropped, or a relation becomes "and"; the
    result may be no caption of Shapes (for example "a circle").

    Args:
        caption: any caption of Shapes.
        rng: chooses what becomes of it.
        split: only results whose combination of facts is of this split; the caption itself where 20 draws find none.

    Raises:
        ValueError: the text is not a caption of Shapes.
    """
    for _ in range(20):
        careless = _corrupt(caption, rng)
        if split is None or _within(careless, split):
            return careless
    return caption


def _within(text: str, split: Split) -> bool:
    """True where the text is no caption of another split."""
    try:
        return split_of(text) == split
    except ValueError:  # the documented answer to a text from outside Shapes, such as "a circle"
        return True


def _corrupt(caption: str, rng: np.random.Generator) -> str:
    parsed = parse(caption)
    kinds = perturbations(caption)
    if kinds and rng.random() < 0.5:
        return perturb(caption, kinds[rng.integers(len(kinds))], rng)
    link = next((slots for slots in ("h", "v", "k") if slots in parsed.slots), None)
    if link and rng.random() < 0.5:
        return write("a {c1} {s1} and a {c2} {s2}", parsed.slots)
    dropped = [name for name in parsed.slots if name[0] in "czg"]
    if not dropped:
        return perturb(caption, kinds[rng.integers(len(kinds))], rng) if kinds else caption
    name = dropped[rng.integers(len(dropped))]
    return " ".join(write(parsed.wording, parsed.slots | {name: ""}).split())


def combination(caption: str) -> str:
    """The facts of a caption, whatever their wording and order; the split is by this text.

    Raises:
        ValueError: the text is not a caption of Shapes.
    """
    return _combination(constraints(caption))


def _combination(stated: tuple[Constraint, ...]) -> str:
    return "; ".join(sorted(repr(constraint.canonical()) for constraint in stated))


def split_of(prompt: str) -> Split:
    """The split that the prompt's combination of facts belongs to: 80 % train, 10 % validation, 10 % test.

    Raises:
        ValueError: the text is not a caption of Shapes.
    """
    return _split(combination(prompt))


@lru_cache(maxsize=1 << 16)
def _split(facts: str) -> Split:
    place = int.from_bytes(hashlib.sha256(f"{_SALT}: {facts}".encode()).digest()[:8], "big") % 100
    return "train" if place < 80 else "validation" if place < 90 else "test"


def prompts(split: Split, n: int, seed: int, families: tuple[str, ...] = tuple(FAMILIES)) -> list[str]:
    """n different prompts of the split, the families in turn; a family that has no more leaves its turns to the rest.

    Args:
        split: which combinations of facts.
        n: how many.
        seed: the same seed gives the same prompts.
        families: which families take turns.

    Raises:
        ValueError: the split is unknown, or the families have fewer than n different prompts in it.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; the splits are {', '.join(SPLITS)}")
    rng = np.random.default_rng(seed)
    found: dict[str, None] = {}
    turns = list(families)
    while len(found) < n and turns:
        for name in list(turns):
            prompt = _another(FAMILIES[name], name, split, found, rng)
            if prompt is None:
                turns.remove(name)
            else:
                found[prompt] = None
    if len(found) < n:
        raise ValueError(f"split {split!r} gives {len(found)} different prompts of {', '.join(families)}, not {n}")
    return list(found)[:n]


def _another(family: Family, name: str, split: Split, found: dict[str, None], rng: np.random.Generator) -> str | None:
    for _ in range(500):
        prompt = describe(sample_scene(rng, int(rng.choice(family.things))), name, rng, split)
        if prompt is not None and prompt not in found:
            return prompt
    return None
