"""The 16 caption families: their wordings, what a scene lets them say, and what the words then state."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from t2ialign.shapes.constraint import (
    COLOR,
    COMPARISON,
    LAYOUT,
    MATCHING,
    NEGATION,
    QUANTITY,
    SHAPE,
    SIZE,
    Constraint,
    Kind,
    Spec,
)
from t2ialign.shapes.scene import BACKGROUNDS, COLORS, OPPOSITE, RELATION_MARGIN, SHAPES, SIZES, Scene, Thing, relates

NUMBERS = {"two": 2, "three": 3, "four": 4}
PLURALS = {shape: "crosses" if shape == "cross" else f"{shape}s" for shape in SHAPES}
_SINGULARS = {plural: shape for shape, plural in PLURALS.items()}

WORDS: dict[str, tuple[str, ...]] = {
    "c": tuple(COLORS),
    "s": SHAPES,
    "p": tuple(PLURALS.values()),
    "z": SIZES,
    "n": tuple(NUMBERS),
    "h": ("left of", "right of"),
    "v": ("above", "below"),
    "k": ("larger", "smaller"),
    "g": tuple(BACKGROUNDS),
}
"""What may fill a slot, by the first letter of the slot's name; a digit after it tells things apart."""

Slots = dict[str, str]


class Family(NamedTuple):
    """Wordings with slots, how many things a scene must have, what to fill in, and what the slots then state."""

    wordings: tuple[str, ...]
    things: tuple[int, ...]
    fill: Callable[[Scene, np.random.Generator], Slots | None]
    state: Callable[[Slots], tuple[Constraint, ...]]


# What a scene lets a family say: slots c, s, z, p (colour, shape, size, plural) of things 1 to 3, and the rest.


def _distinct(scene: Scene, rng: np.random.Generator) -> list[Thing] | None:
    """The things in random order; None where two of them look alike."""
    kinds = {(thing.color, thing.shape) for thing in scene.things}
    return [scene.things[i] for i in rng.permutation(len(kinds))] if len(kinds) == len(scene.things) else None


def _slots(things: list[Thing] | tuple[Thing, ...]) -> Slots:
    slots: Slots = {}
    for i, thing in enumerate(things, 1):
        slots |= {f"c{i}": thing.color, f"s{i}": thing.shape, f"z{i}": thing.size, f"p{i}": PLURALS[thing.shape]}
    return slots


def _fill_things(scene: Scene, rng: np.random.Generator) -> Slots | None:
    things = _distinct(scene, rng)
    return _slots(things) if things else None


def _fill_ordered(slot: str) -> Callable[[Scene, np.random.Generator], Slots | None]:
    def fill(scene: Scene, rng: np.random.Generator) -> Slots | None:
        things = _distinct(scene, rng)
        word = next((word for word in WORDS[slot] if things and _clearly(things[0], word, things[1])), None)
        return _slots(things) | {slot: word} if things and word else None

    return fill


def _clearly(first: Thing, word: str, second: Thing) -> bool:
    """Relations are stated only with room to spare, so that no reader could doubt them."""
    if word in OPPOSITE:
        distance = abs(first.x - second.x) if word in WORDS["h"] else abs(first.y - second.y)
        return distance >= 2 * RELATION_MARGIN and relates(first, word, second)
    return first.size != second.size and (first.size == "large") == (word == "larger")


def _fill_alike(scene: Scene, rng: np.random.Generator) -> Slots | None:
    """Slots of what all things share."""
    shared = {
        key: value
        for key, value in _slots(scene.things[:1]).items()
        if all(_slots((thing,))[key] == value for thing in scene.things)
    }
    return shared | {"n": _number(len(scene.things))} if shared else None


def _number(count: int) -> str:
    return {value: word for word, value in NUMBERS.items()}[count]


def _fill_negation(scene: Scene, rng: np.random.Generator) -> Slots | None:
    thing = scene.things[0]
    return {
        "c1": thing.color,
        "s1": thing.shape,
        "c2": str(rng.choice([color for color in COLORS if color != thing.color])),
        "s2": str(rng.choice([shape for shape in SHAPES if shape != thing.shape])),
    }


