"""What is computed once and shared, in two real processes: stored trajectories and the reference's errors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from jobs import Job
from safetensors.torch import load_file
from toys import saved_lora

from t2ialign.training.reference_errors import CARRIED

pytestmark = pytest.mark.slow
STORED = "noiser: {name: inversion, steps: 4, weights: reference, levels: 3, draws: 2}"
MORE = {"noiser: {name: forward}": STORED, "micro_batch: 2": "micro_batch: 1"}
KILLED = ["cache:5@0", "cache:2@0", "step:4@1", "write:2@0", "rename:1@0", "step:6@0", "finish"]
"""First while trajectories are stored, of which process 0 has two shards, then with half of the errors known."""


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory, sd15_folder: Path) -> Job:
    """Six pairs, of which a shard holds two: in one process (`alone`), in two (`whole`), and in two that are killed."""
    job = Job(tmp_path_factory.mktemp("two"), sd15_folder, more=MORE)
    assert job.run({"alone": ["finish"]}) == {"alone": [0]}
    codes = job.run({"whole": ["finish"], "killed": KILLED}, script="killed_ranks.py")
    assert codes["whole"] == [0], job.log("whole")
    assert codes["killed"] == [-9] * (len(KILLED) - 1) + [0], job.log("killed")
    return job


def stored(job: Job, name: str) -> dict[str, bytes]:
    """The shards of trajectories."""
    return {path.name: path.read_bytes() for path in (job.folder / name).glob("cache/trajectories-*/*.safetensors")}


def errors(job: Job, name: str, step: int) -> torch.Tensor:
    """The reference's errors in the checkpoint of a step. [rows, draws, views]"""
    (tensor,) = load_file(job.folder / name / "checkpoints" / f"step-{step:06d}" / f"{CARRIED}.safetensors").values()
    return tensor


def test_two_processes_store_the_trajectories_and_errors_of_one_bit_by_bit(job: Job):
    assert len(stored(job, "whole")) == 3
    assert stored(job, "whole") == stored(job, "alone")
    assert errors(job, "whole", job.steps).shape == (6, 2, 2)
    assert errors(job, "whole", job.steps).isfinite().all()
    assert torch.equal(errors(job, "whole", job.steps), errors(job, "alone", job.steps))


def test_two_processes_learn_what_one_learns(job: Job):
    # gradients are summed in another order, which costs about 5e-7 of a loss and 2e-6 of the weights
    alone, whole = ([row["loss"] for row in job.rows(name)] for name in ("alone", "whole"))
    assert whole == pytest.approx(alone, rel=1e-5)
    one, other = (saved_lora(job.folder / name) for name in ("alone", "whole"))
    for name, tensor in one.items():
        assert (other[name] - tensor).norm() <= 1e-4 * tensor.norm() + 1e-7, name


def test_two_processes_that_are_killed_go_on_bit_by_bit(job: Job):
    job.assert_same("killed")
    assert stored(job, "killed") == stored(job, "whole")
    assert torch.equal(errors(job, "killed", job.steps), errors(job, "whole", job.steps))
    assert "continuing from step 2 of 8" in job.log("killed")
