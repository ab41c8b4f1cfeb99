"""LoRA files read: from any layout to the matrices of the layers of a denoiser and of text encoders."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from t2ialign.backbones.hub import one_line
from t2ialign.backbones.lora_checks import (
    DENOISER,
    check_adapts_denoiser,
    check_is_lora,
    lora_file,
    stated_settings,
)
from t2ialign.backbones.lora_layout import LoraMatrices, Target, denoiser_target, read_matrices
from t2ialign.backbones.lora_origin import check_family
from t2ialign.backbones.lora_text import split_text, text_target
from t2ialign.errors import InputError


class LoraFile:
    """A LoRA in a file, or in a folder that holds one, in any layout that `lora_layout` lists.

    Raises:
        InputError: no such file, no LoRA or DoRA, or damaged.
    """

    def __init__(self, path: Path):
        self.file = lora_file(path)
        self._tensors, self._header = _read(self.file)
        check_is_lora(self.file, self._tensors)
        self._denoiser, self._text = split_text(self._tensors)

    def check_family(self, family: str, text_width: int | None = None) -> None:
        """Checks that it was made for a family; see `lora_origin.check_family`.

        Raises:
            InputError: it was made for another.
        """
        check_family(self.file, self._tensors, self._header, text_width, family)

    @property
    def adapts_denoiser(self) -> bool:
        """Whether it has a part for the denoiser."""
        return bool(self._denoiser)

    @property
    def adapts_text(self) -> bool:
        """Whether it has a part for a text encoder."""
        return bool(self._text)

    def denoiser(self, denoiser: nn.Module, *, family: str) -> dict[str, LoraMatrices]:
        """The matrices of a denoiser's layers, each with its own rank and alpha, and a DoRA's magnitudes.

        Args:
            denoiser: its weights are not read.
            family: architecture of the denoiser.

        Raises:
            InputError: it has no such part, or was made for another architecture.
        """
        self.check_family(family, cast(Any, denoiser).config.cross_attention_dim)
        check_adapts_denoiser(self.file, self._tensors)
        return self._matrices(self._denoiser, denoiser_target(denoiser), DENOISER)

    def text(self, encoders: Mapping[str, nn.Module], *, family: str) -> dict[str, dict[str, LoraMatrices]]:
        """The matrices of text encoders' layers, by encoder; empty where it has none.

        Args:
            encoders: of the pipeline, by their names there; their weights are not read.
            family: architecture of the model.

        Raises:
            InputError: it adapts an encoder that is not there, or was made for another architecture.
        """
        self.check_family(family)
        for part, tensors in self._text.items():
            if part not in encoders:
                raise InputError(
                    f"{self.file}: adapts a {part.replace('_', ' ')} (tensor {next(iter(tensors))}), which the model, "
                    f"a '{family}', has not; give the model that the LoRA was made for"
                )
        return {
            part: self._matrices(tensors, text_target(part, encoders[part]), part)
            for part, tensors in self._text.items()
        }

    def _matrices(self, tensors: Mapping[str, Tensor], target: Target, part: str) -> dict[str, LoraMatrices]:
        return read_matrices(tensors, self._settings(part), target, str(self.file))

    def _settings(self, part: str) -> dict[str, Any]:
        """What `stated_settings` finds, checked to be a LoRA's.

        Raises:
            InputError: it is damaged, missing, or of another method.
        """
        settings, place = stated_settings(self.file, self._tensors, self._header, part)
        if settings.get("peft_type", "LORA") != "LORA":
            raise InputError(f"{place}: holds a {settings['peft_type']}; give a LoRA")
        for key in ("alpha_pattern", "rank_pattern"):
            if not isinstance(settings.get(key) or {}, dict):
                raise InputError(f"{place}: damaged ({key} is no object); get the file again")
        return settings


def read_parts(
    path: Path, denoiser: nn.Module, encoders: Mapping[str, nn.Module], *, family: str
) -> dict[str, dict[str, LoraMatrices]]:
    """All parts of a saved LoRA, by their names in the pipeline: unet, text_encoder, text_encoder_2.

    Raises:
        InputError: see `LoraFile`.
    """
    lora = LoraFile(path)
    own = {DENOISER: lora.denoiser(denoiser, family=family)} if lora.adapts_denoiser else {}
    return own | lora.text(encoders, family=family)


def _read(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and header of a safetensors file."""
    try:
        with safe_open(file, framework="pt") as opened:
            return {key: opened.get_tensor(key) for key in opened.keys()}, opened.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{file}: not a readable safetensors file ({one_line(error)}); get it again") from error
