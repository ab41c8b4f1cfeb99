"""Pre-trains assets/shapes-sd and assets/shapes-sdxl from scratch. Kill it at any moment, run it again.

python scripts/research/pretrain_shapes.py vae --processes 2      # then: text, unet, export, evaluate
python scripts/research/pretrain_shapes.py text --family sdxl     # the VAE is shared; then: unet, export, evaluate
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from pretrain_export import evaluate, export
from pretrain_loop import STAGES
from pretrain_models import FAMILIES_OF_MODELS
from pretrain_stages import train_text, train_unet, train_vae


def worker(rank: int, options: argparse.Namespace, store: str) -> None:
    torch.set_num_threads(options.threads)
    if options.processes > 1:
        dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=options.processes)
    commands = {"vae": train_vae, "text": train_text, "unet": train_unet, "export": export, "evaluate": evaluate}
    commands[options.stage](options)
    if options.processes > 1:
        dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=(*STAGES, "export", "evaluate"))
    parser.add_argument("--family", choices=FAMILIES_OF_MODELS, default="sd", help="which architecture")
    parser.add_argument("--run", type=Path, default=Path("runs/pretrain"), help="checkpoints and caches")
    parser.add_argument("--steps", type=int, default=0, help="total steps of the stage; 0 is the stage's default")
    parser.add_argument("--minutes", type=float, default=0.0, help="end the stage after this time; 0: no limit")
    parser.add_argument("--batch", type=int, default=32, help="pictures per process and step")
    parser.add_argument("--processes", type=int, default=1, help="gloo processes")
    parser.add_argument("--threads", type=int, default=1, help="threads of each process")
    parser.add_argument("--scenes", type=int, default=24000, help="cached scenes of each process")
    parser.add_argument("--focus", action="store_true", help="unet: relations and layout more often than the rest")
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=True, help="UNet in bfloat16")
    parser.add_argument("--assets", type=Path, help="what export writes; default: assets/shapes-FAMILY")
    parser.add_argument("--split", default="test", help="evaluate: train, validation or test prompts")
    parser.add_argument("--prompts", type=int, default=480, help="evaluate: how many")
    parser.add_argument("--guidance", type=float, nargs="+", default=[1.0, 3.0, 5.0], help="evaluate: scales")
    parser.add_argument("--seed", type=int, default=0, help="evaluate: of the initial noise")
    options = parser.parse_args()
    options.assets = options.assets or Path(f"assets/shapes-{options.family}")
    options.run.mkdir(parents=True, exist_ok=True)
    if options.processes == 1:
        worker(0, options, "")
    else:
        with tempfile.TemporaryDirectory() as folder:
            store = f"{folder}/store"
            mp.start_processes(worker, (options, store), nprocs=options.processes, start_method="spawn")


if __name__ == "__main__":
    main()
