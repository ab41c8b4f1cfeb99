"""Components: config sections that act, found by name, module or file."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import re
import sys
from pathlib import Path
from typing import Any, ClassVar, get_args

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, ValidationInfo, field_validator
from pydantic_core import CoreSchema
from pydantic_core.core_schema import no_info_before_validator_function

from t2ialign.errors import InputError

COMPONENTS: dict[str, dict[str, str]] = {
    "backbone": {
        "sd15": "t2ialign.backbones.stable_diffusion:StableDiffusion15",
        "sdxl": "t2ialign.backbones.stable_diffusion:StableDiffusionXL",
    },
    "data": {
        "labelled": "t2ialign.data.kinds.labelled:LabelledData",
        "lists": "t2ialign.data.kinds.lists:ListData",
        "pairs": "t2ialign.data.kinds.pairs:PairData",
        "singles": "t2ialign.data.kinds.singles:SingleData",
        "text_pairs": "t2ialign.data.kinds.text_pairs:TextPairData",
    },
    "noiser": {
        "forward": "t2ialign.noisers.forward:ForwardNoiser",
    },
    "objective": {
        "denoising": "t2ialign.objectives.denoising:Denoising",
        "dpo": "t2ialign.objectives.dpo:DiffusionDPO",
        "ipo": "t2ialign.objectives.ipo:IPO",
        "kto": "t2ialign.objectives.kto:DiffusionKTO",
        "lipo": "t2ialign.objectives.listwise:LiPO",
        "lpo": "t2ialign.objectives.listwise:DiffusionLPO",
        "mapo": "t2ialign.objectives.mapo:MaPO",
        "mapo_v2": "t2ialign.objectives.mapo:MaPOv2",
    },
}
"""Slot of a config -> name -> where the class lives. Nothing is imported before it is named."""


class Section(BaseModel):
    """A part of a config. Unknown keys are errors, values never change, attribute docstrings are the documentation."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _truth_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        """pydantic would read true as 1."""
        annotation = cls.model_fields[str(info.field_name)].annotation
        if isinstance(value, bool) and {annotation, *get_args(annotation)} & {int, float}:
            raise ValueError(f"Input should be a number, not {str(value).lower()}")
        return value


class Component(Section):
    """A section that acts: its keys are its constructor, its `name` says which class it is."""

    slot: ClassVar[str]
    """The key of a config under which it stands: objective, data, …"""
    name: str
    """Which component this is: a known name, `package.module:Class` or `file.py:Class`."""


def import_reference(reference: str) -> Any:
    """The object named by `package.module:attribute` or `path/to/file.py:attribute`.

    Raises:
        InputError: the file, the module or the attribute does not exist.
    """
    where, _, attribute = reference.rpartition(":")
    if not where or not attribute:
        raise InputError(f"'{reference}' is not package.module:name or file.py:name")
    if where.endswith(".py"):
        path = Path(where).resolve()
        if not path.is_file():
            raise InputError(f"{where}: no such file, named by '{reference}'")
        module_name = "t2ialign_user_" + re.sub(r"\W", "_", str(path))
        module = sys.modules.get(module_name)
        if module is None:
            spec = importlib.util.spec_from_file_location(module_name, path)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules[module_name] = module
            try:
                spec.loader.exec_module(module)
            except BaseException:
                del sys.modules[module_name]
                raise
    else:
        sys.path.insert(0, str(Path.cwd()))  # a module beside the config, as `python script.py` would see it
        try:
            module = importlib.import_module(where)
        except ModuleNotFoundError as error:
            if error.name is None or not where.startswith(error.name):
                raise
            raise InputError(f"no module '{where}', named by '{reference}'; is it installed or beside you?") from None
        finally:
            sys.path.pop(0)
    if not hasattr(module, attribute):
        raise InputError(f"{where} has no '{attribute}', named by '{reference}'")
    return getattr(module, attribute)


def resolve(slot: str, name: str) -> type[Component]:
    """The class of the component `name` of a slot.

    Raises:
        InputError: no such name, or what it names is not such a component.
    """
    known = COMPONENTS[slot]
    if name in known:
        return import_reference(known[name])
    if ":" not in name:
        raise InputError(f"unknown name '{name}'{_suggestion(name, known)} Known: {_known(known)}")
    found = import_reference(name)
    if not (isinstance(found, type) and issubclass(found, Component) and getattr(found, "slot", None) == slot):
        raise InputError(f"'{name}' is not a t2ialign {slot}: subclass the {slot} base class")
    return found


def _known(names) -> str:
    return ", ".join(sorted(names)) + ", or package.module:Class"


def _suggestion(word: str, known) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean '{close[0]}'?" if close else "."


class Slot:
    """Marks a field as holding a component, and builds it from its keys; use as `Annotated[Base, Slot("name")]`."""

    def __init__(self, slot: str):
        self.slot = slot

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return no_info_before_validator_function(self._build, handler(source))

    def _build(self, value: Any) -> Any:
        if isinstance(value, Component) or value is None:
            return value
        if isinstance(value, str):
            value = {"name": value}
        if not isinstance(value, dict) or not isinstance(value.get("name"), str):
            raise ValueError(f"give the {self.slot} a name, as in {{name: {next(iter(COMPONENTS[self.slot]))}}}")
        try:
            found = resolve(self.slot, value["name"])
        except InputError as error:
            raise ValueError(str(error)) from None
        return found.model_validate(value)
