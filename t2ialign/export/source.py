"""What is exported: a model with LoRAs, as the command line names them or as a run left them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from safetensors.torch import load_file
from torch import nn

from t2ialign.backbones.adapters import LEARNER
from t2ialign.backbones.base import BackboneConfig
from t2ialign.backbones.facts import empty_denoiser, read_facts
from t2ialign.backbones.lora import add_training_adapters
from t2ialign.backbones.lora_checks import DENOISER, FILE_NAME, lora_folder, provenance
from t2ialign.backbones.lora_layout import Parts
from t2ialign.backbones.lora_origin import PEFT_FILE
from t2ialign.backbones.lora_read import LoraFile, read_parts
from t2ialign.backbones.lora_write import adapter_layers, summed_parts
from t2ialign.backbones.outline import outline_text_encoders
from t2ialign.config.reader import load
from t2ialign.config.schema import RunConfig
from t2ialign.errors import InputError
from t2ialign.export.card import made_by, public_name
from t2ialign.models import backbone_section
from t2ialign.training import checkpoint
from t2ialign.training.run_folder import CONFIG, result_path

Weights = Literal["policy", "ema", "best"]
"""Whose result of a run: of its last step, their average, or the best by `validate.best`."""


class Networks(NamedTuple):
    """What LoRAs adapt; names and shapes of the layers are read of them, not the weights."""

    denoiser: nn.Module
    text_encoders: Mapping[str, nn.Module]
    """By their names in the pipeline."""


class Source(NamedTuple):
    """What is exported."""

    name: str
    """Of the files that are written."""
    backbone: BackboneConfig
    loras: dict[str, float]
    """LoRA file or folder -> scale."""
    unet: Path | None
    """The folder of a fine-tuned UNet that takes the place of the base's."""
    made: dict[str, Any]
    """See `card.made_by`."""
    config: RunConfig | None
    """Of the run that it comes from."""

    def networks(self) -> Networks:
        """The base's, without their weights where files state their shapes."""
        facts = read_facts(self.backbone.pretrained, self.backbone.revision, self.backbone.unet)
        if facts is not None:
            return Networks(empty_denoiser(facts), outline_text_encoders(facts, self.backbone.family))
        built = self.backbone.build(torch.device("cpu"), torch.float32)
        return Networks(built.denoiser, built.text_encoders)

    def parts(self, networks: Networks) -> Parts:
        """Its LoRAs as one.

        Raises:
            InputError: there is none, one cannot be used, or one of several is a DoRA.
        """
        if not self.loras:
            raise InputError(
                f"{self.backbone.pretrained}: there is no LoRA to write; write the whole model with --to merged"
            )
        family = self.backbone.family
        read = [(read_parts(lora_folder(path), *networks, family=family), scale) for path, scale in self.loras.items()]
        try:
            return summed_parts(read)
        except ValueError as error:
            raise InputError(f"{', '.join(self.loras)}: {error}; write the whole model with --to merged") from None


def source_of_model(
    model: str, loras: Mapping[str, float], family: str | None, backbone: Mapping[str, object] | None
) -> Source:
    """A model with LoRAs.

    Raises:
        InputError: the family is not known, or a LoRA does not exist.
    """
    section = backbone_section(model, family, backbone)
    stated = [provenance(lora_folder(path)) for path in loras]
    made = stated[0] if len(stated) == 1 else {}
    if len(loras) > 1:
        made = {"loras": {public_name(path): scale for path, scale in loras.items()}}
    made = {**made, "family": section.family, "base": model}
    return Source(_name(next(iter(loras), model)), section, dict(loras), None, made, None)


def _name(path: str) -> str:
    """What a model or LoRA is called: after its folder, or its file where not every LoRA's is called so."""
    given = Path(path).expanduser().resolve()
    if given.name in (FILE_NAME, PEFT_FILE):
        return given.parent.name
    return given.stem if given.is_file() else given.name


def source_of_run(run: Path, weights: Weights = "policy", *, finished: bool = True) -> Source:
    """The result of a run.

    Args:
        finished: the result has to be there already.

    Raises:
        InputError: it is no run's folder, or has no such result.
    """
    if not (run / CONFIG).is_file():
        raise InputError(f"{run}: no folder of a run (it has no {CONFIG}); give one, or --model and --lora")
    config = load(run / CONFIG)
    result = run / result_path(config).name
    result = result if weights == "policy" else result.with_name(f"{result.name}-{weights}")
    if finished and not result.is_dir():
        known = ", ".join(path.name for path in sorted(run.glob(f"{result_path(config).name}*")))
        steps = [path.name for path in checkpoints(run)]
        there = known or (f"checkpoints: {', '.join(steps)}; add --checkpoints" if steps else "nothing was saved yet")
        raise InputError(f"{run}: has no {result.name}; there is {there}")
    name = run.resolve().name + ("" if weights == "policy" else f"-{weights}")
    is_lora = config.lora is not None
    made = made_by(config, config.train.steps)
    if is_lora and finished:
        made |= provenance(result)
    loras = {str(result): 1.0} if is_lora and finished else {}
    backbone = config.backbone if is_lora else config.backbone.model_copy(update={"unet": str(result)})
    return Source(name, backbone, loras, None if is_lora else result, made, config)


def is_unfinished(run: Path) -> bool:
    """Whether a run has no result yet."""
    return not any((run / name).is_dir() for name in ("lora", "unet"))


def checkpoints(run: Path) -> list[Path]:
    """The whole checkpoints of a run, oldest first."""
    return [path for path in sorted((run / "checkpoints").glob("step-*")) if checkpoint.verify(path) is None]


def checkpoint_parts(folder: Path, source: Source, weights: Weights, networks: Networks) -> Parts:
    """The LoRA that a checkpoint holds, with what `lora.init` changes in the text encoders.

    Args:
        networks: the denoiser gets an adapter if it has none.

    Raises:
        InputError: the run keeps no such average.
    """
    assert source.config is not None
    assert source.config.lora is not None
    denoiser, lora, family = networks.denoiser, source.config.lora, source.backbone.family
    if not hasattr(denoiser, "peft_config"):
        with next(denoiser.parameters()).device:  # adapters on the meta device too, where the denoiser is there
            add_training_adapters(denoiser, lora, family=family, seed=source.config.seed, keeps_ema=False)
    file = folder / f"{'trained' if weights == 'policy' else weights}.safetensors"
    if not file.is_file():
        raise InputError(f"{folder}: holds no weights '{weights}'; leave --weights out")
    tensors = {key.replace(f".{weights}.", f".{LEARNER}."): tensor for key, tensor in load_file(file).items()}
    denoiser.load_state_dict(tensors, strict=False, assign=True)
    text = {} if lora.init is None else LoraFile(lora.init).text(networks.text_encoders, family=family)
    return {DENOISER: adapter_layers(denoiser, LEARNER), **text}
