"""What a finished run leaves: a LoRA that plain diffusers reads, or the whole denoiser, and a model card."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, cast

from diffusers.models.modeling_utils import ModelMixin

from t2ialign.backbones.lora import save_lora
from t2ialign.backbones.lora_write import summed_parts
from t2ialign.config.reader import dump
from t2ialign.config.schema import Config, RunConfig
from t2ialign.export.card import made_by, model_card
from t2ialign.policy import EMA, LEARNER
from t2ialign.storage.atomic import atomic_directory, atomic_write
from t2ialign.training.core import Core
from t2ialign.training.run_folder import average_path, result_path


def save_result(config: Config, core: Core) -> None:
    """Writes the trained weights, their average if one is kept, and a model card; called as `save_weights` is.

    Raises:
        TryAgainError: the disk is full.
    """
    result = result_path(config)
    with core.engine.learnt_weights():
        save_weights(config, core, result, "policy")
    if config.optim.ema_decay is not None:
        save_weights(config, core, average_path(config), "ema")
    if core.parallel.is_main:
        with atomic_write(result / "README.md") as partial:
            partial.write_text(_model_card(config, core.engine.step), encoding="utf-8")


def save_weights(config: RunConfig, core: Core, folder: Path, weights: Literal["policy", "ema"]) -> None:
    """Writes the LoRA with its true alpha, or the whole denoiser; every process calls it where that is sharded.

    Beside the adapter stands what `lora.init` changes in the text encoders, which is not trained.

    Raises:
        TryAgainError: the disk is full; what stood there before is untouched.
    """
    if config.lora is None:
        module = core.parallel.gather_network(core.policy.network(weights))
        if module is not None:
            with atomic_directory(folder) as partial:
                cast(ModelMixin, module).save_pretrained(partial)  # pyright: ignore[reportUnknownMemberType]
        return
    adapter = LEARNER if weights == "policy" else EMA
    made = made_by(config, core.engine.step)
    text = summed_parts(core.policy.backbone.text_loras)
    save_lora(folder, core.policy.denoiser, adapter, family=config.backbone.family, extra=made, text=text)


def _model_card(config: Config, steps: int) -> str:
    kind, load = "LoRA", 'pipeline.load_lora_weights("this folder")'
    if config.lora is None:
        kind, load = "UNet", 'pipeline.unet = UNet2DConditionModel.from_pretrained("this folder")'
    return model_card(made_by(config, steps), kind=kind, usage=f"```python\n{load}\n```\n", config=dump(config))
