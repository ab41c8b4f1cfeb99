"""The checkable statements that a prompt makes, and whether they hold in a scene."""

from dataclasses import dataclass, replace
from typing import Literal

from t2ialign.shapes.scene import OPPOSITE, Scene, Thing, relates

Kind = Literal["total", "every", "exists", "count", "absent", "relation", "comparison", "same color", "background"]

COLOR, SHAPE, SIZE = "Attribute - Color", "Attribute - Shape", "Attribute - Size"
QUANTITY, LAYOUT = "Attribute - Quantity", "Entity Layout - Two-Dimensional Space"
COMPARISON, MATCHING, NEGATION = "Relationship - Comparison", "Compound - Feature Matching", "Grammar - Negation"
CRITERIA = (COLOR, SHAPE, SIZE, QUANTITY, LAYOUT, COMPARISON, MATCHING, NEGATION)
"""UniGenBench's own names of what is tested."""

_CANONICAL = {"right of": "left of", "below": "above", "smaller": "larger"}


@dataclass(frozen=True)
class Spec:
    """What a phrase says of a thing; None is left open."""

    color: str | None = None
    shape: str | None = None
    size: str | None = None

    def matches(self, thing: Thing) -> bool:
        """True where the thing has everything that is stated."""
        return (
            self.color in (None, thing.color) and self.shape in (None, thing.shape) and self.size in (None, thing.size)
        )

    def __str__(self) -> str:
        return " ".join(word for word in (self.size, self.color, self.shape or "shape") if word)


@dataclass(frozen=True)
class Constraint:
    """One checkable statement of a prompt.

    `kind` says what the other fields mean: total (`value` things in all), every (all things match `subject`), exists,
    count (`value` things match `subject`), absent (none matches), relation and comparison (`subject` is `value`, such
    as left of or larger, `target`), same color (of all things), background (is `value`).
    """

    kind: Kind
    criterion: str
    subject: Spec = Spec()
    target: Spec = Spec()
    value: str | int | None = None

    def canonical(self) -> "Constraint":
        """The same statement with "right of", "below" and "smaller" turned around."""
        if self.value not in _CANONICAL:
            return self
        return replace(self, subject=self.target, target=self.subject, value=_CANONICAL[str(self.value)])

    def __str__(self) -> str:
        """What a reader is shown, for example "a red circle is left of a blue square"."""
        match self.kind:
            case "total":
                return f"things in the picture: {self.value}"
            case "every":
                return f"every thing is {_a(self.subject)}"
            case "exists":
                return f"there is {_a(self.subject)}"
            case "count":
                return f"number of {self.subject}: {self.value}"
            case "absent":
                return f"there is no {self.subject}"
            case "same color":
                return "everything has the same color"
            case "background":
                return f"the background is {self.value}"
            case _:
                than = "" if self.value in OPPOSITE else " than"
                return f"{_a(self.subject)} is {self.value}{than} {_a(self.target)}"


def _a(spec: Spec) -> str:
    """The thing with its article."""
    return f"an {spec}" if str(spec).startswith("orange") else f"a {spec}"


def counted(constraint: Constraint, scene: Scene) -> int | None:
    """The things of a scene that a statement of kind total or count is about; None for other kinds."""
    if constraint.kind not in ("total", "count"):
        return None
    return sum(constraint.kind == "total" or constraint.subject.matches(thing) for thing in scene.things)


def holds(constraint: Constraint, scene: Scene) -> bool:
    """True where the scene satisfies the constraint; a scene without things satisfies none but the background's."""
    matching = [thing for thing in scene.things if constraint.subject.matches(thing)]
    if constraint.kind == "background":
        return scene.background == constraint.value
    if not scene.things:
        return False
    match constraint.kind:
        case "total" | "count":
            return counted(constraint, scene) == constraint.value
        case "every":
            return len(matching) == len(scene.things)
        case "exists":
            return bool(matching)
        case "absent":
            return not matching
        case "same color":
            return len({thing.color for thing in scene.things}) == 1
        case _:
            targets = [thing for thing in scene.things if constraint.target.matches(thing)]
            return any(
                _ordered(subject, str(constraint.value), target)
                for subject in matching
                for target in targets
                if subject is not target
            )


def _ordered(subject: Thing, word: str, target: Thing) -> bool:
    if word in OPPOSITE:
        return relates(subject, word, target)
    return subject.size != target.size and (subject.size == "large") == (word == "larger")
