"""A training state on disk: one safetensors file, with what is no tensor as JSON in its header."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from t2ialign.storage.atomic import atomic_write

State = dict[str, Any]
"""Nested dicts (keys are texts or integers) and lists of tensors and of what JSON knows."""
_TENSOR, _DICT = "tensor", "dict"


def save_state(path: Path, state: State) -> None:
    """Writes a state, whole or not at all."""
    tensors: dict[str, Tensor] = {}
    outline = json.dumps(_outline(state, "", tensors))
    with atomic_write(path) as partial:
        save_file(tensors, partial, metadata={"outline": outline})


def load_state(path: Path, device: str = "cpu") -> State:
    """The state that `save_state` wrote; tuples have become lists."""
    with safe_open(path, framework="pt", device=device) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
        outline = json.loads(file.metadata()["outline"])
    return _restored(outline, tensors)


def _outline(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """The value with each tensor replaced by its name in `tensors`, and dicts by items, whose keys keep their type."""
    if isinstance(value, Tensor):
        tensors[name] = value.detach().cpu().clone()  # a file holds no two tensors of one memory, as tied weights are
        return {_TENSOR: name}
    if isinstance(value, dict):
        return {_DICT: [[key, _outline(inner, f"{name}/{key}", tensors)] for key, inner in value.items()]}
    if isinstance(value, list | tuple):
        return [_outline(inner, f"{name}/{place}", tensors) for place, inner in enumerate(value)]
    return value


def _restored(outline: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(outline, dict):
        if _TENSOR in outline:
            return tensors[outline[_TENSOR]]
        return {key: _restored(inner, tensors) for key, inner in outline[_DICT]}
    if isinstance(outline, list):
        return [_restored(inner, tensors) for inner in outline]
    return outline
