"""Trackers: numbers, images and the config of a run, no keys, and no say in whether it goes on."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from stub_tracker import Recorder
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from toys import pair_folder, write_config

from t2ialign.config.reader import load
from t2ialign.config.schema import Config
from t2ialign.errors import EnvironmentProblem, InputError
from t2ialign.training.boards import check_trackers
from t2ialign.training.trackers import read_metrics
from t2ialign.training.train import train

RECORDER = "stub_tracker:Recorder"


@pytest.fixture
def place(tmp_path: Path, sd15_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(Recorder, "calls", [])
    pairs = pair_folder(tmp_path / "pairs")
    (tmp_path / "fixed.txt").write_text("a red circle\n")
    write_config(tmp_path / "run.yaml", model=sd15_folder, pairs=pairs, run_dir=tmp_path / "run")
    return tmp_path


def config(place: Path, trackers: str, *more: str) -> Config:
    validate = [f"validate.prompts={place / 'fixed.txt'}", "validate.inference_steps=1", "validate.every_steps=2"]
    return load(place / "run.yaml", [*validate, "train.steps=2", f"trackers={trackers}", *more])


def calls(kind: str) -> list[Any]:
    return [content for name, content in Recorder.calls if name == kind]


def test_a_tracker_gets_the_config_every_number_and_the_sheets(place: Path):
    train(config(place, f"[tensorboard, {{name: {RECORDER}, project: mine}}]"))
    assert calls("made") == [("mine", str(place / "run"))]
    (keys,) = calls("config")
    assert keys["optim.lr"] == 1e-3
    assert keys["optim.betas"] == "[0.9, 0.999]"
    rows = read_metrics(place / "run" / "metrics.jsonl")
    assert [{"step": step, **values} for step, values in calls("log")] == rows
    assert [(step, list(images)) for step, images in calls("images")] == [(s, ["validation/images"]) for s in (0, 2)]
    assert isinstance(calls("images")[0][1]["validation/images"][0], Image.Image)
    assert [name for name, _ in Recorder.calls][-1] == "finish"


def test_tensorboard_shows_config_numbers_and_captioned_sheets(place: Path):
    train(config(place, "[tensorboard]"))
    board = EventAccumulator(str(place / "run" / "tensorboard"))
    board.Reload()
    assert [event.step for event in board.Scalars("loss")] == [1, 2]
    assert [event.step for event in board.Images("validation/images")] == [0, 2]
    with Image.open(place / "run" / "validation" / "step-000002.png") as sheet:
        shown = board.Images("validation/images")[-1]
        assert (shown.width, shown.height) == sheet.size
    (text,) = board.Tensors("config/text_summary")
    assert b"effective_batch" in text.tensor_proto.string_val[0]


def test_no_tracker_is_no_tracker_and_the_record_stays(place: Path):
    train(config(place, "[]"))
    assert not (place / "run" / "tensorboard").exists()
    assert len(read_metrics(place / "run" / "metrics.jsonl")) == 2


def test_trackers_may_change_between_two_starts(place: Path):
    train(config(place, "[]"))
    train(config(place, f"[{RECORDER}]", "train.steps=4"))
    assert [step for step, _ in calls("log")] == [3, 4]


def test_a_tracker_that_fails_is_left_out_and_training_goes_on(place: Path, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING, logger="t2ialign"):
        train(config(place, f"[{{name: {RECORDER}, fails_at: 1}}]"))
    assert calls("log") == []
    (said,) = [record.message for record in caplog.records if "tracker" in record.message]
    assert said == f"tracker {RECORDER} failed (ConnectionError: gone) and is left out; training goes on"
    assert len(read_metrics(place / "run" / "metrics.jsonl")) == 2


def test_a_tracker_that_cannot_be_started_is_one_message(place: Path):
    with pytest.raises(EnvironmentProblem, match=r"Recorder cannot be started \(ValueError: not logged in\)"):
        train(config(place, f"[{{name: {RECORDER}, broken: true}}]"))


@pytest.mark.parametrize("option", ["api_key", "token", "WANDB_API_KEY", "password"])
def test_keys_are_refused_and_written_nowhere(place: Path, option: str):
    with pytest.raises(InputError, match=f"{option} of wandb may hold a key") as refused:
        config(place, f"[{{name: wandb, {option}: s3cr3t}}]")
    assert not (place / "run").exists()
    assert "s3cr3t" not in str(refused.value).partition("override")[0]


@pytest.mark.parametrize(
    ("trackers", "error", "message"),
    [
        ("[tensorbord]", InputError, "trackers: unknown 'tensorbord'; known: aim, "),
        ("[pathlib:Path]", InputError, "trackers: pathlib:Path is no class of accelerate's GeneralTracker"),
        ("[{name: tensorboard, project: x}]", InputError, "trackers: tensorboard takes no options (project)"),
        ("[wandb]", EnvironmentProblem, "trackers: wandb is not installed; pip install wandb, or leave it out"),
    ],
)
def test_a_wrong_tracker_is_refused_before_anything_is_loaded(
    place: Path, monkeypatch: pytest.MonkeyPatch, trackers: str, error: type[Exception], message: str
):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "wandb" else name)
    with pytest.raises(error) as refused:
        check_trackers(config(place, trackers).trackers)
    assert message in str(refused.value)


def test_a_tracker_is_named_once(place: Path):
    with pytest.raises(InputError, match="tensorboard, tensorboard: name each tracker once"):
        config(place, "[tensorboard, tensorboard]")
