"""What a finished run leaves: a LoRA that plain diffusers reads, or the whole denoiser, and a model card."""

from __future__ import annotations

from diffusers.models.modeling_utils import ModelMixin

from t2ialign.backbones.lora import save_lora
from t2ialign.config.reader import dump
from t2ialign.config.schema import Config
from t2ialign.policy import EMA, LEARNER
from t2ialign.storage.atomic import atomic_directory, atomic_write
from t2ialign.training.core import Core
from t2ialign.training.run_folder import result_path


def save_result(config: Config, core: Core) -> None:
    """Writes the LoRA with its true alpha, or the whole denoiser, and a model card.

    Raises:
        TryAgainError: the disk is full.
    """
    result = result_path(config)
    if config.lora is None:
        for name, module in {"unet": core.policy.denoiser, "unet-ema": core.policy.copies.get("ema")}.items():
            if isinstance(module, ModelMixin):
                with atomic_directory(config.run_dir / name) as partial:
                    module.save_pretrained(partial)  # pyright: ignore[reportUnknownMemberType]
    else:
        extra = {
            "base": config.backbone.pretrained,
            "objective": config.objective.name,
            "noiser": config.noiser.name,
            "steps": core.engine.step,
            "seed": config.seed,
        }
        denoiser, family = core.policy.denoiser, config.backbone.family
        save_lora(result, denoiser, LEARNER, family=family, extra=extra)
        if config.optim.ema_decay is not None:
            save_lora(config.run_dir / "lora-ema", denoiser, EMA, family=family, extra=extra)
    with atomic_write(result / "README.md") as partial:
        partial.write_text(_model_card(config, core.engine.step))


def _model_card(config: Config, steps: int) -> str:
    kind = "LoRA" if config.lora is not None else "UNet"
    load = 'pipeline.load_lora_weights("this folder")'
    if config.lora is None:
        load = 'pipeline.unet = UNet2DConditionModel.from_pretrained("this folder")'
    return (
        f"# {kind} trained with t2ialign\n\n"
        f"Base model: `{config.backbone.pretrained}` ({config.backbone.family}). "
        f"Objective `{config.objective.name}`, {steps} steps of {config.train.effective_batch} examples."
        "\n\n"
        f"```python\n{load}\n```\n\nThe whole config:\n\n```yaml\n{dump(config)}```\n"
    )
