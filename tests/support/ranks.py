"""One of several processes that make one optimizer step together: `python ranks.py FOLDER OUT RANK WORLD`."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from toys import batch, dpo, engine, gradients, lora_policy


def main(folder: Path, out: Path, rank: int, world: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{out}/rendezvous", rank=rank, world_size=world)
    policy = lora_policy(folder, moved=0.1)
    made = engine(policy, out, accumulation=2)
    for start in (0, 2 * world):
        keys = [start + 2 * rank, start + 2 * rank + 1]
        # the last process's last row does not count
        weights = [1.0, 0.0] if start and rank == world - 1 else [1.0, 1.0]
        metrics = made.update(lambda keys=keys, weights=weights: dpo(policy, batch(policy, keys, weights=weights)))
    torch.save({"gradients": gradients(made), "metrics": metrics}, out / f"rank{rank}.pt")
    made.save()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