def _fill_none_of(scene: Scene, rng: np.random.Generator) -> Slots | None:
    color = str(rng.choice([color for color in COLORS if all(thing.color != color for thing in scene.things)]))
    shapes = [shape for shape in SHAPES if all(thing.shape != shape for thing in scene.things)]
    return {"n": _number(len(scene.things)), "c2": color, "p2": PLURALS[str(rng.choice(shapes))]}


def _fill_background(scene: Scene, rng: np.random.Generator) -> Slots | None:
    return _slots(scene.things) | {"g": scene.background}


def _fill_same_color(scene: Scene, rng: np.random.Generator) -> Slots | None:
    if len({thing.color for thing in scene.things}) > 1:
        return None
    shared = _fill_alike(scene, rng) or {}
    slots = {key: value for key, value in shared.items() if key in ("n", "p1") and "p1" in shared}
    if len(scene.things) == 2 and len({thing.shape for thing in scene.things}) == 2:
        slots = _fill_things(scene, rng) or {}
    return {key: value for key, value in slots.items() if key[0] != "c"} or None


def _fill_groups(scene: Scene, rng: np.random.Generator) -> Slots | None:
    kinds = [(thing.color, thing.shape) for thing in scene.things]
    groups = sorted(dict.fromkeys(kinds), key=kinds.count, reverse=True)  # a set's order differs between processes
    if len(groups) != 2 or len(kinds) < 3:
        return None
    slots = _slots([scene.things[kinds.index(group)] for group in groups])
    counts = [kinds.count(group) for group in groups]
    del slots["p2" if counts[1] == 1 else "s2"]
    return slots | {f"n{'' if i == 0 else i + 1}": _number(count) for i, count in enumerate(counts) if count > 1}


# What filled slots state.


def _spec(slots: Slots, i: int) -> Spec:
    shape = slots.get(f"s{i}") or _SINGULARS.get(slots.get(f"p{i}", ""))
    return Spec(slots.get(f"c{i}"), shape, slots.get(f"z{i}"))


def _total(count: int) -> Constraint:
    return Constraint("total", QUANTITY, value=count)


def _state_alike(slots: Slots) -> tuple[Constraint, ...]:
    spec = _spec(slots, 1)
    every = ((COLOR, Spec(color=spec.color)), (SHAPE, Spec(shape=spec.shape)), (SIZE, Spec(size=spec.size)))
    found = [_total(NUMBERS.get(slots.get("n", ""), 1))]
    found += [Constraint("every", criterion, subject) for criterion, subject in every if subject != Spec()]
    return (*found, Constraint("background", COLOR, value=slots["g"])) if "g" in slots else tuple(found)


def _state_things(slots: Slots) -> tuple[Constraint, ...]:
    specs = [_spec(slots, i) for i in (1, 2, 3) if f"s{i}" in slots]
    return (_total(len(specs)), *(Constraint("exists", MATCHING, spec) for spec in specs))


def _state_ordered(slots: Slots) -> tuple[Constraint, ...]:
    word = next(slots[slot] for slot in "hvk" if slot in slots)
    kind: Kind = "relation" if word in OPPOSITE else "comparison"
    criterion = LAYOUT if kind == "relation" else COMPARISON
    return (*_state_things(slots), Constraint(kind, criterion, _spec(slots, 1), _spec(slots, 2), word))


def _state_negation(slots: Slots) -> tuple[Constraint, ...]:
    count = NUMBERS.get(slots.get("n", ""), 1)
    stated = ((COLOR, Spec(color=slots.get("c1"))), (SHAPE, Spec(shape=slots.get("s1"))))
    every = [Constraint("every", criterion, spec) for criterion, spec in stated if spec != Spec()]
    return (_total(count), *every, Constraint("absent", NEGATION, _spec(slots, 2)))


def _state_same_color(slots: Slots) -> tuple[Constraint, ...]:
    same = Constraint("same color", COMPARISON)
    return (*(_state_alike(slots) if "n" in slots else _state_things(slots)), same)


def _state_groups(slots: Slots) -> tuple[Constraint, ...]:
    counts = (NUMBERS[slots["n"]], NUMBERS.get(slots.get("n2", ""), 1))
    groups = (Constraint("count", QUANTITY, _spec(slots, i), value=count) for i, count in enumerate(counts, 1))
    return (_total(sum(counts)), *groups)


