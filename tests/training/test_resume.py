"""Killed at any moment, the same command goes on, and its losses equal an uninterrupted run's bit by bit."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from jobs import Job

from t2ialign.training.trackers import read_metrics

KILLED = ["cache:2", "step:2", "after:2", "write:1", "rename:1", "write:2", "after:3", "result:1", "finish"]
STOPPED = ["stop_cache:2", "stop:3", "stop:5", "finish", "finish"]
MORE = {
    "lora: {": "lora: {dropout: 0.3, ",
    "optim: {": "optim: {ema_decay: 0.9, schedule: cosine, warmup_steps: 2, ",
    "data: {": "data: {flip: 0.5, prompt_dropout: 0.5, ",
}


class Ended:
    """A job and the exit codes of its starts."""

    def __init__(self, job: Job, codes: dict[str, list[int]]):
        self.job = job
        self.codes = codes


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory, sd15_folder: Path) -> Ended:
    job = Job(tmp_path_factory.mktemp("resume"), sd15_folder)
    return Ended(job, job.run({"whole": ["finish"], "killed": KILLED, "stopped": STOPPED}))


def test_killed_in_steps_and_while_saving_and_caching_it_goes_on_as_if_nothing_had_happened(ended: Ended):
    assert ended.codes["whole"] == [0]
    assert ended.codes["killed"] == [-9] * (len(KILLED) - 1) + [0]
    ended.job.assert_same("killed")
    assert "continuing from step 2 of 8" in ended.job.log("killed")


def test_ctrl_c_saves_the_step_in_progress_and_exits_with_130(ended: Ended):
    assert ended.codes["stopped"] == [130, 130, 130, 0, 0]
    ended.job.assert_same("stopped")
    log = ended.job.log("stopped")
    assert "stopped; the same command goes on from what is saved" in log
    assert "stopped after step 3; saved. The same command goes on from there." in log
    assert "continuing from step 5" in log
    assert "is finished: 8 steps" in log


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_killed_at_random_times(tmp_path: Path, sd15_folder: Path, workers: int):
    job = Job(tmp_path, sd15_folder, steps=120)
    codes = job.run({"whole": ["finish"]})
    # kills come within a sixth of what this machine needs in all, so that at least four hit before the end
    needed = sum(row["seconds"] for row in read_metrics(tmp_path / "whole" / "metrics.jsonl"))
    times = random.Random(workers)
    moments = [f"time:{times.uniform(0.05, 0.2 + needed / 6):.2f}" for _ in range(16)]
    codes |= job.run({"random": [*moments, "finish"]}, workers=workers)
    assert codes["whole"] == [0]
    assert set(codes["random"]) <= {-9, 0}
    assert codes["random"].count(-9) >= 4
    job.assert_same("random")


@pytest.mark.slow
def test_killed_at_every_moment_with_loader_workers(tmp_path: Path, sd15_folder: Path):
    job = Job(tmp_path, sd15_folder)
    codes = {**job.run({"whole": ["finish"]}), **job.run({"killed": KILLED}, workers=2)}
    assert codes["killed"] == [-9] * (len(KILLED) - 1) + [0]
    job.assert_same("killed")


@pytest.mark.slow
def test_killed_with_dropout_average_schedule_and_validation(tmp_path: Path, sd15_folder: Path):
    (tmp_path / "prompts.txt").write_text("a red circle\n")
    look = f"validate: {{every_steps: 3, prompts: {tmp_path / 'prompts.txt'}, inference_steps: 2}}\nnoiser:"
    job = Job(tmp_path, sd15_folder, more={**MORE, "noiser:": look})
    codes = job.run({"whole": ["finish"], "killed": KILLED})
    assert codes["killed"] == [-9] * (len(KILLED) - 1) + [0]
    job.assert_same("killed")
    sheets = [{p.name: p.read_bytes() for p in (tmp_path / n / "validation").iterdir()} for n in ("whole", "killed")]
    assert sorted(sheets[0]) == [f"step-{step:06d}.{kind}" for step in (0, 3, 6, 8) for kind in ("json", "png")]
    assert sheets[0] == sheets[1]
