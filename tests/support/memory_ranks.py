"""A process of a run in parts says what a step took: `memory_ranks.py CONFIG OUT KEY=VALUE ...` under a launcher."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch.distributed as dist
from allocations import of_a_step, touched_at_most

from t2ialign.config.reader import load
from t2ialign.training.core import open_processes


def main(config: Path, out: Path, *overrides: str) -> None:
    taken = of_a_step(load(config, list(overrides)), open_processes("fsdp2"), touched_at_most)
    (out / f"{os.environ['RANK']}.txt").write_text(str(taken))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
