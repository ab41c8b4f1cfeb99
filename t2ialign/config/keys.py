"""Every key of a config: whose it is, what it may be, its default, an example; found by name, meaning or synonym."""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from t2ialign.config.component import COMPONENTS, Section, Slot, resolve
from t2ialign.config.reader import read_yaml
from t2ialign.config.schema import LOOPS
from t2ialign.config.synonyms import SYNONYMS, here_called
from t2ialign.errors import InputError
from t2ialign.rewards.base import RewardConfig
from t2ialign.storage.resources import find_shipped

REWARD = "rewards"
"""The section whose entries are rewards."""
NUMBERS = {int: "whole number", float: "number"}
BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below", "multiple_of": "a multiple of"}


class Key(NamedTuple):
    """A key of a config."""

    name: str
    """As an override is written: `objective.beta`."""
    slot: str
    """The section of the component that it belongs to, as objective; empty for keys of every config."""
    components: tuple[str, ...]
    """Names of the components that have it; empty for keys of every config."""
    values: str
    """What it may be, in words."""
    default: str
    """As YAML; "required" where there is none."""
    meaning: str
    example: str
    """An override that sets it; empty for a section."""

    @property
    def owner(self) -> str:
        """Whose key it is, in words; empty for keys of every config."""
        if not self.components:
            return ""
        every = self.slot == "reward" or len(self.components) == len(COMPONENTS[self.slot])
        return f"every {self.slot}" if every else f"{self.slot} {', '.join(self.components)}"


def keys() -> list[Key]:
    """Every key, that of several components once; those of every config first, then those of components."""
    found: dict[tuple[str, ...], Key] = {}
    models = [("", "", loop) for loop in LOOPS.values()]
    slots = {slot: known for slot, known in COMPONENTS.items() if slot != "reward"}
    models += [(slot, name, resolve(slot, name)) for slot, known in slots.items() for name in known]
    for slot, name, model in [*models, ("reward", "NAME", RewardConfig)]:
        for key in _keys(model, f"{REWARD if slot == 'reward' else slot}." if slot else "", slot, name):
            same = (key.name, key.slot, key.values, key.default, key.meaning) if slot else (key.name,)
            known = found.get(same)
            found[same] = key if known is None else known._replace(components=(*known.components, *key.components))
    return list(found.values())


def find_keys(words: Sequence[str]) -> list[Key]:
    """The keys that all words fit: by name, by what other trainers call them, or by their meaning; best first.

    Raises:
        InputError: there are none.
    """
    every = keys()
    ranked = [(max(ranks), place, key) for place, key in enumerate(every) if None not in (ranks := _ranks(words, key))]
    if words and not ranked:
        usual = [*SYNONYMS, *(key.name.split(".")[-1] for key in every)]
        close = [near for word in words for near in difflib.get_close_matches(word, usual, n=1)]
        hint = f"; did you mean '{close[0]}'?" if close else "; fewer or other words may find more"
        raise InputError(f"no key and no meaning fits {' '.join(words)!r}{hint}")
    return [key for _, _, key in sorted(ranked)]


def _ranks(words: Sequence[str], key: Key) -> list[Any]:
    """How well each word fits a key, 0 best; None where it does not."""
    return [_rank(word, key) for word in words] or [0]


def _rank(word: str, key: Key) -> int | None:
    word = word.lower()
    if word in (key.name, key.name.split(".")[-1]) or key.name in here_called(word):
        return 0
    if word in key.name:
        return 1
    if "." not in word and word.replace("_", " ") in f"{key.meaning} {key.values} {key.owner}".lower():
        return 2
    return None


def _keys(model: type[BaseModel], prefix: str, slot: str, component: str) -> Iterator[Key]:
    for name, entry in model.model_fields.items():
        if component and prefix.count(".") == 1 and name == "name":
            continue
        key, meaning = prefix + (entry.alias or name), " ".join((entry.description or "").split())
        of = (component,) if component else ()
        section = next((c for c in _choices(entry.annotation) if isinstance(c, type) and issubclass(c, Section)), None)
        found = next((marker.slot for marker in entry.metadata if isinstance(marker, Slot)), None)
        if section is not None and found is None:
            yield Key(key, slot, of, "section", "", meaning, "")
            yield from _keys(section, key + ".", slot, component)
            continue
        if key == "loop":
            yield Key(key, slot, of, " | ".join(LOOPS), "offline", meaning, "loop=online")
            continue
        values = f"{found} by name: {', '.join(COMPONENTS[found])}" if found else _values(entry)
        yield Key(key, slot, of, values, _default(entry), meaning, _example(key, slot, component, entry))


