"""A config beside the shipped one of its method, and beside what the method's authors published."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from t2ialign.config.reader import dump, load, read_yaml
from t2ialign.config.schema import RunConfig
from t2ialign.storage.resources import find_shipped
from t2ialign.training.run_folder import flat_keys

PUBLISHED = "# As published"
"""How the lines of a config's head begin that give the published values as overrides."""
METHOD = ("objective.", "noiser.", "data.name", "data.reverse")
"""Keys that say which method a config is."""
COMPARED = (*METHOD, "data.prompt_dropout", "data.resolution", "data.desirable_share", "lora", "optim.", "rollout.",
            "advantage.", "train.steps", "train.effective_batch")  # fmt: skip
"""Keys that have a part in what is learnt. train.micro_batch and the like have none."""
NOT_THERE = "-"


class Difference(NamedTuple):
    """A key whose value is not the shipped or the published one."""

    key: str
    here: str
    shipped: str
    published: str | None
    """None where no published values are known."""


class Recipe(NamedTuple):
    """The shipped config that a config is nearest to."""

    path: Path
    has_published: bool
    """Whether its head gives the published values."""
    differences: list[Difference]

    def lines(self) -> Iterator[str]:
        """The differences in words, below the name of the config."""
        known = "what its authors published" if self.has_published else "no published values are known for this model"
        yield f"beside {self.path} and {known}:" if self.has_published else f"beside {self.path}; {known}"
        for found in self.differences:
            published = "" if found.published is None else f", published {found.published}"
            yield f"  {found.key} is {found.here}; shipped {found.shipped}{published}"
        if not self.differences:
            yield "  nothing differs"


def nearest_recipe(config: RunConfig) -> Recipe | None:
    """The shipped config of the same objective and model family that has most keys of the method in common.

    None where no shipped config has this objective.
    """
    here = _compared(config)
    ranked = sorted((_distance(here, config, path), path) for path in _candidates(config))
    if not ranked:
        return None
    path = ranked[0][1]
    shipped = _compared(load(path))
    overrides = published_overrides(path)
    published = _compared(load(path, overrides)) if overrides else None
    return Recipe(path, published is not None, list(_differences(here, shipped, published)))


def published_overrides(path: Path) -> list[str]:
    """The overrides that make a shipped config what the method's authors published; empty where none are given."""
    head = path.read_text(encoding="utf-8").partition("\n" + PUBLISHED)[2].splitlines()
    lines: list[str] = []
    for line in head[1:]:
        if not line.startswith("#   "):
            break
        lines.append(line)
    return re.findall(r"[\w.]+=\S+", " ".join(lines))


def _candidates(config: RunConfig) -> Iterator[Path]:
    folder = find_shipped("configs")
    for path in () if folder is None else sorted(folder.glob("*.yaml")):
        content, _ = read_yaml(path)
        if (content["objective"]["name"], content["backbone"]["name"]) == (config.objective.name, config.backbone.name):
            yield path


def _distance(here: dict[str, Any], config: RunConfig, path: Path) -> tuple[int, int]:
    """Keys of the method that differ, and those of anything else; another base model is one of the method's."""
    other = load(path)
    there = _compared(other)
    different = [key for key in here.keys() | there.keys() if here.get(key) != there.get(key)]
    another = _is_shapes(other) != _is_shapes(config)
    return sum(key.startswith(METHOD) for key in different) + another, len(different)


def _is_shapes(config: RunConfig) -> bool:
    """Whether it trains one of the embedded models, whose recipes are their own."""
    return Path(config.backbone.pretrained).name.startswith("shapes-")


def _compared(config: RunConfig) -> dict[str, Any]:
    content = yaml.safe_load(dump(config))
    lora = content["lora"]
    content["lora"] = "none" if lora is None else f"rank {lora['rank']}, alpha {lora['alpha']:g}, {lora['targets']}"
    found = flat_keys(content)
    return {key: value for key, value in found.items() if key.startswith(COMPARED)}


def _differences(
    here: dict[str, Any], shipped: dict[str, Any], published: dict[str, Any] | None
) -> Iterator[Difference]:
    others = [shipped] if published is None else [shipped, published]
    for key in dict.fromkeys(key for found in (here, *others) for key in found):
        if any(_value(here, key) != _value(other, key) for other in others):
            values = [_value(other, key) for other in others]
            yield Difference(key, _value(here, key), values[0], values[1] if published is not None else None)


def _value(found: dict[str, Any], key: str) -> str:
    value = found.get(key, NOT_THERE)
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)
