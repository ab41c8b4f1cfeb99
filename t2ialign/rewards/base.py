"""The door for rewards: what a user's function may be, how it is found, how it is called and what it may answer.

A pointwise reward is `def name(images, prompts)`: PIL images in, one number or None per image out, higher is better, on
any scale. None (or NaN) says that an image could not be scored; it is counted and masked, never turned into a number.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import inspect
import math
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import entry_points
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml
from PIL.Image import Image

from t2ialign.config.component import import_reference
from t2ialign.errors import InputError

ENTRY_POINTS = "t2ialign.rewards"
"""The entry point group in which other packages offer rewards by name."""

REWARDS: dict[str, str] = {
    "aesthetic": "t2ialign.rewards.aesthetic:Aesthetic",
    "brightness": "t2ialign.rewards.pixels:brightness",
    "clip_score": "t2ialign.rewards.clip_family:ClipScore",
    "hpsv2": "t2ialign.rewards.clip_family:HPSv2",
    "jpeg_size": "t2ialign.rewards.pixels:jpeg_size",
    "pickscore": "t2ialign.rewards.clip_family:PickScore",
    "saturation": "t2ialign.rewards.pixels:saturation",
    "shapes.all_right": "t2ialign.shapes.reward:all_right",
    "shapes.faithfulness": "t2ialign.shapes.reward:faithfulness",
    "shapes.mixed": "t2ialign.shapes.reward:mixed",
    "shapes.taste": "t2ialign.shapes.reward:taste",
    "sharpness": "t2ialign.rewards.pixels:sharpness",
}
"""Name -> where the reward lives. Nothing is imported before it is named."""

Score = float | None
"""A finite number, or None for an image that could not be scored."""


class Reward:
    """A named pointwise reward whose answers are checked.

    Args:
        name: as it was asked for; messages and files carry it.
        function: `function(images, prompts) -> one number or None per image`.
        fingerprint: changes with anything known to change the scores; the function's source, if not given.
        batch_size: images per call.

    Raises:
        InputError: the function cannot be called with (images, prompts).
    """

    def __init__(
        self, name: str, function: Callable[..., Any], *, fingerprint: str | None = None, batch_size: int = 32
    ):
        self.name = name
        self.function = function
        self.batch_size = batch_size
        self.place = _place(function)
        self.fingerprint = fingerprint or _fingerprint(name, function, {})
        self._check_signature()

    def _check_signature(self) -> None:
        if not callable(self.function):
            raise InputError(f"reward '{self.name}' is {self.function!r}; name a function or a class with __call__")
        if inspect.iscoroutinefunction(self.function) or inspect.iscoroutinefunction(type(self.function).__call__):
            raise InputError(f"{self.place}reward '{self.name}' is async; write a plain def name(images, prompts)")
        try:
            signature = inspect.signature(self.function)
        except ValueError:  # a builtin or an extension type that does not say
            return
        try:
            signature.bind([], [])
        except TypeError:
            raise InputError(
                f"{self.place}reward '{self.name}' takes {signature}; a pointwise reward is def name(images, prompts)"
            ) from None

    def __call__(self, images: Sequence[Image], prompts: Sequence[str]) -> list[Score]:
        """One score per image; an exception of the function propagates, with the reward's name in a note.

        Args:
            images: RGB, of any sizes. [N]
            prompts: what each image was made from. [N]

        Raises:
            InputError: the function's answer is not one number or None per image.
        """
        if len(images) != len(prompts):
            raise ValueError(f"{len(images)} images but {len(prompts)} prompts")
        scores: list[Score] = []
        for start in range(0, len(images), self.batch_size):
            batch = slice(start, start + self.batch_size)
            scores += self._batch(list(images[batch]), list(prompts[batch]))
        return scores

    def _batch(self, images: list[Image], prompts: list[str]) -> list[Score]:
        try:
            answer = self.function(images, prompts)
        except Exception as error:
            if sys.version_info >= (3, 11):
                error.add_note(f"raised by reward '{self.name}' on a batch of {len(images)} images")
            raise
        values = self._listed(answer, len(images))
        return [self._number(value) for value in values]

    def _listed(self, answer: Any, expected: int) -> list[Any]:
        if isinstance(answer, (np.ndarray, torch.Tensor)):
            answer = answer.reshape(-1).tolist() if answer.ndim <= 1 else list(answer)
        if not isinstance(answer, (list, tuple)):
            raise self._violation(f"got {expected} images and returned {type(answer).__name__} {_short(answer)}")
        if len(answer) != expected:
            raise self._violation(f"got {expected} images and returned {_plural(len(answer), 'value')}")
        return list(answer)

    def _number(self, value: Any) -> Score:
        if isinstance(value, (np.ndarray, torch.Tensor)) and value.shape in ((), (1,)):
            value = value.item()
        if value is None:
            return None
        if isinstance(value, (bool, np.bool_)) or not isinstance(value, Real):
            raise self._violation(f"returned {_short(value)} ({type(value).__name__}) for an image")
        return float(value) if math.isfinite(value) else None

    def _violation(self, seen: str) -> InputError:
        return InputError(f"{self.place}reward '{self.name}' {seen}; return a list with one number or None per image")


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _underlying(function: Any) -> Any:
    """The function or class whose source answers: inside a partial, behind an instance."""
    while isinstance(function, functools.partial):
        function = function.func
    return function if inspect.isroutine(function) or inspect.isclass(function) else type(function)


def _place(function: Any) -> str:
    """`file:line: ` of a function's or a class's source, or nothing where there is none."""
    source = _underlying(function)
    try:
        file, (_, line) = inspect.getsourcefile(source), inspect.getsourcelines(source)
    except (TypeError, OSError):  # written in C, or typed into an interpreter
        return ""
    return f"{file}:{line}: "


def _fingerprint(name: str, function: Any, options: Mapping[str, Any]) -> str:
    """Identifies a reward by its name, its options and the text of the file that defines it."""
    digest = hashlib.blake2b(f"{name} {sorted(options.items())!r} ".encode(), digest_size=16)
    try:
        file = inspect.getsourcefile(_underlying(function))
        digest.update(Path(file).read_bytes() if file else b"")
    except (TypeError, OSError):  # no source: the name and the options must do
        pass
    return digest.hexdigest()


def load_reward(name: str, *, batch_size: int = 32, **options: Any) -> Reward:
    """The reward of this name, built once.

    Args:
        name: a known name, an entry point of the group `t2ialign.rewards`, `package.module:attribute` or
            `file.py:attribute`. The attribute is a function, a class whose instances are called, or an instance.
        batch_size: images per call.
        options: keyword arguments of the class's constructor, or of the function after its two arguments.

    Raises:
        InputError: no such name, file or attribute; options that it does not take; not a pointwise reward.
        EnvironmentProblem: its weights or an optional package cannot be had.
    """
    target = _find(name)
    fingerprint = _fingerprint(name, target, options)
    function: Any = target
    if inspect.isclass(target):
        _check_options(name, target, (), options)
        function = target(**options)
    elif options:
        _check_options(name, target, ([], []), options)
        function = functools.partial(target, **options)
    return Reward(name, function, fingerprint=fingerprint, batch_size=batch_size)


def _find(name: str) -> Any:
    if name in REWARDS:
        return import_reference(REWARDS[name])
    offered = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
    if name in offered:
        return offered[name].load()
    if ":" in name:
        return import_reference(name)
    known = sorted({*REWARDS, *offered})
    if name.endswith(".py"):
        raise InputError(f"reward '{name}' names a file but no function in it: write {name}:FUNCTION")
    close = difflib.get_close_matches(name, known, n=1)
    guess = f"; did you mean '{close[0]}'?" if close else "."
    raise InputError(
        f"unknown reward '{name}'{guess} Known: {', '.join(known)}, or package.module:name, or file.py:name"
    )


def _check_options(name: str, target: Any, positional: tuple, options: Mapping[str, Any]) -> None:
    try:
        inspect.signature(target).bind(*positional, **options)
    except TypeError as error:
        takes = [key for key in inspect.signature(target).parameters if key not in ("images", "prompts")]
        raise InputError(f"reward '{name}': {error}; its options: {', '.join(takes) or 'none'}") from None


class Summary(NamedTuple):
    """Scores in short. A failed image has no number, so it is in `failed` and nowhere else."""

    images: int
    scored: int
    failed: int
    mean: float | None
    """None if nothing was scored."""
    standard_error: float | None
    """Of the mean over prompts' images, whole prompts being the independent units; None below two prompts."""
    low: float | None
    """The smallest score."""
    high: float | None
    """The largest score."""