def _choices(annotation: Any) -> tuple[Any, ...]:
    """The alternatives of an annotation."""
    if get_origin(annotation) in (Union, types.UnionType):
        return tuple(choice for part in get_args(annotation) for choice in _choices(part))
    return (annotation,)


def _values(entry: FieldInfo) -> str:
    """What a key may be, in words."""
    choices = _choices(entry.annotation)
    words = [_kind(choice) for choice in choices if choice is not types.NoneType]
    bounds = [
        f"{said} {getattr(marker, bound):g}"
        for marker in entry.metadata
        for bound, said in BOUNDS.items()
        if getattr(marker, bound, None) is not None
    ]
    return ", ".join([" | ".join(words), *bounds]) + (", or empty" if types.NoneType in choices else "")


def _kind(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return " | ".join(_shown(value) for value in get_args(annotation))
    if get_origin(annotation) is list:
        (item,) = get_args(annotation)
        slot = next((m.slot for m in getattr(item, "__metadata__", ()) if isinstance(m, Slot)), None)
        return f"list of {slot}s" if slot else f"list of {_kind(item)}"
    if get_origin(annotation) is tuple:
        return f"list of {len(get_args(annotation))} numbers"
    if get_origin(annotation) is dict:
        return "keys and values"
    if annotation is bool:
        return "true | false"
    return NUMBERS.get(annotation) or ("path" if annotation is Path else "text")


def _default(entry: FieldInfo) -> str:
    if entry.is_required():
        return "required"
    value = entry.get_default(call_default_factory=True)
    return "empty" if value is None else _shown(value)


def _shown(value: Any) -> str:
    """A value as YAML on one line."""
    if isinstance(value, float):
        return f"{value:g}"
    value = list(value) if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value
    return yaml.safe_dump(value, default_flow_style=True, width=10**6, allow_unicode=True).replace("\n...", "").strip()


def _example(key: str, slot: str, component: str, entry: FieldInfo) -> str:
    """An override that sets the key: the value of a shipped config, or one that the key may have."""
    if slot == "reward":
        known = "shapes.prefers" if key.endswith((".kind", ".order")) else "sharpness"
        return f"{REWARD}=[{{name: {known}, {key.split('.', 1)[1]}: {_shown(_possible(entry))}}}]"
    for content in _shipped():
        section = content.get(slot) if slot else None
        if not slot or (isinstance(section, dict) and section.get("name") == component):
            value = _at(content, key.split("."))
            if value is not None:
                return f"{key}={_shown(value)}"
    return f"{key}={_shown(_possible(entry))}"


def _possible(entry: FieldInfo) -> Any:
    """A value that a key may have, another than its default where that is easily said."""
    if any(isinstance(marker, Slot) and marker.slot == "data" for marker in entry.metadata):
        return {"name": "pairs", "path": "my/pairs.csv"}
    default = None if entry.is_required() else entry.get_default(call_default_factory=True)
    choice = next((c for c in _choices(entry.annotation) if c is not types.NoneType), None)
    if isinstance(default, bool):
        return not default
    if get_origin(choice) is Literal:
        return next((value for value in get_args(choice) if value != default), default)
    if default is not None:
        return default
    if get_origin(choice) is list:
        return [100, 500] if get_args(choice) == (int,) else []
    least = max((getattr(m, "ge", None) or getattr(m, "multiple_of", None) or 0 for m in entry.metadata), default=0)
    return {int: max(int(least), 4), float: 0.5, bool: True, Path: "my/file"}.get(choice, "name")


def _at(content: Any, path: Sequence[str]) -> Any:
    for part in path:
        content = content.get(part) if isinstance(content, dict) else None
    return content


@cache
def _shipped() -> list[dict[str, Any]]:
    """The contents of the shipped configs, those of full-size models first."""
    folder = find_shipped("configs")
    paths = [] if folder is None else sorted(folder.glob("*.yaml"))
    return [read_yaml(path)[0] for path in sorted(paths, key=lambda path: path.name.startswith("shapes_"))]
