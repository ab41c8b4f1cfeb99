"""From YAML to a validated config: messages with file, line, key and what to do."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import (
    BaseModel,
    ValidationError,
)

from t2ialign.config.component import Slot, _suggestion, resolve
from t2ialign.config.schema import LOOPS, Config, OfflineConfig, RunConfig
from t2ialign.config.synonyms import here_called
from t2ialign.errors import InputError


class _Loader(yaml.SafeLoader):
    """YAML 1.1 with repairs: 1e-5 is a number, a date is text, a key written twice and an alias are errors."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.MarkedYAMLError(
                None, None, f"write the value of *{event.anchor} out; there are no aliases here", event.start_mark
            )
        return super().compose_node(parent, index)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9][0-9_]*\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)$"),
    list("-+0123456789."),
)
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in _Loader.yaml_implicit_resolvers.items()
}


NOT_YAML = (yaml.YAMLError, ValueError, OverflowError, RecursionError)
"""What the YAML library raises of text that it cannot read: syntax, numbers beyond Python's limits, deep nesting."""


def _walk(node: yaml.Node, path: tuple[str | int, ...], file: str) -> Iterator[tuple[tuple[str | int, ...], int]]:
    """(key path, line) of every node below, refusing keys written twice."""
    yield path, node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key_node, value_node in node.value:
            key = key_node.value
            if not isinstance(key_node, yaml.ScalarNode):
                raise InputError(f"{file}:{key_node.start_mark.line + 1}: not YAML: a key is one word")
            if key in seen:
                raise InputError(f"{file}:{key_node.start_mark.line + 1}: key '{key}' is written twice")
            seen.add(key)
            yield (*path, key), key_node.start_mark.line + 1
            for where, line in _walk(value_node, (*path, key), file):
                if where != (*path, key):
                    yield where, line
    elif isinstance(node, yaml.SequenceNode):
        for index, child in enumerate(node.value):
            yield from _walk(child, (*path, index), file)


def _first_line(error: BaseException) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    text = str(getattr(error, "problem", None) or error)
    return text.splitlines()[0] if text else type(error).__name__


def read_yaml(path: Path) -> tuple[dict[str, Any], dict[tuple[str | int, ...], int]]:
    """(content, line of each key path) of a YAML file that holds a mapping.

    Raises:
        InputError: no such file, not YAML, not a mapping, or a key written twice.
    """
    if not path.is_file():
        beside = [p.name for p in path.parent.glob("*.yaml")] if path.parent.is_dir() else []
        close = difflib.get_close_matches(path.name, beside, n=1)
        raise InputError(f"{path}: no such config" + (f"; did you mean {path.parent / close[0]}?" if close else ""))
    try:
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text, Loader=_Loader)
        lines = dict(_walk(node, (), str(path))) if node is not None else {}
        content = yaml.load(text, Loader=_Loader)  # _Loader is a SafeLoader
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a text file ({error.reason} at byte {error.start})") from None
    except NOT_YAML as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark is not None else ""
        raise InputError(f"{path}{line}: not YAML: {_first_line(error)}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: a config is a mapping of keys to values; this holds {type(content).__name__}")
    return content, lines


def validated(slot: str, content: dict[str, Any]) -> Any:
    """The component of a slot that a mapping describes, for commands that take one apart from a config.

    Raises:
        InputError: the mapping does not fit.
    """
    try:
        return resolve(slot, content["name"]).model_validate(content)
    except ValidationError as error:
        problems = [(".".join(map(str, e["loc"])), e["msg"].removeprefix("Value error, ")) for e in error.errors()]
        raise InputError("\n".join(f"{key}: {text}" if key else text for key, text in problems)) from None


