"""The folder of a run: whose it is, whether it is finished, and what it says of itself."""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import torch
import yaml

from t2ialign.config.reader import dump, parse, read_yaml
from t2ialign.config.schema import RunConfig
from t2ialign.errors import InputError, UserError
from t2ialign.storage.atomic import atomic_write
from t2ialign.training import checkpoint

CONFIG = "config.yaml"
DATA = "data.json"
"""Which rows and files of the data are used, and which are not and why."""
IN_USE = "another process is training here; wait for it or use another run_dir"
"""Why a run folder is refused whose lock is held."""
PACKAGES = ("t2ialign", "torch", "diffusers", "transformers", "peft", "accelerate", "numpy")
COMPARED_BY_CONTENT = (
    "run_dir",
    "backbone.pretrained",
    "backbone.vae",
    "lora.init",
    "data.path",
    "data.made_by",
    "data.exclude",
    "data.cache.folder",
)
"""Keys that say where something lies; what lies there is compared by its fingerprint when a checkpoint is restored."""


def result_path(config: RunConfig) -> Path:
    """What a finished run leaves: the folder of its LoRA, or of its whole denoiser."""
    return config.run_dir / ("unet" if config.lora is None else "lora")


def average_path(config: RunConfig) -> Path:
    """The average of the trained weights where one is kept, else those of the end."""
    result = result_path(config)
    return result if config.optim.ema_decay is None else result.with_name(f"{result.name}-ema")


def is_finished(config: RunConfig) -> bool:
    """Whether all steps are done and the result is written."""
    last = config.run_dir / "checkpoints" / checkpoint.name(config.train.steps)
    return result_path(config).is_dir() and checkpoint.verify(last) is None


def check_same_config(config: RunConfig) -> None:
    """Checks that the run may start, or continue, in its folder.

    Raises:
        InputError: the folder belongs to another config, or has more steps than are asked for.
    """
    path = config.run_dir / CONFIG
    if not path.is_file():
        return
    before, _ = read_yaml(path)
    old, new = flat_keys(_with_defaults(before)), flat_keys(yaml.safe_load(dump(config)))
    changeable = _changeable(config)
    changed = [
        f"{key}: {old.get(key)!r} there, {new.get(key)!r} now"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and not key.startswith(changeable)
    ]
    if changed:
        raise InputError(
            f"{config.run_dir}: holds a run of another config ({'; '.join(changed[:5])}). "
            "Use another run_dir, or remove the folder if that run is not needed."
        )
    done = checkpoint.newest_beyond(config.run_dir / "checkpoints", config.train.steps)
    if done is not None:
        raise InputError(
            f"{config.run_dir}: {done} steps are done, more than train.steps {config.train.steps}; give at least "
            f"{done}, or use another run_dir"
        )


def _with_defaults(content: dict[str, Any]) -> dict[str, Any]:
    """A run's config with the keys that it was written without, as they are newer, at their defaults."""
    try:
        return yaml.safe_load(dump(parse(content)))
    except UserError:  # a key is gone, or a file of an objective: the differences name it
        return content


def _changeable(config: RunConfig) -> tuple[str, ...]:
    """How keys begin that may differ from one start of this run to the next: they do not change what is learnt."""
    keys = [*COMPARED_BY_CONTENT, "train.loader_workers", "train.gradient_checkpointing", "train.shard"]
    keys += ["checkpoint.", "validate.", "monitor.", "rollout.kept_groups", "trackers"]
    if not config.batch_dependence and config.data.crop != "bucket":
        keys.append("train.micro_batch")
    if config.optim.schedule == "constant":
        keys.append("train.steps")
    return tuple(keys)


def flat_keys(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{'optim.lr': 1e-4, …} of nested sections."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, dict) and value:
            flat.update(flat_keys(cast(dict[str, Any], value), f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def write_run_manifest(config: RunConfig) -> None:
    """Makes the run folder this config's: writes the resolved config and the environment into it."""
    with atomic_write(config.run_dir / CONFIG) as partial:
        partial.write_text(dump(config))
    environment = {
        "packages": {name: version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "machine": platform.platform(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine(),
        "threads": torch.get_num_threads(),
    }
    with atomic_write(config.run_dir / "environment.json") as partial:
        partial.write_text(json.dumps(environment, indent=1))
