"""Judges by import path: `package.module:Class`, `path/to/file.py:Class`."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
import re
import sys
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any

from unigenbench.errors import InputError
from unigenbench.judges.base import Judge, JudgeOptions

CALLS = ("probe", "judge", "aclose")


def open_imported(reference: str, options: JudgeOptions) -> Judge:
    """An instance of the class, made with the options if it takes an argument, and without if not.

    Raises:
        InputError: the module or the class is not there, or it is no judge; the message says what is missing.
    """
    where, _, attribute = reference.rpartition(":")
    if not where or not attribute:
        raise InputError(f"judge {reference!r}: write package.module:Class or path/to/file.py:Class")
    module = _from_file(Path(where), reference) if where.endswith(".py") else _from_name(where, reference)
    if not hasattr(module, attribute):
        near = get_close_matches(attribute, dir(module), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise InputError(f"judge {reference!r}: {where} has no {attribute!r}{hint}")
    made: Any = getattr(module, attribute)
    if not (isinstance(made, type) or inspect.isfunction(made)):
        seen = type(made).__name__
        raise InputError(f"judge {reference!r}: a {seen}; it must be a class, or a function that makes a judge")
    make: Callable[..., Any] = made
    judge = make(options) if _takes_argument(make) else make()
    _check(judge, reference)
    return judge


def _from_name(where: str, reference: str) -> ModuleType:
    sys.path.insert(0, str(Path.cwd()))  # a module beside the user, as `python script.py` would see it
    try:
        return importlib.import_module(where)
    except ModuleNotFoundError as error:
        if error.name is not None and (where == error.name or where.startswith(f"{error.name}.")):
            raise InputError(
                f"judge {reference!r}: no module {error.name!r}; is it installed, or beside you?"
            ) from None
        raise InputError(f"judge {reference!r}: {where} needs {error.name!r}, which is not installed") from error
    finally:
        sys.path.pop(0)


def _from_file(path: Path, reference: str) -> ModuleType:
    if not path.is_file():
        raise InputError(f"judge {reference!r}: no file {path}")
    name = "unigenbench_user_" + re.sub(r"\W", "_", str(path.resolve()))
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _takes_argument(made: Any) -> bool:
    """True where the first parameter can be given by place."""
    by_place = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return any(parameter.kind in by_place for parameter in inspect.signature(made).parameters.values())


def _check(judge: Any, reference: str) -> None:
    """Names the first thing that a judge must have and this one has not."""
    kind = type(judge).__name__
    for name in CALLS:
        if not inspect.iscoroutinefunction(getattr(judge, name, None)):
            raise InputError(
                f"judge {reference!r}: {kind} has no `async def {name}`; see unigenbench.judges.base.Judge"
            )
    spec = getattr(judge, "spec", None)
    try:
        plain = isinstance(spec, dict) and json.loads(json.dumps(spec)) == spec
    except (TypeError, ValueError):
        plain = False
    if not plain:
        raise InputError(f"judge {reference!r}: {kind}.spec is {spec!r}; it must be a dictionary of JSON values")
    if not isinstance(getattr(judge, "id", None), str):
        raise InputError(
            f"judge {reference!r}: {kind} has no id; set it to unigenbench.judges.base.judge_id(self.spec)"
        )
