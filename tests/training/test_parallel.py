"""What processes add up: of one alone, and of two over a real process group."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from t2ialign.training.parallel import SingleProcess, open_parallel

RANK = """
import json, sys, torch, torch.distributed as dist
from torch import nn
from t2ialign.objectives.kto import gain_sums, kl_baseline
from t2ialign.training.parallel import DataParallel, open_parallel
rank = int(sys.argv[2])
dist.init_process_group("gloo", init_method=f"file://{sys.argv[1]}/rendezvous", rank=rank, world_size=2)
parallel = open_parallel()
assert isinstance(parallel, DataParallel) and (parallel.rank, parallel.world_size) == (rank, 2)
gain = torch.tensor([[1.0, 2.0], [6.0, 99.0]][rank])
weights = torch.tensor([[1.0, 1.0], [1.0, 0.0]][rank])
baseline = kl_baseline(parallel.sum(gain_sums(gain, weights))).item()
one, two = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))
one.grad = torch.tensor([1.0, 10.0]) * (rank + 1)
if rank == 0:
    two.grad = torch.tensor([5.0])  # unused on the other
parallel.reduce_gradients([one, two])
norm = parallel.clip([one, two], 1e9).item()
parallel.barrier()
print(json.dumps([baseline, one.grad.tolist(), two.grad.tolist(), norm, parallel.is_main]))
dist.destroy_process_group()
"""


def test_two_processes_add_up_sums_and_gradients(tmp_path: Path):
    # KTO's reference point: (1 + 2 + 6) / 3, the row of weight 0 left out
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, "-c", RANK, str(tmp_path)]
    started = [
        subprocess.Popen([*command, str(rank)], env=environment, stdout=subprocess.PIPE, text=True) for rank in range(2)
    ]
    found = [json.loads(process.communicate(timeout=240)[0]) for process in started]
    for rank in range(2):
        baseline, one, two, norm, is_main = found[rank]
        assert baseline == 3
        assert (one, two) == ([3, 30], [5])
        assert norm == pytest.approx((9 + 900 + 25) ** 0.5)
        assert is_main == (rank == 0)


def test_one_process_adds_nothing():
    parallel = open_parallel()
    assert isinstance(parallel, SingleProcess)
    values, parameter = torch.tensor([1.0, 2.0]), nn.Parameter(torch.zeros(2))
    parallel.reduce_gradients([parameter])
    assert parameter.grad is None
    assert parallel.sum(values) is values
    assert parallel.is_main
