"""Exports a model or the result of a run: its files, and the card that says what they are."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
import yaml

from t2ialign.config.reader import dump
from t2ialign.errors import InputError
from t2ialign.export.card import model_card, public_name, without_local_paths
from t2ialign.export.loras import LoraWriter
from t2ialign.export.merged import write_merged
from t2ialign.export.source import Source, Weights
from t2ialign.storage.atomic import atomic_directory

Form = Literal["diffusers", "kohya", "merged"]
"""diffusers and kohya: LoRA files; merged: a whole pipeline with the LoRAs in its weights."""


def export_model(
    out: Path,
    source: Source,
    form: Form,
    *,
    dtype: torch.dtype = torch.float32,
    checkpoints_of: Path | None = None,
    weights: Weights = "policy",
) -> Path:
    """Writes a folder with the source in another form and a model card.

    Args:
        out: a new folder.
        dtype: of the tensors.
        checkpoints_of: a run of which every checkpoint is written too.
        weights: which of the checkpoints'.

    Raises:
        InputError: `out` exists, or the source cannot be written in this form.
        TryAgainError: the disk is full.
    """
    if out.exists():
        raise InputError(f"{out}: exists already; give a new folder")
    if source.unet is not None and form != "merged":
        raise InputError(f"{source.unet}: a whole UNet, not a LoRA; write its pipeline with --to merged")
    if checkpoints_of is not None and form == "merged":
        raise InputError("--checkpoints writes LoRAs; give --to diffusers or --to kohya")
    with atomic_directory(out) as partial:
        if form == "merged":
            write_merged(partial, source, dtype)
        else:
            writer = LoraWriter(source, form, dtype)
            if checkpoints_of is not None:
                writer.write_checkpoints(partial, checkpoints_of, weights)
            if source.loras or checkpoints_of is None:
                writer.write(partial)
        (partial / "README.md").write_text(_card(source, form), encoding="utf-8")
    return out


def _card(source: Source, form: Form) -> str:
    content = None
    if source.config is not None:
        shown = without_local_paths(yaml.safe_load(dump(source.config)))
        content = yaml.safe_dump(shown, sort_keys=False, allow_unicode=True)
    kind = "pipeline" if form == "merged" else "LoRA"
    return model_card(source.made, kind=kind, usage=_usage(source, form), config=content)


def _usage(source: Source, form: Form) -> str:
    base = public_name(source.backbone.pretrained)
    if form == "kohya":
        return (
            "Put the file where your program looks for LoRAs (ComfyUI: `models/loras`; web UIs: `models/Lora`) and "
            f"load it at strength 1 with the base `{base}`. Each layer's alpha is in it.\n"
        )
    base = "this folder" if form == "merged" else base
    load = "" if form == "merged" else 'pipeline.load_lora_weights("this folder")\n'
    return (
        f"```python\nfrom diffusers import DiffusionPipeline\n\n"
        f'pipeline = DiffusionPipeline.from_pretrained("{base}")\n{load}```\n'
    )
