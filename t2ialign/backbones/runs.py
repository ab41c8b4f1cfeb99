"""Run folders as models: the base that a run was trained on, with what it learnt."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from t2ialign.backbones.hub import is_hub_name
from t2ialign.backbones.lora_checks import FILE_NAME
from t2ialign.config.reader import read_yaml
from t2ialign.errors import InputError


class TrainedModel(NamedTuple):
    """What a run, or one of the results in its folder, stands for."""

    backbone: dict[str, Any]
    """The section `backbone` of the run's config: its base."""
    result: Path
    """The folder of the LoRA or of the whole UNet."""

    @property
    def is_lora(self) -> bool:
        return (self.result / FILE_NAME).is_file()


def read_run(path: str | Path) -> TrainedModel | None:
    """The model that a run folder stands for, or a result in it, such as `runs/mine/lora-ema`; None of any other path.

    Raises:
        InputError: the run has no result yet, its config is damaged, or its base is not here.
    """
    given = Path(path).expanduser()
    if (given / "model_index.json").is_file():
        return None
    if (given / "config.yaml").is_file():
        result = next((given / kind for kind in ("lora", "unet") if (given / kind).is_dir()), None)
        config = given / "config.yaml"
    else:
        result = given if (given / FILE_NAME).is_file() or (given / "config.json").is_file() else None
        config = given.resolve().parent / "config.yaml"
        if result is None or not config.is_file():
            return None
    backbone = read_yaml(config)[0].get("backbone")
    if not isinstance(backbone, dict) or not {"name", "pretrained"} <= backbone.keys():
        raise InputError(f"{config}: not the config of a run: its section backbone names no model")
    if result is None:
        raise InputError(f"{given}: a run without a result; finish it: t2ialign train {config}")
    backbone.pop("long_prompts", None)  # of earlier versions, which knew one value
    _check_base(given, str(backbone["pretrained"]))
    return TrainedModel(backbone, result)


def stated_by_run(model: str, key: str) -> Any:
    """What the run that is a model, or the run that it was trained on, says of a key of `backbone`; None if nothing."""
    run = read_run(model)
    if run is None:
        return None
    own = run.backbone.get(key)
    return stated_by_run(str(run.backbone["pretrained"]), key) if own is None else own


def _check_base(run: Path, base: str) -> None:
    if not Path(base).expanduser().exists() and not is_hub_name(base):
        raise InputError(
            f"{run}: was trained on {base}, which is not here; run the command where it is, or give the base as the "
            "model and the run beside it (--model BASE --lora RUN; a full fine-tune as --unet RUN)"
        )
