"""Processes that do not agree stop before training, and say which of them differs and in what."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from toys import pair_folder, write_config

from t2ialign.config.reader import load
from t2ialign.config.schema import RunConfig
from t2ialign.errors import DataError, EnvironmentProblem, InputError
from t2ialign.training.agreement import check_together
from t2ialign.training.parallel import SingleProcess


class First(SingleProcess):
    """The first of two processes; the second says the same but for some changes."""

    world_size = 2

    def __init__(self, **changes: Any):
        self.changes = changes
        self.said: dict[str, Any] = {}

    def gather(self, text: str) -> list[str]:
        self.said = json.loads(text)
        return [text, json.dumps({**self.said, **self.changes})]


@pytest.fixture
def config(sd15_folder: Path, tmp_path: Path) -> RunConfig:
    pairs = pair_folder(tmp_path / "pairs", 4)
    return load(write_config(tmp_path / "x.yaml", model=sd15_folder, pairs=pairs, run_dir=tmp_path / "x"), [])


def test_processes_that_agree_go_on(config: RunConfig):
    parallel = First()
    assert check_together(config, parallel).accumulation == 1
    assert {"config optim.lr", "data rows", "data fingerprint", "version torch"} <= parallel.said.keys()


@pytest.mark.parametrize(
    ("changes", "kind", "says"),
    [
        (
            {"config optim.lr": "0.002"},
            InputError,
            r"process 1 differs from process 0 \(config optim.lr: 0.001 there, 0.002",
        ),
        ({"data rows": "3"}, InputError, "data rows: 4 there, 3 here"),
        ({"data fingerprint": "abc"}, InputError, "data fingerprint: .* there, abc here"),
        ({"version torch": "2.0"}, EnvironmentProblem, r"version torch: .* there, 2.0 here\); give all processes the"),
        ({"problem": [4, "no image a.png"]}, DataError, "process 1 cannot run: no image a.png"),
        ({f"config {n}": "1" for n in range(9)}, InputError, "config 4: None there, 1 here and 4 more"),
    ],
)
def test_a_process_that_differs_is_named_with_what_differs(
    config: RunConfig, changes: dict[str, Any], kind: type[Exception], says: str
):
    with pytest.raises(kind, match=says):
        check_together(config, First(**changes))


def test_a_process_that_cannot_run_tells_the_others_and_raises_what_is_wrong(config: RunConfig):
    parallel = First()
    config = config.model_copy(update={"data": config.data.model_copy(update={"path": Path("nowhere")})})
    with pytest.raises(InputError, match="nowhere"):
        check_together(config, parallel)
    code, message = parallel.said["problem"]
    assert code == 2
    assert "nowhere" in message


RANK = """
import os, sys, torch, torch.distributed as dist
from t2ialign.errors import TryAgainError
from t2ialign.training.parallel import open_parallel
rank = int(sys.argv[2])
dist.init_process_group("gloo", init_method=f"file://{sys.argv[1]}/rendezvous", rank=rank, world_size=2)
parallel = open_parallel()
assert parallel.gather(f"I am {rank}") == ["I am 0", "I am 1"]
if rank == 1:
    os._exit(9)
try:
    parallel.sum(torch.ones(1))
    parallel.barrier()
except TryAgainError as error:
    print(error)
os._exit(0)
"""


@pytest.mark.slow
def test_a_process_that_loses_another_says_so(tmp_path: Path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(tmp_path), str(rank)], env=environment, stdout=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    said = [process.communicate(timeout=200)[0] for process in started]
    assert [process.returncode for process in started] == [0, 9]
    assert said[0].startswith("process 0 of 2 stops, as another one ended, which says why above or in its own log (")
