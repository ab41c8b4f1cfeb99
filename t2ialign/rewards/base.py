"""What a reward is: a config section that names it, and a function whose answers are checked.

There are three kinds. A pointwise reward scores an image, `def name(images, prompts)`; a pairwise one says how probably
the first of two images is the better, `def name(images_a, images_b, prompts)`; a groupwise one scores all images of a
prompt together, `def name(images, prompt)`. Each takes PIL images, may be `async def`, and returns one number or None
an item. Higher is better. None (or NaN) says that an item could not be scored: it is counted and masked, never turned
into a number.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from numbers import Real
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, runtime_checkable

import yaml
from pydantic import Field, field_validator, model_validator
from typing_extensions import Self

from t2ialign.config.component import Component
from t2ialign.errors import InputError, Stopped, UserError
from t2ialign.rewards.background import wait_for
from t2ialign.rewards.checks import SIGNATURES, Kind, check_callable, failure, place_of, short
from t2ialign.rewards.fingerprint import fingerprint as fingerprint_of

if TYPE_CHECKING:
    from PIL.Image import Image

Order = Literal["random", "both"]
Score = float | None
"""A finite number, or None for an item that could not be scored."""


class RewardConfig(Component):
    """Which reward, how much it counts beside others, and what it is built with."""

    slot: ClassVar[str] = "reward"
    name: str
    """A known name, an entry point of t2ialign.rewards, package.module:name or file.py:name."""
    weight: float = 1.0
    """How much it counts beside other rewards; below 0 low scores are preferred."""
    kind: Kind = "pointwise"
    """Whether it scores images, pairs of images, or all images of a prompt; default: what its parameters say."""
    batch_size: int = Field(32, ge=1)
    """Images, or pairs of images, a call."""
    order: Order = "random"
    """Of the two images of a pair in online training: drawn for each pair, or both, averaged, which cancels a judge's
    leaning to the first or second place and costs twice as many verdicts."""

    @field_validator("weight")
    @classmethod
    def _counts(cls, weight: float) -> float:
        if weight == 0:
            raise ValueError("a weight of 0 leaves the reward out; give another number")
        return weight

    @model_validator(mode="after")
    def _has_an_order(self) -> Self:
        if self.order != "random" and self.kind != "pairwise":
            raise ValueError(f"order is of pairs, and reward '{self.name}' is {self.kind}; leave it out")
        return self

    def options(self) -> dict[str, Any]:
        """What the reward is built with: every key but those of all rewards."""
        return self.model_dump(exclude=set(RewardConfig.model_fields))

    def fingerprint(self) -> str:
        """Changes with anything that changes the scores: options, weights, and the project files that it uses."""
        return fingerprint_of(self.name, type(self), self.options())

    def check(self) -> None:
        """Checks, without loading anything, that `load` will find its weights and packages.

        Raises:
            InputError, EnvironmentProblem: as `load`.
        """

    @abstractmethod
    def load(self) -> Reward:
        """Builds the reward, with its weights.

        Raises:
            InputError: it cannot be built as its options say.
            EnvironmentProblem: its weights or an optional package are missing.
        """


def parse_text(text: str) -> dict[str, Any]:
    """The config section that `NAME[=WEIGHT][,option=value...]` stands for.

    Raises:
        InputError: the weight is not a number other than 0, or an option has no value.
    """
    head, *rest = text.split(",")
    name, equals, weight = head.partition("=")
    section: dict[str, Any] = {"name": name}
    if equals:
        section["weight"] = _weight(text, weight)
    for item in rest:
        key, equals, value = item.partition("=")
        if not equals or not key or key in section:
            raise InputError(f"reward '{text}': '{item}' is not option=value")
        try:
            section[key] = yaml.safe_load(value) if value else None
        except yaml.YAMLError:
            raise InputError(f"reward '{text}': the value of '{item}' is not YAML") from None
    return section


def _weight(text: str, number: str) -> float:
    try:
        weight = float(number)
    except ValueError:
        weight = math.nan
    if not math.isfinite(weight) or weight == 0:
        raise InputError(f"reward '{text}': the weight '{number}' is not a number other than 0, as in NAME=0.5")
    return weight


def require_kind(rewards: Sequence[RewardConfig], kind: Kind, what: str) -> None:
    """Checks that whoever uses the rewards can call them.

    Args:
        what: who uses them, as the message names it.

    Raises:
        InputError: a reward is of another kind.
    """
    for reward in rewards:
        if reward.kind != kind:
            raise InputError(
                f"reward '{reward.name}' is {reward.kind}; {what} needs a {kind} reward, {SIGNATURES[kind]}"
            )


def require_distinct(rewards: Sequence[Reward]) -> None:
    """Checks that scores can be told apart by the names of their rewards.

    Raises:
        InputError: there are no rewards, or two have the same name.
    """
    names = [reward.name for reward in rewards]
    if not names or len(set(names)) < len(names):
        raise InputError(f"rewards {', '.join(names) or 'none'}: name at least one, and each once")


@runtime_checkable
class _Array(Protocol):
    """What arrays and tensors have in common."""

    @property
    def ndim(self) -> int: ...

    def tolist(self) -> Any: ...

    def __iter__(self) -> Iterator[Any]: ...


class Reward:
    """A function whose calls and answers are checked. Subclasses are the three kinds.

    Args:
        name: as it was asked for; messages and files carry it.
        function: as the kind's signature says; higher is better.
        fingerprint: changes with anything known to change the scores; default: the function's project files.
        weight: how much it counts beside others; below 0 low scores are preferred.
        batch_size: images, or pairs, a call.

    Raises:
        InputError: the function cannot be called as its kind is.
    """

    kind: ClassVar[Kind]
    item: ClassVar[str]
    """What an answer belongs to, as messages name it."""
    answer: ClassVar[str] = "one number"
    """What is returned an item, as messages name it."""

    def __init__(
        self,
        name: str,
        function: Callable[..., Any],
        *,
        fingerprint: str | None = None,
        weight: float = 1.0,
        batch_size: int = 32,
        calls: int = 1,
    ):
        check_callable(name, function, self.kind, {})
        self.name = name
        self.function = function
        self.weight = weight
        self.batch_size = batch_size
        self.calls = calls
        """Calls that may be under way at once, each from a thread of its own; above 1 a server answers."""
        self.place = place_of(function)
        self._fingerprint = fingerprint

    @cached_property
    def fingerprint(self) -> str:
        """Changes with anything known to change the scores."""
        return self._fingerprint or fingerprint_of(self.name, self.function, {})

    def _ask(self, count: int, *arguments: Any) -> list[Score]:
        """The scores of one call, which must be `count`."""
        try:
            answer = wait_for(self.function(*arguments))
            return [self._number(value) for value in self._listed(answer, count)]
        except (UserError, Stopped, KeyboardInterrupt):
            raise
        except BaseException as error:
            raise failure(self.name, self.function, error) from error

    def _listed(self, answer: Any, expected: int) -> list[Any]:
        if isinstance(answer, _Array) and not isinstance(answer, Real):
            answer = list(answer) if answer.ndim > 0 else [answer]
        got = f"got {_plural(expected, self.item)} and returned"
        if not isinstance(answer, (list, tuple)):
            raise self._violation(f"{got} {type(answer).__name__} {short(answer)}")
        if len(answer) != expected:
            raise self._violation(f"{got} {_plural(len(answer), 'value')}")
        return list(answer)

    def _number(self, value: Any) -> Score:
        number = _unpacked(value)
        if number is None:
            return None
        if isinstance(number, bool) or not isinstance(number, Real):
            raise self._violation(f"returned {short(value)} ({type(value).__name__}) for {_article(self.item)}")
        try:
            number = float(number)
        except OverflowError:
            return None
        return self._checked(number) if math.isfinite(number) else None

    def _checked(self, number: float) -> float:
        return number

    def _violation(self, seen: str) -> InputError:
        asked = f"return a list with {self.answer} or None per {self.item}"
        return InputError(f"{self.place}reward '{self.name}' {seen}; {asked}")


class PointwiseReward(Reward):
    """Scores images one by one: `function(images, prompts) -> one number or None an image`, on any scale."""

    kind = "pointwise"
    item = "image"

    def __call__(self, images: Sequence[Image], prompts: Sequence[str]) -> list[Score]:
        """One score an image.

        Args:
            images: RGB, of any sizes. [N]
            prompts: what each image was made from. [N]

        Raises:
            InputError: the function raised something, or its answer is not one number or None an image.
            EnvironmentProblem: the function raised an OSError, such as a server that is gone, or ran out of memory.
        """
        batches = _batches(self.batch_size, images, prompts)
        return [score for batch in batches for score in self._ask(len(batch[0]), *batch)]


class PairwiseReward(Reward):
    """Compares two images: `function(images_a, images_b, prompts)` -> how probably each image a is better, or None."""

    kind = "pairwise"
    item = "pair"
    answer = "a number from 0 to 1"

    def __call__(self, images_a: Sequence[Image], images_b: Sequence[Image], prompts: Sequence[str]) -> list[Score]:
        """The probability that image a is better than image b, in [0, 1]; 0.5 is a tie.

        Args:
            images_a: RGB, of any sizes. [N]
            images_b: what each is compared with. [N]
            prompts: what both images of a pair were made from. [N]

        Raises:
            InputError, EnvironmentProblem: as a pointwise reward does.
        """
        batches = _batches(self.batch_size, images_a, images_b, prompts)
        return [score for batch in batches for score in self._ask(len(batch[0]), *batch)]

    def _checked(self, number: float) -> float:
        if not 0 <= number <= 1:
            raise self._violation(f"returned {number:g} for a pair")
        return number


class GroupwiseReward(Reward):
    """Scores all images of one prompt together: `function(images, prompt) -> one number or None an image`."""

    kind = "groupwise"
    item = "image"

    def __call__(self, images: Sequence[Image], prompt: str) -> list[Score]:
        """One score an image, in one call.

        Args:
            images: RGB, of any sizes, all of the same prompt. [N]
            prompt: what they were made from.

        Raises:
            InputError, EnvironmentProblem: as a pointwise reward does.
        """
        return self._ask(len(images), list(images), prompt) if images else []


REWARDS_BY_KIND: dict[Kind, type[Reward]] = {
    "pointwise": PointwiseReward,
    "pairwise": PairwiseReward,
    "groupwise": GroupwiseReward,
}


def _batches(size: int, *columns: Sequence[Any]) -> Iterator[list[list[Any]]]:
    """Slices of equally long columns.

    Raises:
        ValueError: their lengths differ.
    """
    lengths = [len(column) for column in columns]
    if len(set(lengths)) > 1:
        raise ValueError(f"{', '.join(map(str, lengths))} images and prompts; give as many of each")
    for start in range(0, lengths[0], size):
        yield [list(column[start : start + size]) for column in columns]


def _unpacked(value: Any) -> Any:
    """The element of an array or tensor of shape () or (1,); anything else as it is."""
    if not isinstance(value, _Array):
        return value
    content = value.tolist()
    return content[0] if isinstance(content, list) and len(content) == 1 and value.ndim == 1 else content


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
