"""Configs: plain YAML in, validated sections out, and one clear message for whatever is wrong.

A component (data, noiser, objective, backbone) is its own config section: a pydantic model that acts. Components are
named in `COMPONENTS`, or by `package.module:Class` or `file.py:Class` for a class of the user's own, which goes through
the same validation and gets the same messages.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializeAsAny,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.functional_validators import BeforeValidator

from t2ialign.errors import InputError

COMPONENTS: dict[str, dict[str, str]] = {
    "backbone": {
        "sd15": "t2ialign.backbones.stable_diffusion:StableDiffusion15",
        "sdxl": "t2ialign.backbones.stable_diffusion:StableDiffusionXL",
    },
    "data": {
        "labelled": "t2ialign.data.labelled:LabelledData",
        "lists": "t2ialign.data.lists:ListData",
        "pairs": "t2ialign.data.pairs:PairData",
        "singles": "t2ialign.data.pairs:SingleData",
        "text_pairs": "t2ialign.data.text_pairs:TextPairData",
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
"""Kind -> name in a config -> where the class lives. Nothing is imported before it is named."""


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

    kind: ClassVar[str]
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


def resolve(kind: str, name: str) -> type[Component]:
    """The class of the component `name` of a kind.

    Raises:
        InputError: no such name, or what it names is not such a component.
    """
    known = COMPONENTS[kind]
    if name in known:
        return import_reference(known[name])
    if ":" not in name:
        raise InputError(f"unknown name '{name}'{_suggestion(name, known)} Known: {_known(known)}")
    found = import_reference(name)
    if not (isinstance(found, type) and issubclass(found, Component) and getattr(found, "kind", None) == kind):
        raise InputError(f"'{name}' is not a t2ialign {kind}: subclass the {kind} base class")
    return found


def _known(names) -> str:
    return ", ".join(sorted(names)) + ", or package.module:Class"


def _suggestion(word: str, known) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean '{close[0]}'?" if close else "."


class _Kind:
    """Marks a field as holding a component of a kind."""

    def __init__(self, kind: str):
        self.kind = kind


def component(kind: str, *, optional: bool = False) -> Any:
    """The annotation of a field that holds a component of this kind, or nothing where it is optional."""

    def build(value: Any) -> Any:
        if isinstance(value, Component) or (optional and value is None):
            return value
        if isinstance(value, str):
            value = {"name": value}
        if not isinstance(value, dict) or not isinstance(value.get("name"), str):
            raise ValueError(f"give the {kind} a name, as in {{name: {next(iter(COMPONENTS[kind]))}}}")
        try:
            found = resolve(kind, value["name"])
        except InputError as error:
            raise ValueError(str(error)) from None
        return found.model_validate(value)

    held = SerializeAsAny[Component] | None if optional else SerializeAsAny[Component]
    return Annotated[held, BeforeValidator(build), _Kind(kind)]


class Lora(Section):
    """Low-rank adapters on the denoiser (Hu et al. 2021, arXiv:2106.09685)."""

    rank: int = Field(16, ge=1)
    """Rank of each adapter."""
    alpha: float = Field(16, gt=0)
    """Adapter outputs are scaled by alpha / rank."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout on the adapters' inputs; above 0 the policy differs from the reference at the start."""
    targets: Literal["attention", "attention+ff", "all"] = "attention"
    """Which layers get an adapter: attention projections, also the feed-forward layers, or also convolutions."""
    init: Path | None = None
    """A saved LoRA to start from; it becomes the reference too."""


class Optim(Section):
    """AdamW and its schedule, counted in optimizer steps."""

    name: Literal["adamw", "adamw8bit"] = "adamw"
    """adamw8bit needs the extra `bnb` and a GPU."""
    lr: float = Field(gt=0)
    """Learning rate, as used: nothing scales it by batch size or processes."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's decay rates."""
    eps: float = Field(1e-8, gt=0)
    """AdamW's epsilon."""
    weight_decay: float = Field(1e-2, ge=0)
    """Decoupled weight decay."""
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    """What follows the warm-up; cosine and linear end at 0."""
    warmup_steps: int = Field(0, ge=0)
    """Optimizer steps of linear warm-up."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Gradients are clipped to this global norm."""
    ema_decay: float | None = Field(None, gt=0, lt=1)
    """Decay of an exponential moving average of the trained weights; none is kept if empty."""


