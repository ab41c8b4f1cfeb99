"""One of several processes that make one optimizer step together: `python ranks.py FOLDER OUT RANK WORLD [SHARD]`.

With SHARD the whole denoiser of an SDXL is trained, 'none' or 'fsdp2'; without it a LoRA on SD1.5.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor
from toys import batch, dpo, engine, full_policy, gradients, lora_policy

from t2ialign.training.parallel import open_parallel


def main(folder: Path, out: Path, rank: int, world: int, shard: str | None = None) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{out}/rendezvous", rank=rank, world_size=world)
    policy = lora_policy(folder, moved=0.1) if shard is None else full_policy(folder, moved=0.01)
    parallel = open_parallel(None if shard == "none" else shard)
    parallel.shard([policy.denoiser, *policy.copies.values()])
    made = engine(policy, out, accumulation=2, parallel=parallel)
    for start in (0, 2 * world):
        keys = [start + 2 * rank, start + 2 * rank + 1]
        # the last process's last row does not count
        weights = [1.0, 0.0] if start and rank == world - 1 else [1.0, 1.0]
        metrics = made.update(lambda keys=keys, weights=weights: dpo(policy, batch(policy, keys, weights=weights)))
    whole = [one.full_tensor() if isinstance(one, DTensor) else one for one in gradients(made)]
    torch.save({"gradients": whole, "metrics": metrics}, out / f"rank{rank}.pt")
    made.save()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), *sys.argv[5:])