def summarise(scores: Sequence[Score], prompts: Sequence[str]) -> Summary:
    """Mean, standard error and coverage of scores.

    Images of one prompt resemble each other, so the standard error is the cluster-robust one of a ratio of prompt
    totals: sqrt(P / (P - 1) * sum_p (S_p - mean * n_p)^2) / N, with S_p the sum and n_p the number of prompt p's
    scores. With one image a prompt it is the usual s / sqrt(N).
    """
    known = [(score, prompt) for score, prompt in zip(scores, prompts, strict=True) if score is not None]
    values = [score for score, _ in known]
    if not values:
        return Summary(len(scores), 0, len(scores), None, None, None, None)
    mean = statistics.fmean(values)
    residuals: dict[str, float] = {}
    for score, prompt in known:
        residuals[prompt] = residuals.get(prompt, 0.0) + score - mean
    clusters, error = len(residuals), None
    if clusters > 1:
        error = math.sqrt(clusters / (clusters - 1) * sum(r * r for r in residuals.values())) / len(values)
    return Summary(len(scores), len(values), len(scores) - len(values), mean, error, min(values), max(values))


def constant(scores: Sequence[Score]) -> float | None:
    """The one value that all scores share, if there are two or more and they do; else None.

    A constant reward teaches nothing; usually an exception was swallowed inside it, or its weights are not loaded.
    """
    values = {score for score in scores if score is not None}
    return values.pop() if len(values) == 1 and sum(score is not None for score in scores) > 1 else None


class Weighted(NamedTuple):
    """A reward and how much it counts beside others; a negative weight prefers low scores."""

    reward: Reward
    weight: float


def parse_reward(text: str, *, batch_size: int = 32) -> Weighted:
    """The reward of a command line's `NAME[=WEIGHT][,option=value...]`, as in `pickscore=0.7,pretrained=models/pick`.

    Raises:
        InputError: the weight is not a number other than 0, an option has no value, or `load_reward` refuses the name.
    """
    head, *rest = text.split(",")
    name, equals, weight_text = head.partition("=")
    weight = _weight(text, weight_text) if equals else 1.0
    options: dict[str, Any] = {}
    for item in rest:
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise InputError(f"reward '{text}': '{item}' is not option=value")
        options[key] = yaml.safe_load(value) if value else None
    return Weighted(load_reward(name, batch_size=batch_size, **options), weight)


def _weight(text: str, number: str) -> float:
    try:
        weight = float(number)
    except ValueError:
        weight = math.nan
    if not math.isfinite(weight) or weight == 0:
        raise InputError(f"reward '{text}': the weight '{number}' is not a number other than 0, as in NAME=0.5")
    return weight