class Train(Section):
    """How long, how much at once, how precise."""

    steps: int = Field(ge=1)
    """Optimizer steps in all, whatever was done before a restart."""
    effective_batch: int = Field(ge=1)
    """Examples (pairs, for DPO) in one optimizer step, over all processes and accumulation."""
    micro_batch: int = Field(ge=1)
    """Examples in one forward pass of one process; changes memory and speed, and of objective kto alone the result."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Precision of frozen weights and of the forward pass; trained weights, schedule and losses stay fp32."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a quarter more time."""
    attention: Literal["default", "math", "xformers"] = "default"
    """Attention backend: torch's own, plain matrix products (fastest for small models on a CPU), or xformers."""
    compile: bool = False
    """Compile the denoiser with torch.compile."""
    loader_workers: int = Field(0, ge=0)
    """Processes that read data ahead."""


class Checkpoint(Section):
    """When state is saved, and how much of it is kept."""

    every_steps: int = Field(100, ge=1)
    """Optimizer steps between checkpoints."""
    keep: int = Field(2, ge=1)
    """Newest checkpoints kept."""


class Validate(Section):
    """What is looked at while training: images of fixed prompts and seeds, the base on the left, and held-out pairs."""

    every_steps: int = Field(100, ge=1)
    """Optimizer steps between validations; there is also one before the first step and one after the last."""
    prompts: Path | None = None
    """A text file, one prompt a line. Without it no images are made."""
    max_prompts: int = Field(8, ge=1)
    """How many of them, from the top."""
    guidance_scale: float = Field(5.0, ge=1)
    """Classifier-free guidance of the images."""
    inference_steps: int = Field(30, ge=1)
    """DDIM steps of the images."""
    rewards: list[str] = []
    """Rewards measured on the images, for base and policy; not used in training."""
    pairs: component("data", optional=True) = None  # type: ignore[valid-type]
    """Held-out pairs, of images or of prompts: how often the policy orders them as their labels do."""
    max_pairs: int = Field(200, ge=2)
    """How many of them, drawn once by the run's seed."""
    draws: int = Field(5, ge=1)
    """Looks at each pair, at fixed timesteps and noise."""

    @property
    def compares(self) -> bool:
        """Whether anything is measured."""
        return self.prompts is not None or self.pairs is not None


class Config(Section):
    """One run: `t2ialign train FILE` builds everything from this."""

    loop: Literal["offline"] = "offline"
    """Kind of training: from stored examples."""
    run_dir: Path
    """Folder of everything this run needs or makes."""
    seed: int = Field(0, ge=0)
    """The seed of all randomness."""
    backbone: component("backbone")  # type: ignore[valid-type]
    """The pretrained model."""
    lora: Lora | None = None
    """Train adapters; without this section the whole denoiser is trained."""
    data: component("data")  # type: ignore[valid-type]
    """The examples."""
    noiser: component("noiser")  # type: ignore[valid-type]
    """How a noisy latent is reached."""
    objective: component("objective")  # type: ignore[valid-type]
    """The loss."""
    optim: Optim
    """The optimizer."""
    train: Train
    """Length, batch and precision."""
    checkpoint: Checkpoint = Field(default_factory=lambda: Checkpoint.model_validate({}))
    """Saved states."""
    validation: Validate = Field(default_factory=lambda: Validate.model_validate({}), alias="validate")
    """Images and scores along the way."""

    model_config = ConfigDict(serialize_by_alias=True, validate_by_alias=True)

    @model_validator(mode="after")
    def _batch_divides(self) -> Config:
        effective, micro = self.train.effective_batch, self.train.micro_batch
        if effective % micro:
            raise ValueError(
                f"train.effective_batch {effective} is not a multiple of train.micro_batch {micro}; "
                f"nearest: {max(micro, effective - effective % micro)} or {effective - effective % micro + micro}"
            )
        return self


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
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark is not None else ""
        raise InputError(f"{path}{line}: not YAML: {getattr(error, 'problem', error)}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: a config is a mapping of keys to values; this holds {type(content).__name__}")
    return content, lines