_A, _B, _C = "a {c1} {s1}", "a {c2} {s2}", "a {c3} {s3}"
_SIZED_A, _SIZED_B = "a {z1} {c1} {s1}", "a {z2} {c2} {s2}"


def _plain(*phrases: str, plural: bool = False) -> tuple[str, ...]:
    """The phrases themselves, and the first one with two openings."""
    return (*phrases, f"a picture of {phrases[0]}", f"there {'are' if plural else 'is'} {phrases[0]}")


def _ordered(*links: str) -> tuple[str, ...]:
    return (*(f"{_A} {link} {_B}" for link in links), f"a picture of {_A} {links[0]} {_B}", f"{_A} is {links[0]} {_B}")


FAMILIES: dict[str, Family] = {
    "single": Family(
        _plain(_A, "one {c1} {s1}", "a single {c1} {s1}", "a {s1} in {c1}"), (1,), _fill_things, _state_alike
    ),
    "sized": Family(_plain(_SIZED_A, f"{_A} that is {{z1}}", "one {z1} {c1} {s1}"), (1,), _fill_things, _state_alike),
    "count": Family(
        _plain("{n} {c1} {p1}", "{n} {p1}, all {c1}", "a group of {n} {c1} {p1}", plural=True),
        (2, 3, 4), _fill_alike, _state_alike,
    ),
    "count shape": Family(
        _plain("{n} {z1} {p1}", "{n} {p1}", "{n} {p1}, all {z1}", plural=True), (2, 3, 4), _fill_alike, _state_alike
    ),
    "count color": Family(
        _plain("{n} {c1} shapes", "{n} {z1} {c1} shapes", "{n} shapes, all of them {c1}", plural=True),
        (2, 3, 4), _fill_alike, _state_alike,
    ),
    "pair": Family(
        _plain(f"{_A} and {_B}", f"{_A} with {_B}", "a {s1} in {c1} and a {s2} in {c2}"),
        (2,), _fill_things, _state_things,
    ),
    "sized pair": Family(
        _plain(f"{_SIZED_A} and {_SIZED_B}", f"{_SIZED_A} with {_SIZED_B}"), (2,), _fill_things, _state_things
    ),
    "triple": Family(
        _plain(f"{_A}, {_B} and {_C}", f"three shapes: {_A}, {_B} and {_C}"), (3,), _fill_things, _state_things
    ),
    "horizontal": Family(
        _ordered("to the {h}", "{h}", "placed to the {h}"), (2,), _fill_ordered("h"), _state_ordered
    ),
    "vertical": Family(_ordered("{v}", "placed {v}", "that is {v}"), (2,),
                       _fill_ordered("v"), _state_ordered),
    "comparison": Family(
        _ordered("{k} than", "that is {k} than"), (2,), _fill_ordered("k"), _state_ordered
    ),
    "negation": Family(
        _plain("a {s1} that is not {c2}", "a {s1}, but not a {c2} one", "a {c1} shape that is not a {s2}",
               "a {c1} shape, but not a {s2}"),
        (1,), _fill_negation, _state_negation,
    ),
    "none of": Family(
        _plain("{n} shapes, none of them {c2}", "{n} shapes, but no {p2}", "{n} shapes without any {p2}", plural=True),
        (2, 3, 4), _fill_none_of, _state_negation,
    ),
    "background": Family(
        _plain(f"{_A} on a {{g}} background", f"{_A}, {{g}} background", f"{_A} in front of a {{g}} background"),
        (1,), _fill_background, _state_alike,
    ),
    "same color": Family(
        ("a {s1} and a {s2} of the same color", "a {s1} and a {s2}, both the same color",
         "a {z1} {s1} and a {z2} {s2} of the same color", "{n} {p1} of the same color",
         "{n} {p1}, all the same color", "a picture of a {s1} and a {s2} of the same color"),
        (2, 3, 4), _fill_same_color, _state_same_color,
    ),
    "groups": Family(
        _plain(f"{{n}} {{c1}} {{p1}} and {_B}", "{n} {c1} {p1} and {n2} {c2} {p2}",
               f"{{n}} {{c1}} {{p1}} with {_B}", plural=True),
        (3, 4), _fill_groups, _state_groups,
    ),
}  # fmt: skip
