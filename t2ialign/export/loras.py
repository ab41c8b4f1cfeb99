"""LoRAs as files for diffusers, or for ComfyUI and others that read kohya's layout; one, or one a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch

from t2ialign.backbones.lora_checks import DENOISER, FILE_NAME
from t2ialign.backbones.lora_layout import Parts
from t2ialign.backbones.lora_write import peft_config, write_diffusers, write_kohya
from t2ialign.errors import InputError
from t2ialign.export.card import header
from t2ialign.export.source import Source, Weights, checkpoint_parts, checkpoints

Layout = Literal["diffusers", "kohya"]


class LoraWriter:
    """Writes the LoRAs of a source.

    Args:
        source: what is exported.
        layout: of the files.
        dtype: of their tensors.
    """

    def __init__(self, source: Source, layout: Layout, dtype: torch.dtype = torch.float32):
        self._source, self._layout, self._dtype = source, layout, dtype
        self._networks = source.networks()

    def write(self, out: Path) -> Path:
        """Writes the source's LoRA into a folder, under the name that readers of its layout look for.

        Raises:
            InputError: there is none, or it cannot be used.
            TryAgainError: the disk is full.
        """
        path = out / (FILE_NAME if self._layout == "diffusers" else f"{self._source.name}.safetensors")
        self._write(path, self._source.parts(self._networks), self._source.made)
        return path

    def write_checkpoints(self, out: Path, run: Path, weights: Weights) -> list[Path]:
        """Writes a file for each whole checkpoint of a run, named by its step.

        Raises:
            InputError: there are none, or the run keeps no such weights.
            TryAgainError: the disk is full.
        """
        files: list[Path] = []
        for folder in checkpoints(run):
            files.append(out / f"{self._source.name}-{folder.name}.safetensors")
            parts = checkpoint_parts(folder, self._source, weights, self._networks)
            self._write(files[-1], parts, {**self._source.made, "steps": int(folder.name.removeprefix("step-"))})
        if not files:
            raise InputError(f"{run}: has no whole checkpoint; leave --checkpoints out")
        return files

    def _write(self, path: Path, parts: Parts, made: Mapping[str, Any]) -> None:
        settings = peft_config(parts.get(DENOISER) or next(iter(parts.values())))
        stated = {"ss_network_dim": f"{settings.r}", "ss_network_alpha": f"{settings.lora_alpha:g}"}
        entries = {**header(made), **stated, "ss_output_name": path.stem}
        if self._layout == "diffusers":
            write_diffusers(path, parts, entries, self._dtype)
        else:
            write_kohya(path, parts, self._networks.denoiser, entries, self._dtype)
