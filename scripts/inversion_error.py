"""How far each part of the released inversion is from where the model's own trajectory of an image passes t.

python scripts/inversion_error.py                    # 64 of the shipped pairs of Shapes, the embedded model

The trajectory is that of `--fine` second-order steps from the clean latent. Numbers are root mean squares, over the
images of a third of the timesteps, of the difference in the implied noise (x_t - alpha_t x_0) / sigma_t, in units of
that noise's own.
"""

import argparse
import copy
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from bench_bf16 import Margins, chosen
from bench_parts import Steps, machine, run
from torch import Tensor

from t2ialign.config.reader import load
from t2ialign.noisers.inversion import InversionNoiser
from t2ialign.policy import Policy
from t2ialign.rng import Draws
from t2ialign.schedules import VPSchedule
from t2ialign.types import Batch

EDGES = (250, 500, 750, 1000)
METHODS: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Mapping[str, Any]]]] = {
    "SmPO, 5 steps, one correction": (
        {"steps": 5, "corrections": 1},
        {
            "ours": {},
            "released grid": {"grid": "released"},
            "corrections at the source": {"correction_timestep": "source"},
            "as released": {"grid": "released", "correction_timestep": "source"},
        },
    ),
    "InPO, 10 steps": (
        {"steps": 10},
        {
            "ours": {},
            "released grid": {"grid": "released"},
            "as released (eta 0.1)": {"grid": "released", "eta": 0.1},
        },
    ),
}
"""Method -> its keys, and by name what a variant changes."""


def implied_noise(policy: Policy, batch: Batch, **keys: Any) -> tuple[Tensor, Tensor]:
    """The noise of each image and the timesteps, by the same draws whatever the keys. [N * V, ...], [N * V]"""
    noiser = InversionNoiser(min_timestep=EDGES[0], **keys)
    noised = noiser(batch, policy, policy.schedule, Draws(0, batch.keys))
    return noised.noise.flatten(0, 1), noised.timesteps.flatten()


def rounded(policy: Policy) -> Policy:
    """The policy with a table of alpha^2 in float16, as the released code casts it."""
    of_half, schedule = copy.copy(policy), policy.schedule
    assert isinstance(schedule, VPSchedule)
    alpha, _ = schedule.alpha_sigma(torch.arange(schedule.num_train_timesteps))
    table = alpha.square().half().double()
    backbone: Any = copy.copy(policy.backbone)
    predicted: Any = schedule.prediction_type
    backbone.schedule = VPSchedule(table, predicted, float(table[0]))
    of_half.backbone = backbone
    return of_half


def report(options: argparse.Namespace, folder: Path) -> Iterator[str]:
    """The lines, as they are measured."""
    yield from machine()
    changes = [f"run_dir={folder / 'run'}", f"backbone.pretrained={options.model}", f"data.path={options.data}"]
    steps = Steps(load("configs/shapes_smpo.yaml", changes))
    policy, pairs = steps.core.policy, Margins(steps).pairs
    batch = chosen(pairs, torch.arange(options.pairs))
    truth, timesteps = implied_noise(policy, batch, steps=options.fine, corrections=1)
    thirds = [(timesteps >= low) & (timesteps < high) for low, high in pairwise(EDGES)]

    def line(name: str, asked: Policy, **keys: Any) -> str:
        difference = implied_noise(asked, batch, **keys)[0] - truth
        errors = [float((difference[some].square().mean() / truth[some].square().mean()).sqrt()) for some in thirds]
        return " | ".join([name, *(f"{error:.4f}" for error in errors)])

    yield f"{options.model}, {options.pairs} pairs, against {options.fine} steps"
    yield " | ".join(["", *(f"t {low}-{high - 1}" for low, high in pairwise(EDGES))])
    yield line(f"{options.fine // 2} steps", policy, steps=options.fine // 2, corrections=1)
    for method, (shared, variants) in METHODS.items():
        yield method
        for name, keys in variants.items():
            yield line(name, policy, **shared, **keys)
        yield line("ours, table in float16", rounded(policy), **shared)
        yield line("released grid, table in float16", rounded(policy), **shared, grid="released")
    steps.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="assets/shapes-sd", help="folder of a model of Shapes, backbone sd15")
    parser.add_argument("--data", default="assets/pairs/shapes-sd/pairs.parquet", help="pairs with scores")
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--fine", type=int, default=100, help="steps of the trajectory that stands for the true one")
    parser.add_argument("--out", type=Path, help="a text file that gets the lines too")
    run(report, parser.parse_args())


if __name__ == "__main__":
    main()
