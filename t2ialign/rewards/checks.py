"""Checks what a reward's function takes, and says what it raised."""

from __future__ import annotations

import functools
import inspect
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from t2ialign.errors import EnvironmentProblem, InputError, UserError
from t2ialign.rewards.fingerprint import source_file, underlying

Kind = Literal["pointwise", "pairwise", "groupwise"]
SIGNATURES: dict[Kind, str] = {
    "pointwise": "def name(images, prompts)",
    "pairwise": "def name(images_a, images_b, prompts)",
    "groupwise": "def name(images, prompt)",
}
"""How a function of each kind is called."""
_ARGUMENTS: dict[Kind, tuple[Any, ...]] = {"pointwise": ([], []), "pairwise": ([], [], []), "groupwise": ([], "")}


def short(value: Any) -> str:
    try:
        text = " ".join(repr(value).split())
    except Exception:  # theirs
        text = "of unknown content"
    return text if len(text) <= 40 else text[:37] + "..."


def place_of(function: Any) -> str:
    """`file:line: ` of a function's or a class's source, or nothing where there is none."""
    file = source_file(function)
    try:
        return f"{file}:{inspect.getsourcelines(underlying(function))[1]}: " if file else ""
    except (TypeError, OSError):  # made while running
        return ""


def check_callable(name: str, target: Any, kind: Kind, options: Mapping[str, Any]) -> None:
    """Checks that a function, or the instances of a class, can be called as a reward of this kind.

    Args:
        options: keyword arguments of the class's constructor, or of the function after its arguments.

    Raises:
        InputError: it cannot.
    """
    call, arguments = target, _ARGUMENTS[kind]
    if inspect.isclass(target):
        _check_options(name, target, (), options)
        call, arguments = members_of(target).get("__call__"), (None, *arguments)
    elif options:
        _check_options(name, target, arguments, options)
        call = functools.partial(target, **options)
    if not callable(call):
        raise InputError(f"reward '{name}' is {short(target)}; name a function or a class with __call__")
    signature = _signature(call)
    if signature is not None and _mismatch(signature, arguments, {}):
        raise InputError(f"{place_of(target)}reward '{name}' takes {signature}; a {kind} reward is {SIGNATURES[kind]}")


def _check_options(name: str, target: Any, arguments: tuple[Any, ...], options: Mapping[str, Any]) -> None:
    signature = _signature(target)
    mismatch = signature and _mismatch(signature, arguments, options)
    if signature and mismatch:
        given = {"images", "images_a", "images_b", "prompts", "prompt"}
        takes = [key for key in signature.parameters if key not in given]
        raise InputError(f"reward '{name}': {mismatch}; its options: {', '.join(takes) or 'none'}")


def _signature(function: Any) -> inspect.Signature | None:
    try:
        return inspect.signature(function)
    except (ValueError, TypeError):  # a builtin or an extension type that does not say
        return None


def _mismatch(signature: inspect.Signature, arguments: tuple[Any, ...], options: Mapping[str, Any]) -> str:
    """Why a call does not fit; nothing if it does."""
    try:
        signature.bind(*arguments, **options)
    except TypeError as error:
        return str(error)
    return ""


def infer_kind(target: Any) -> Kind:
    """The kind that an attribute `reward_kind` states, or that the names of the parameters say.

    Raises:
        InputError: the attribute is not a kind.
    """
    stated = getattr(target, "reward_kind", None)
    if stated is not None:
        if stated not in SIGNATURES:
            raise InputError(f"{place_of(target)}reward_kind {short(stated)}: give {', '.join(SIGNATURES)}")
        return stated
    signature = _signature(members_of(target).get("__call__") if inspect.isclass(target) else target)
    parameters = signature.parameters if signature else {}
    if "images_a" in parameters:
        return "pairwise"
    return "groupwise" if "prompt" in parameters and "prompts" not in parameters else "pointwise"


def members_of(cls: type) -> dict[str, Any]:
    """The attributes that a class and its bases define."""
    return {name: value for base in reversed(cls.__mro__) for name, value in vars(base).items()}


def failure(name: str, function: Any, error: BaseException) -> UserError:
    """What is said of an exception that a reward's own code raised, with its place there."""
    file = source_file(function)
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == file]
    place = f"{own[-1].filename}:{own[-1].lineno}: " if own else place_of(function)
    try:
        text = " ".join(str(error).split())[:300]
    except Exception:  # theirs
        text = ""
    said = f"{place}reward '{name}' raised {type(error).__name__}{': ' if text else ''}{text}"
    if type(error).__name__ == "OutOfMemoryError":
        return EnvironmentProblem(f"{said}; give it a smaller batch_size")
    return (EnvironmentProblem if isinstance(error, (OSError, MemoryError, ImportError)) else InputError)(said)