def overridden(section: str, content: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A section with `section.key=value` overrides, as a whole config takes them.

    Raises:
        InputError: an override is none, or of another section.
    """
    whole = {section: content}
    for override in overrides:
        if not override.startswith(f"{section}."):
            raise InputError(f"override '{override}' is not {section}.key=value, as in {section}.name=...")
        _apply(whole, override, overrides)
    return whole[section]


def set_key(content: dict[str, Any], key: str, value: Any) -> None:
    """Writes a dotted key, as in `optim.lr`, into a config's content; sections that are missing are made.

    Raises:
        ValueError: a part of the key holds a value, not a section.
    """
    section, last = _section_of(content, tuple(key.split(".")))
    section[last] = value


def _section_of(content: dict[str, Any], path: tuple[str, ...]) -> tuple[dict[str, Any], str]:
    """The section that holds a key, and the key's last part."""
    section: Any = content
    for part in path[:-1]:
        if section.get(part) is None:
            section[part] = {}
        section = section[part]
        if not isinstance(section, dict):
            raise ValueError(f"'{part}' holds {section!r}, which has no keys")
    return section, path[-1]


def _apply(content: dict[str, Any], override: str, overrides: Sequence[str]) -> tuple[str | int, ...]:
    """Writes one `key.path=value` of `overrides` into the content."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise InputError(f"override '{override}' is not key=value, as in train.steps=100")
    path = tuple(key.split("."))
    try:
        value = yaml.load(text, Loader=_Loader) if text else None  # _Loader is a SafeLoader
    except NOT_YAML:
        raise InputError(f"override '{override}': the value is not YAML") from None
    try:
        section, last = _section_of(content, path)
    except ValueError as error:
        raise InputError(f"override '{override}': {error}") from None
    if last == "name" and len(path) > 1 and section.get(last) not in (None, value):
        prefix = ".".join(path[:-1])
        given = tuple(other.partition("=")[0] + "." for other in overrides)
        kept = [key for key in section if key != last and not any(g.startswith(f"{prefix}.{key}.") for g in given)]
        if kept:
            raise InputError(
                f"override '{override}' would keep {', '.join(kept)} of '{prefix}', written for '{section[last]}'; "
                f"give {prefix}.{kept[0]}=... as well, or start from another config"
            )
    section[last] = value
    return path


def _section_at(path: tuple[str | int, ...], content: Any) -> type[BaseModel] | None:
    """The model whose keys stand at a path, followed through components."""
    model: Any = _class_of(content)
    for part in path:
        entry = next(
            (f for name, f in model.model_fields.items() if part in (name, f.alias)),
            None,
        )
        if entry is None:
            return None
        content = content.get(part) if isinstance(content, dict) else None
        slot = next((m.slot for m in entry.metadata if isinstance(m, Slot)), None)
        if slot is not None:
            name = content.get("name") if isinstance(content, dict) else content
            try:
                model = resolve(slot, str(name))
            except InputError:
                return None
            continue
        candidates = [entry.annotation, *get_args(entry.annotation)]
        model = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)
        if model is None:
            return None
    return model


def _message(error: Any, content: dict[str, Any]) -> tuple[tuple[str | int, ...], str]:
    """(key path, message) of one pydantic error."""
    path = tuple(error["loc"])
    if error["type"] == "extra_forbidden":
        section = _section_at(path[:-1], content)
        keys = [] if section is None else [f.alias or name for name, f in section.model_fields.items()]
        usual = here_called(str(path[-1]))
        hint = f"; here it is {' and '.join(usual)}." if usual else _suggestion(str(path[-1]), keys)
        return path, f"unknown key{hint} Keys here: {', '.join(keys)}"
    if error["type"] == "missing":
        return path, "this key is missing"
    text = error["msg"].removeprefix("Value error, ")
    value = error["input"]
    shown = "" if isinstance(value, (dict, list, BaseModel)) else f" (got {value!r})"
    return path, text + ("" if error["type"] == "value_error" else shown)


def load(path: Path | str, overrides: list[str] | tuple[str, ...] = ()) -> Config:
    """The validated config of a YAML file, with `key=value` overrides applied.

    Raises:
        InputError: anything wrong, as `file:line: key: what was seen; what to do`, all problems at once.
    """
    path = Path(path)
    content, lines = read_yaml(path)
    overridden = {_apply(content, override, overrides): override for override in overrides}
    return _validate(content, lambda where: _place(where, path, lines, overridden))


def _class_of(content: Any) -> type[Config]:
    loop = content.get("loop", "offline") if isinstance(content, dict) else "offline"
    return LOOPS.get(loop, OfflineConfig) if isinstance(loop, str) else OfflineConfig  # whose own check names the loops


def _validate(content: dict[str, Any], place: Callable[[tuple[str | int, ...]], str]) -> Config:
    try:
        return _class_of(content).model_validate(content)
    except ValidationError as error:
        problems = []
        for item in error.errors(include_url=False):
            where, text = _message(item, content)
            key = ".".join(map(str, where))
            problems.append(f"{place(where)}{key + ': ' if key else ''}{text}")
        raise InputError("\n".join(problems)) from None


def _place(where: tuple[str | int, ...], path: Path, lines: dict, overridden: dict) -> str:
    for depth in range(len(where), 0, -1):
        if where[:depth] in overridden:
            return f"override '{overridden[where[:depth]]}': "
        if where[:depth] in lines:
            return f"{path}:{lines[where[:depth]]}: "
    for key, override in overridden.items():
        if where and key[: len(where)] == where:
            return f"override '{override}': "
    return f"{path}: "


def parse(content: dict[str, Any]) -> Config:
    """The validated config of a mapping, for library use."""
    return _validate(content, lambda _: "")


def dump(config: RunConfig) -> str:
    """The config as YAML with every default written out; loads to an equal config."""
    return yaml.safe_dump(config.model_dump(mode="json", by_alias=True), sort_keys=False, allow_unicode=True)
