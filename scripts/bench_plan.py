"""Sets what `t2ialign plan` announces beside what a run takes: memory of a step, and seconds of a step.

python scripts/bench_plan.py configs/shapes_dpo.yaml                    # key=value as for plan and train
python scripts/bench_plan.py configs/dpo_sdxl.yaml data.path=my/pairs.csv --steps 5

On a GPU memory is max_memory_allocated of torch, aimed at within 10 %; on a CPU the bytes of tensors, within 15 %; time
is aimed at within 20 %.
"""

import argparse
import statistics
from collections.abc import Iterator
from pathlib import Path

import torch
from bench_parts import WARMUP, Steps, machine, now, run

from t2ialign.config.reader import load
from t2ialign.training.plan import plan
from t2ialign.training.tensor_bytes import LiveBytes, module_tensors, storage_bytes


def lasting(steps: Steps) -> int:
    """Bytes of the tensors that stay between two steps."""
    policy, optimizer = steps.core.policy, steps.core.engine.optimizer
    kept = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, torch.Tensor)]
    return storage_bytes([*module_tensors([policy.denoiser, *policy.copies.values()]), *kept])


def memory_of_a_step(steps: Steps) -> int:
    """The most bytes that tensors take in a step."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        steps()
        return torch.cuda.max_memory_allocated()
    with LiveBytes(module_tensors([steps.core.policy.denoiser])) as live:
        steps()
    return lasting(steps) + live.peak


def line(what: str, announced: float, found: float, unit: str) -> str:
    return f"{what}: announced {announced:.4g} {unit}, found {found:.4g} {unit}: {announced / found - 1:+.1%}"


def report(options: argparse.Namespace, folder: Path) -> Iterator[str]:
    """The lines, as they are measured."""
    changes = ["validate.prompts=", f"run_dir={folder / 'run'}", "checkpoint.every_steps=1000000", *options.changes]
    config = load(options.config, changes)
    planned = plan(config, with_probe=True)
    assert planned.probe is not None
    assert planned.memory is not None, "the model's configuration has to be on this machine"
    yield from machine()
    yield f"{options.config} {' '.join(options.changes)}"
    steps = Steps(config)
    if not steps.loop.needs_encoders:
        steps.core.policy.backbone.release_encoders()
    for _ in range(WARMUP):
        steps()
    yield line("memory of a step", planned.memory.training.total / 2**20, memory_of_a_step(steps) / 2**20, "MiB")
    seconds = []
    for _ in range(options.steps):
        began = now()
        steps()
        seconds.append(now() - began)
    yield line("seconds of a step", planned.probe.step, statistics.median(seconds), "s")
    steps.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="a config of loop offline")
    parser.add_argument("changes", nargs="*", help="key=value")
    parser.add_argument("--steps", type=int, default=5, help="that are timed")
    parser.add_argument("--out", type=Path, help="a text file that gets the lines too")
    run(report, parser.parse_args())


if __name__ == "__main__":
    main()
