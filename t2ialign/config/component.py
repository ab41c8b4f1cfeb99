"""Components: config sections that act, found by name, module or file."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, get_args

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, ValidationInfo, field_validator
from pydantic_core import CoreSchema
from pydantic_core.core_schema import no_info_before_validator_function

from t2ialign.errors import EnvironmentProblem, InputError, Stopped, UserError

COMPONENTS: dict[str, dict[str, str]] = {
    "backbone": {
        "sd15": "t2ialign.backbones.stable_diffusion:StableDiffusion15",
        "sdxl": "t2ialign.backbones.stable_diffusion:StableDiffusionXL",
    },
    "data": {
        "labelled": "t2ialign.data.kinds.labelled:LabelledData",
        "lists": "t2ialign.data.kinds.lists:ListData",
        "pairs": "t2ialign.data.kinds.pairs:PairData",
        "prompts": "t2ialign.data.kinds.prompts:PromptData",
        "singles": "t2ialign.data.kinds.singles:SingleData",
        "text_pairs": "t2ialign.data.kinds.text_pairs:TextPairData",
    },
    "noiser": {
        "forward": "t2ialign.noisers.forward:ForwardNoiser",
        "inversion": "t2ialign.noisers.inversion:InversionNoiser",
        "self_rollout": "t2ialign.noisers.self_rollout:SelfRolloutNoiser",
        "transitions": "t2ialign.noisers.transitions:TransitionNoiser",
    },
    "objective": {
        "awm": "t2ialign.objectives.forward_rl:AWM",
        "denoising": "t2ialign.objectives.denoising:Denoising",
        "dpo": "t2ialign.objectives.dpo:DiffusionDPO",
        "grpo": "t2ialign.objectives.grpo:GRPO",
        "ipo": "t2ialign.objectives.ipo:IPO",
        "kto": "t2ialign.objectives.kto:DiffusionKTO",
        "lipo": "t2ialign.objectives.listwise:LiPO",
        "lpo": "t2ialign.objectives.listwise:DiffusionLPO",
        "mapo": "t2ialign.objectives.mapo:MaPO",
        "mapo_v2": "t2ialign.objectives.mapo:MaPOv2",
        "nft": "t2ialign.objectives.forward_rl:DiffusionNFT",
    },
    "reward": {
        "aesthetic": "t2ialign.rewards.aesthetic:Aesthetic",
        "brightness": "t2ialign.rewards.pixels:brightness",
        "clip_score": "t2ialign.rewards.clip_family:ClipScore",
        "hpsv2": "t2ialign.rewards.clip_family:HPSv2",
        "http": "t2ialign.rewards.service.client:HttpReward",
        "image_reward": "t2ialign.rewards.image_reward:ImageReward",
        "jpeg_size": "t2ialign.rewards.pixels:jpeg_size",
        "ocr": "t2ialign.rewards.ocr:OcrMatch",
        "pickscore": "t2ialign.rewards.clip_family:PickScore",
        "saturation": "t2ialign.rewards.pixels:saturation",
        "shapes.all_right": "t2ialign.shapes.reward:all_right",
        "shapes.faithfulness": "t2ialign.shapes.reward:faithfulness",
        "shapes.mixed": "t2ialign.shapes.reward:mixed",
        "shapes.prefers": "t2ialign.shapes.reward:prefers",
        "shapes.taste": "t2ialign.shapes.reward:taste",
        "sharpness": "t2ialign.rewards.pixels:sharpness",
        "vlm.prefers": "t2ialign.rewards.vlm.components:VLMPrefers",
        "vlm.scores": "t2ialign.rewards.vlm.components:VLMScores",
    },
}
"""Slot of a config -> name -> where the class lives. Nothing is imported before it is named."""

RESOLVERS = {"reward": "t2ialign.rewards.registry:component_class"}
"""Slot -> name -> class, for slots whose components need not be classes: a reward may be a plain function."""


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
        module = sys.modules.get(module_name) or _execute(module_name, path)
    else:
        try:
            with _importing_from(Path.cwd(), where):
                module = importlib.import_module(where)
        except ModuleNotFoundError:
            raise InputError(f"no module '{where}', named by '{reference}'; is it installed or beside you?") from None
    if not hasattr(module, attribute):
        raise InputError(f"{where} has no '{attribute}', named by '{reference}'")
    return getattr(module, attribute)


def _execute(name: str, path: Path) -> ModuleType:
    """The module of a file, which sees what lies beside it, as `python file.py` does."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        with _importing_from(path.parent, str(path)):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


@contextmanager
def _importing_from(folder: Path, what: str) -> Iterator[None]:
    """Puts a folder first on the import path; what the imported code raises becomes one message.

    Raises:
        InputError: the code raised something.
        EnvironmentProblem: a package that it needs is missing.
    """
    sys.path.insert(0, str(folder))
    try:
        yield
    except (UserError, Stopped, KeyboardInterrupt):
        raise
    except ModuleNotFoundError as error:
        if f"{what}.".startswith(f"{error.name}."):  # the module itself
            raise
        raise EnvironmentProblem(_said(what, error)) from error
    except BaseException as error:
        raise InputError(_said(what, error)) from error
    finally:
        if str(folder) in sys.path:
            sys.path.remove(str(folder))


def _said(what: str, error: BaseException) -> str:
    """What a module that cannot be imported raised, and where."""
    if isinstance(error, SyntaxError):
        return f"{error.filename or what}:{error.lineno or 1}: not Python: {error.msg}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<frozen")]
    file, line = frames[-1].filename, frames[-1].lineno
    text = " ".join(str(error).split())[:300]
    for_whom = "" if file == what else f"; imported by {what}"
    return f"{file}:{line}: raised {type(error).__name__}{f': {text}' if text else ''}{for_whom}"


def resolve(slot: str, name: str) -> type[Component]:
    """The class of the component `name` of a slot.

    Raises:
        InputError: no such name, or what it names is not such a component.
    """
    if slot in RESOLVERS:
        return import_reference(RESOLVERS[slot])(name)
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


@contextmanager
def input_error_as_value_error() -> Iterator[None]:
    """For validators: to a ValueError pydantic adds the key of the config."""
    try:
        yield
    except InputError as error:
        raise ValueError(str(error)) from None


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
        with input_error_as_value_error():
            found = resolve(self.slot, value["name"])
        return found.model_validate(value)
