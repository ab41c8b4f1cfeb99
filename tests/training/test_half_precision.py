"""float16: the loss is scaled, batches whose gradients overflow are skipped, and what is trained is float32."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from rich.console import Console
from toys import pair_folder, saved_lora, write_config

from t2ialign.config.reader import load
from t2ialign.training.trackers import read_metrics
from t2ialign.training.train import train


@pytest.mark.slow
def test_a_run_in_fp16_skips_what_overflows_learns_goes_on_exactly_and_saves_float32(sdxl_folder: Path, tmp_path: Path):
    pairs = pair_folder(tmp_path / "pairs")

    def run(name: str, *overrides: str) -> list[dict[str, float]]:
        path = write_config(tmp_path / f"{name}.yaml", model=sdxl_folder, pairs=pairs, run_dir=tmp_path / name)
        path.write_text(path.read_text().replace("name: sd15", "name: sdxl"))
        train(load(path, ["train.precision=fp16", *overrides]), console=Console(quiet=True))
        keys = ("step", "loss", "grad_norm", "samples_seen")
        return [{key: row[key] for key in keys} for row in read_metrics(tmp_path / name / "metrics.jsonl")]

    whole = run("whole")
    state = json.loads((tmp_path / "whole" / "checkpoints" / "step-000003" / "state.json").read_text())
    halved = math.log2(2**16 / state["loss_scale"][0])
    assert whole[-1]["samples_seen"] == 4 * (3 + halved)
    assert all(math.isfinite(row["loss"]) and math.isfinite(row["grad_norm"]) for row in whole)
    run("part", "train.steps=2")
    assert run("part") == whole
    weights = saved_lora(tmp_path / "part")
    assert all(torch.equal(weights[name], tensor) for name, tensor in saved_lora(tmp_path / "whole").items())
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