def validated(kind: str, content: dict[str, Any]) -> Any:
    """The component of a kind that a mapping describes, for commands that take one apart from a config.

    Raises:
        InputError: the mapping does not fit.
    """
    try:
        return resolve(kind, content["name"]).model_validate(content)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, e['loc']))}: {e['msg'].removeprefix('Value error, ')}" for e in error.errors()]
        raise InputError("\n".join(problems)) from None


def _apply(content: dict[str, Any], override: str, overrides: Sequence[str]) -> tuple[str | int, ...]:
    """Writes one `key.path=value` of `overrides` into the content."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise InputError(f"override '{override}' is not key=value, as in train.steps=100")
    path = tuple(key.split("."))
    try:
        value = yaml.load(text, Loader=_Loader) if text else None  # _Loader is a SafeLoader
    except yaml.YAMLError:
        raise InputError(f"override '{override}': the value is not YAML") from None
    section: Any = content
    for part in path[:-1]:
        if section.get(part) is None:
            section[part] = {}
        section = section[part]
        if not isinstance(section, dict):
            raise InputError(f"override '{override}': '{part}' holds {section!r}, which has no keys")
    last = path[-1]
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
    model: Any = Config
    for part in path:
        entry = next(
            (f for name, f in model.model_fields.items() if part in (name, f.alias)),
            None,
        )
        if entry is None:
            return None
        content = content.get(part) if isinstance(content, dict) else None
        kind = next((m.kind for m in entry.metadata if isinstance(m, _Kind)), None)
        if kind is not None:
            name = content.get("name") if isinstance(content, dict) else content
            try:
                model = resolve(kind, str(name))
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
        return path, f"unknown key{_suggestion(str(path[-1]), keys)} Keys here: {', '.join(keys)}"
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


def _validate(content: dict[str, Any], place) -> Config:
    try:
        return Config.model_validate(content)
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


def dump(config: Config) -> str:
    """The config as YAML with every default written out; loads to an equal config."""
    return yaml.safe_dump(config.model_dump(mode="json", by_alias=True), sort_keys=False, allow_unicode=True)


def keys() -> Iterator[tuple[str, str, str, str]]:
    """(key, type, default, documentation) of every config key, components included."""
    yield from _keys(Config, "")
    for kind, known in COMPONENTS.items():
        for name in known:
            yield from _keys(resolve(kind, name), f"{kind}[{name}].", skip="name")


def _keys(model: type[BaseModel], prefix: str, skip: str | None = None) -> Iterator[tuple[str, str, str, str]]:
    for name, entry in model.model_fields.items():
        if name == skip:
            continue
        candidates = [entry.annotation, *get_args(entry.annotation)]
        section = next((c for c in candidates if isinstance(c, type) and issubclass(c, Section)), None)
        is_component = any(isinstance(m, _Kind) for m in entry.metadata)
        key = prefix + (entry.alias or name)
        if section is not None and not is_component:
            yield key, "section", "", entry.description or ""
            yield from _keys(section, key + ".")
            continue
        default = "required" if entry.is_required() else str(entry.get_default(call_default_factory=True))
        yield key, _type_name(entry.annotation) if not is_component else "component", default, entry.description or ""


def _type_name(annotation: Any) -> str:
    if isinstance(annotation, type):
        return annotation.__name__
    return str(annotation).replace("typing.", "").replace("pathlib.", "").replace("NoneType", "None")
