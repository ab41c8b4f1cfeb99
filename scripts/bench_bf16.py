"""How far a pair's DPO margin in bfloat16 depends on which other pairs are in its micro-batch.

python scripts/bench_bf16.py                            # an embedded model
python scripts/bench_bf16.py --precision fp32           # the same in float32, to compare
python scripts/bench_bf16.py --full-size --pairs 16     # SD1.5's own size with random weights, 256 px

Pairs, draws and weights stay as they are; only what stands beside a pair changes. Numbers are standard deviations, over
pairs, of differences of the margin: beta times the difference of the two implicit rewards.
"""

import argparse
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from bench_parts import Steps, full_size_changes, machine, pairs_folder, run
from torch import Tensor

from t2ialign.config.reader import load
from t2ialign.config.schema import Config
from t2ialign.data.loading.loader import assemble_batch, fixed_keys
from t2ialign.training.offline import compute_loss
from t2ialign.training.reference_errors import ReferenceErrors
from t2ialign.types import Batch, Conditioning

SIZES = (1, 2, 4, 8)
"""Pairs of a micro-batch."""


def chosen(batch: Batch, rows: Tensor) -> Batch:
    """Some rows of a batch, in the order given."""

    def pick(value: Any) -> Any:
        if isinstance(value, Conditioning):
            return value.map(lambda tensor: tensor[rows])
        return None if value is None else value[rows]

    return replace(batch, **{entry.name: pick(getattr(batch, entry.name)) for entry in fields(batch)})


class Margins:
    """Margins of a run's pairs, each under one fixed draw, in micro-batches of any size."""

    def __init__(self, steps: Steps) -> None:
        encoded = steps.loop.encoded
        assert encoded is not None
        self.policy, self.config = steps.core.policy, steps.config
        rows = torch.arange(len(encoded))
        loaded = encoded[rows.tolist()]
        keys = fixed_keys(rows, torch.zeros_like(rows), 1)
        self.pairs = assemble_batch(keys, rows, loaded, loaded.posterior.mean, encoded.views).to(self.policy.device)

    @torch.no_grad()
    def __call__(self, size: int, known: ReferenceErrors | None = None, *, regrouped: bool = False) -> Tensor:
        """The margin of each pair. [pairs] float64

        Args:
            size: pairs of a micro-batch.
            known: errors of the reference that are looked up; what is not known is computed and added.
            regrouped: pairs that stand far from each other share a micro-batch, instead of neighbours.
        """
        order = torch.arange(len(self.pairs))
        if regrouped:
            order = order.view(size, -1).T.flatten()
        margins = torch.cat([self._margins(chosen(self.pairs, rows), known) for rows in order.split(size)])
        return margins[order.argsort()]

    def _margins(self, batch: Batch, known: ReferenceErrors | None) -> Tensor:
        config = self.config
        output = compute_loss(self.policy, batch, config.noiser, config.objective, config.seed, known=known)
        return output.metrics["margin"].double().cpu()


def config_of(folder: Path, options: argparse.Namespace) -> Config:
    """The DPO recipe of the size that is asked for, without warm-up of the rate."""
    if options.full_size:
        recipe, changes = "dpo_sd15", full_size_changes(folder, options.pairs)
    else:
        table = pairs_folder(folder / "pairs", options.pairs)
        recipe, changes = "shapes_dpo", [f"backbone.pretrained={options.model}", f"data.path={table}"]
    changes += [f"run_dir={folder / 'run'}", f"train.precision={options.precision}", "optim.warmup_steps=0"]
    return load(f"configs/{recipe}.yaml", changes)


def report(options: argparse.Namespace, folder: Path) -> Iterator[str]:
    """The lines, as they are measured."""
    yield from machine()
    steps = Steps(config_of(folder, options))
    for _ in range(options.steps):
        steps()
    margins, known = Margins(steps), ReferenceErrors(options.pairs, 1, 2)
    alone = margins(1, known)  # fills the table
    yield f"{'SD1.5 at full size' if options.full_size else options.model}, {options.precision}, {options.pairs} pairs"
    yield f"margins after {options.steps} steps: standard deviation {alone.std():.3g}, mean {alone.mean():+.3g}"
    yield "micro-batch | minus the pair alone | minus beside other pairs | the same as first, reference looked up"
    for size in SIZES:
        beside = margins(size)
        differences = (beside - alone, beside - margins(size, regrouped=True), margins(size, known) - alone)
        yield " | ".join([str(size), *(f"{float(difference.std()):.2e}" for difference in differences)])
    steps.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full-size", action="store_true", help="SD1.5's own size instead of an embedded model")
    parser.add_argument("--model", default="assets/shapes-sd", help="folder of a model of Shapes, backbone sd15")
    parser.add_argument("--precision", choices=["bf16", "fp32"], default="bf16")
    parser.add_argument("--pairs", type=int, default=64, help=f"a multiple of {SIZES[-1]}")
    parser.add_argument("--steps", type=int, default=10, help="optimizer steps before, so that margins are not 0")
    parser.add_argument("--out", type=Path, help="a text file that gets the lines too")
    options = parser.parse_args()
    if options.pairs < SIZES[-1] or options.pairs % SIZES[-1]:
        parser.error(f"--pairs {options.pairs} is not a multiple of {SIZES[-1]}")
    run(report, options)


if __name__ == "__main__":
    main()
