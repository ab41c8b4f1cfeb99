"""A model's training schedule, as its scheduler's config states it or the user overrules it."""

from __future__ import annotations

from typing import Any

from diffusers import DDIMScheduler

from t2ialign.backbones.hub import one_line
from t2ialign.backbones.single_files import Stated
from t2ialign.errors import InputError
from t2ialign.schedules import TimestepSpacing, VPSchedule


def set_prediction(pipeline: Any, name: str, stated: Stated, zero_terminal_snr: bool | None) -> None:
    """Gives a pipeline a scheduler with another prediction type or terminal signal-to-noise ratio.

    Args:
        name: of the model, for messages.
        stated: what the user or a single file's marks state; None keeps the prediction type of the config.
        zero_terminal_snr: overrules the marks; None keeps them, or the config where there are none.

    Raises:
        InputError: zero terminal SNR with epsilon-prediction, which says nothing of x_0 at the last timestep.
    """
    changes: dict[str, Any] = {}
    if stated.prediction_type is not None:
        changes["prediction_type"] = stated.prediction_type
    if zero_terminal_snr is not None or stated.zero_terminal_snr:
        zero = zero_terminal_snr is not False
        changes["rescale_betas_zero_snr"] = zero
        if zero:
            changes["timestep_spacing"] = "trailing"  # sampling must begin at the last timestep
    if changes:
        pipeline.scheduler = ddim_scheduler({"clip_sample": False, **pipeline.scheduler.config, **changes}, name)
    found = pipeline.scheduler.config
    if found.get("rescale_betas_zero_snr") and found.get("prediction_type") == "epsilon":
        raise InputError(
            f"{name}: zero terminal SNR (ztsnr) needs v-prediction, and this model predicts epsilon; "
            "set backbone.prediction_type or backbone.zero_terminal_snr to what it was trained with"
        )


def read_schedule(scheduler: Any, name: str) -> tuple[VPSchedule, TimestepSpacing]:
    """The training schedule and the sampler's spacing, read as diffusers' DDIM reads the same config.

    Raises:
        InputError: another kind of schedule, a damaged config, or a prediction type that is not known.
    """
    if DDIMScheduler not in (type(scheduler), *scheduler.compatibles):
        raise InputError(f"{name}: its {type(scheduler).__name__} is not a schedule that SD1.5 and SDXL know")
    ddim = ddim_scheduler(scheduler.config, name)
    config = ddim.config
    if config["prediction_type"] not in ("epsilon", "v_prediction"):
        raise InputError(f"{name}: predicts '{config['prediction_type']}'; known: epsilon, v_prediction")
    spacing, offset = config["timestep_spacing"], config["steps_offset"]
    if spacing not in ("leading", "trailing", "linspace") or not isinstance(offset, int):
        raise InputError(f"{name}: its scheduler has timestep_spacing {spacing!r} and steps_offset {offset!r}")
    return VPSchedule.from_scheduler(ddim), {"spacing": spacing, "offset": offset}


def ddim_scheduler(config: Any, name: str) -> Any:
    """diffusers' DDIM of another scheduler's config.

    Raises:
        InputError: the config is damaged.
    """
    try:
        return DDIMScheduler.from_config(config)
    except Exception as error:  # a damaged config fails anywhere in diffusers
        raise InputError(f"{name}: its scheduler's config cannot be used: {one_line(error)}") from error
