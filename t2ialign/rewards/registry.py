"""Finds rewards: by a known name, as an entry point of another package, in a module or in a file."""

from __future__ import annotations

import difflib
import functools
import inspect
import sys
from collections.abc import Iterable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ConfigDict, model_validator

from t2ialign.config.component import COMPONENTS, import_reference, input_error_as_value_error
from t2ialign.config.reader import validated
from t2ialign.errors import InputError, Stopped, UserError
from t2ialign.rewards.base import (
    REWARDS_BY_KIND,
    PointwiseReward,
    Reward,
    RewardConfig,
    parse_text,
    require_kind,
)
from t2ialign.rewards.checks import check_callable, failure, infer_kind
from t2ialign.rewards.fingerprint import fingerprint
from t2ialign.rewards.needs import NeedsWeights

ENTRY_POINTS = "t2ialign.rewards"
"""The entry point group in which other packages offer rewards by name."""


class Found(NamedTuple):
    """What a name stands for."""

    target: Any
    """A RewardConfig, a function, a class whose instances are called, or an instance."""
    file: Path | None
    """The source file that was named, if it is known."""


def find(name: str) -> Found:
    """What a reward's name stands for.

    Raises:
        InputError: nothing, or it cannot be imported.
    """
    known = COMPONENTS["reward"]
    offered = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
    if name in known:
        return _imported(known[name])
    if name in offered:
        try:
            return Found(offered[name].load(), None)
        except (UserError, Stopped, KeyboardInterrupt):
            raise
        except BaseException as error:
            raise failure(name, None, error) from error
    if ":" in name:
        return _imported(name)
    if name.endswith(".py"):
        raise InputError(f"reward '{name}' names a file but no function in it: write {name}:FUNCTION")
    names = sorted({*known, *offered})
    close = difflib.get_close_matches(name, names, n=1)
    guess = f"; did you mean '{close[0]}'?" if close else "."
    raise InputError(
        f"unknown reward '{name}'{guess} Known: {', '.join(names)}, or package.module:name, or file.py:name"
    )


def _imported(reference: str) -> Found:
    target = import_reference(reference)
    where = reference.rpartition(":")[0]
    file = where if where.endswith(".py") else getattr(sys.modules.get(where), "__file__", None)
    return Found(target, Path(file) if file else None)


def component_class(name: str) -> type[RewardConfig]:
    """The config class of a reward: the one that is named, or the one that holds any function, class or instance.

    Raises:
        InputError: no such reward.
    """
    target = find(name).target
    return target if inspect.isclass(target) and issubclass(target, RewardConfig) else NamedReward


class NamedReward(RewardConfig):
    """A function, a class or an instance; further keys are options of its constructor, or of the function."""

    model_config = ConfigDict(extra="allow")

    @model_validator(mode="before")
    @classmethod
    def _kind_of_its_parameters(cls, content: Any) -> Any:
        if isinstance(content, dict) and isinstance(content.get("name"), str) and content.get("kind") is None:
            with input_error_as_value_error():
                return {**content, "kind": infer_kind(find(content["name"]).target)}
        return content

    @model_validator(mode="after")
    def _can_be_called(self) -> NamedReward:
        with input_error_as_value_error():
            check_callable(self.name, find(self.name).target, self.kind, self.options())
        return self

    def fingerprint(self) -> str:
        target, file = find(self.name)
        return fingerprint(self.name, target, self.options(), [file] if file else [])

    def check(self) -> None:
        target = find(self.name).target
        if inspect.isclass(target) and issubclass(target, NeedsWeights):
            given = inspect.signature(target).bind(**self.options())
            given.apply_defaults()
            target.check(given.arguments)

    def load(self) -> Reward:
        target: Any = find(self.name).target
        try:
            if inspect.isclass(target):
                target = target(**self.options())
            elif self.options():
                target = functools.partial(target, **self.options())
        except (UserError, Stopped, KeyboardInterrupt):
            raise
        except BaseException as error:
            raise failure(self.name, target, error) from error
        return REWARDS_BY_KIND[self.kind](
            self.name, target, fingerprint=self.fingerprint(), weight=self.weight, batch_size=self.batch_size
        )


def load_reward(name: str, **options: Any) -> PointwiseReward:
    """The pointwise reward of this name, built once.

    Args:
        name: a known name, an entry point of the group `t2ialign.rewards`, `package.module:attribute` or
            `file.py:attribute`. The attribute is a function, a class whose instances are called, or an instance.
        options: keyword arguments of the class's constructor, or of the function after its two arguments; also
            `batch_size`, images a call.

    Raises:
        InputError: no such name, file or attribute; options that it does not take; not a pointwise reward.
        EnvironmentProblem: its weights or an optional package are missing.
    """
    return load_pointwise([validated("reward", {"name": name, **options})], "load_reward")[0]


def load_pointwise(rewards: Iterable[str | RewardConfig], what: str) -> list[PointwiseReward]:
    """Builds rewards that score single images.

    Args:
        rewards: sections, or texts as `parse_reward` takes them.
        what: who needs them, as a message names it.

    Raises:
        InputError: one is of another kind, before any is built.
    """
    configs = [parse_reward(reward) if isinstance(reward, str) else reward for reward in rewards]
    require_kind(configs, "pointwise", what)
    loaded = []
    for config in configs:
        reward = config.load()
        if not isinstance(reward, PointwiseReward):
            raise InputError(f"reward '{config.name}' says that it is pointwise but loads a {reward.kind} reward")
        loaded.append(reward)
    return loaded


def parse_reward(text: str) -> RewardConfig:
    """The reward of a command line's `NAME[=WEIGHT][,option=value...]`, as in `pickscore=0.7,pretrained=models/pick`.

    Raises:
        InputError: the weight is not a number other than 0, an option has no value, no such reward, or options that it
            does not take.
    """
    return validated("reward", parse_text(text))
