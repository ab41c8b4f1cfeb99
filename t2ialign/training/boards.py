"""Where a run is looked at while it trains: TensorBoard, and the trackers that accelerate knows."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import yaml
from accelerate.tracking import (  # pyright: ignore[reportMissingTypeStubs]
    LOGGER_TYPE_TO_CLASS,  # pyright: ignore[reportUnknownVariableType]
    GeneralTracker,
)
from PIL import Image

from t2ialign.config.component import import_reference
from t2ialign.config.reader import dump
from t2ialign.config.schema import RunConfig
from t2ialign.config.trackers import TrackerConfig, named_trackers
from t2ialign.errors import EnvironmentProblem, InputError
from t2ialign.training.run_folder import flat_keys
from t2ialign.training.trackers import Board

TENSORBOARD = "tensorboard"
PROJECT = "t2ialign"
"""Project, or experiment, of the trackers that have them; `project` of a tracker's section names another."""
RUN_NAME = {"wandb": "name", "trackio": "name", "swanlab": "experiment_name", "mlflow": "run_name"}
"""Tracker -> its argument for the name of a run."""
ONE_IMAGE = ("aim", "clearml")
"""Trackers of accelerate that take an image, where the others take a list."""


class TensorBoard:
    """The folder `tensorboard` of a run. A run that goes on drops what was lost with it."""

    def __init__(self, config: RunConfig, step: int):
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(config.run_dir / TENSORBOARD), purge_step=step + 1)
        if step == 0:
            self._writer.add_text("config", "\n".join(f"    {line}" for line in dump(config).splitlines()), 0)

    def __str__(self) -> str:
        return TENSORBOARD

    def log(self, values: Mapping[str, float], step: int) -> None:
        for key, value in values.items():
            self._writer.add_scalar(key, value, step)

    def image(self, tag: str, image: Image.Image, step: int) -> None:
        self._writer.add_image(tag, np.asarray(image), step, dataformats="HWC")

    def close(self) -> None:
        self._writer.close()


class AccelerateBoard:
    """A tracker of accelerate, which gets the config, numbers, and images where accelerate has it log images.

    Raises:
        EnvironmentProblem: it cannot be started, for example because nobody is logged in.
    """

    def __init__(self, tracker: TrackerConfig, config: RunConfig):
        self._name = tracker.name
        found: Any = tracker_class(tracker.name)
        options = tracker.options
        project = options.pop("project", PROJECT)
        if tracker.name in RUN_NAME:
            options.setdefault(RUN_NAME[tracker.name], config.run_dir.resolve().name)
        if found.requires_logging_directory:
            options.setdefault("logging_dir", str(config.run_dir))
        try:
            self._tracker: Any = found(project, **options)
            self._tracker.start()
            self._tracker.store_init_configuration(_plain(config))
        except Exception as error:
            raise EnvironmentProblem(
                f"trackers: {tracker.name} cannot be started ({type(error).__name__}: {error}); correct its section or "
                "its login, or leave it out"
            ) from error

    def __str__(self) -> str:
        return f"tracker {self._name}"

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._tracker.log(dict(values), step=step)

    def image(self, tag: str, image: Image.Image, step: int) -> None:
        log_images = getattr(self._tracker, "log_images", None)
        if log_images is not None:
            log_images({tag: image if self._name in ONE_IMAGE else [image]}, step=step)

    def close(self) -> None:
        self._tracker.finish()


def _plain(config: RunConfig) -> dict[str, Any]:
    """{dotted key: value} of the config, lists as text."""
    keys = flat_keys(yaml.safe_load(dump(config)))
    return {key: value if isinstance(value, str | int | float | None) else str(value) for key, value in keys.items()}


def tracker_class(name: str) -> type[GeneralTracker]:
    """The class of a tracker.

    Raises:
        InputError: accelerate knows none of this name, or `package.module:Class` is no tracker.
    """
    if ":" in name:
        found = import_reference(name)
        if not (isinstance(found, type) and issubclass(found, GeneralTracker)):
            raise InputError(f"trackers: {name} is no class of accelerate's GeneralTracker")
        return found
    known = cast("dict[str, type[GeneralTracker]]", LOGGER_TYPE_TO_CLASS)
    if name not in known:
        raise InputError(f"trackers: unknown '{name}'; known: {', '.join(known)}, or package.module:Class")
    return known[name]


def check_trackers(trackers: Sequence[str | TrackerConfig]) -> None:
    """Checks, without starting anything, that each tracker exists and its package is installed.

    Raises:
        InputError: no such tracker, or TensorBoard has options.
        EnvironmentProblem: a package is missing.
    """
    for tracker in named_trackers(trackers):
        tracker_class(tracker.name)
        if tracker.name == TENSORBOARD and tracker.options:
            raise InputError(f"trackers: {TENSORBOARD} takes no options ({', '.join(tracker.options)})")
        if ":" not in tracker.name and importlib.util.find_spec(tracker.name) is None:
            raise EnvironmentProblem(
                f"trackers: {tracker.name} is not installed; pip install {tracker.name}, or leave it out"
            )


def open_boards(config: RunConfig, step: int) -> list[Board]:
    """The boards of a run that goes on from `step`.

    Raises:
        EnvironmentProblem: one cannot be started.
    """
    return [
        TensorBoard(config, step) if tracker.name == TENSORBOARD else AccelerateBoard(tracker, config)
        for tracker in named_trackers(config.trackers)
    ]
