"""Times an online run's rollouts, updates and rewards against the passes and the waiting that they cannot do without.

python scripts/bench_rollout.py               # the recipe of NFT on an embedded model
python scripts/bench_rollout.py --images 4    # smaller groups
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from bench_parts import Inputs, Ratio, forget_gradients, interleave, machine, medians, passes, run

from t2ialign.config.reader import load
from t2ialign.config.schema import OnlineConfig
from t2ialign.rng import Draws
from t2ialign.rollouts.rollout import roll_out
from t2ialign.training.core import open_processes
from t2ialign.training.offline import compute_loss
from t2ialign.training.online import OnlineLoop
from t2ialign.training.train import open_run
from t2ialign.types import flatten_views

ROLLOUT, ITS_PASSES = "rollout", "UNet and VAE passes of a rollout"
UPDATE, PASSES = "update", "UNet passes of an update"
BOTH, REWARDS, LONGER = "rollout and rewards", "rewards", "longer of rollout and rewards"
RATIOS = [
    Ratio(ROLLOUT, ITS_PASSES, "at most 1.053"),
    Ratio(UPDATE, PASSES, "at most 1.05"),
    Ratio(BOTH, LONGER, "at most 1.10"),
]


def sleeping(images: Sequence[Any], prompts: Sequence[str], seconds: float = 0.0) -> list[float]:
    """A pointwise reward that keeps nothing busy."""
    time.sleep(seconds)
    return [float(place) for place, _ in enumerate(images)]


class Online:
    """A run of the config, of which a part is made at a call."""

    def __init__(self, config: OnlineConfig) -> None:
        self.config = config
        _, self.core, loop = open_run(config, open_processes())
        assert isinstance(loop, OnlineLoop)
        self.loop = loop
        self.iterations = 0
        self.prompts = loop._prompts(self.core, 0)
        self.batches = loop._iteration(self.core, self.iterations)

    def rollout(self) -> None:
        size = self.config.rollout.batch or self.config.train.micro_batch
        roll_out(self.core.policy, self.config.rollout, self.prompts, seed=0, batch=size)

    def iteration(self) -> None:
        """Another one, as no verdict is asked for twice."""
        self.iterations += 1
        self.loop._iteration(self.core, self.iterations)

    def update(self) -> None:
        """One optimizer step on the first iteration."""
        config, policy = self.config, self.core.policy
        for batch in self.batches[: self.core.engine.accumulation]:
            self.core.engine.update(
                lambda batch=batch: compute_loss(policy, batch, config.noiser, config.objective, config.seed)
            )


class RolloutPasses:
    """The UNet passes of a rollout, and those of the VAE's decoder, on noise."""

    def __init__(self, online: Online) -> None:
        self.policy, rollout = online.core.policy, online.config.rollout
        self.weights, self.steps = rollout.weights, rollout.inference_steps
        prompts, device = online.prompts, self.policy.device
        rows = torch.arange(rollout.prompts).repeat_interleave(rollout.images)
        self.parts: list[Inputs] = []
        for row in rows.split(rollout.batch or online.config.train.micro_batch):
            cond = prompts.cond.map(lambda tensor, row=row: tensor[row]).to(device)
            geometry = None if prompts.geometry is None else prompts.geometry[row].to(device)
            x_t = torch.randn(len(row), *prompts.latents, device=device)
            self.parts.append(Inputs(x_t, torch.full((len(row),), 500, device=device), cond, geometry))

    @torch.no_grad()
    def __call__(self) -> None:
        autocast = self.policy.autocast
        for inputs in self.parts:
            with (
                self.policy.mixture(self.weights) as module,
                torch.autocast(inputs.x_t.device.type, dtype=autocast, enabled=autocast is not None),
            ):
                for _ in range(self.steps):
                    self.policy.backbone.predict(module, *inputs)
            self.policy.backbone.decode_latents(inputs.x_t)


class UpdatePasses:
    """The passes of an update and nothing else: no noise is drawn, no loss computed, no weight changed."""

    def __init__(self, online: Online) -> None:
        self.policy, config = online.core.policy, online.config
        self.frozen = config.objective.required_weights
        self.parts: list[Inputs] = []
        for batch in online.batches[: online.core.engine.accumulation]:
            noised = config.noiser(batch, self.policy, self.policy.schedule, Draws(0, batch.keys))
            cond = flatten_views(batch.cond, len(batch), batch.views)
            geometry = None if batch.geometry is None else batch.geometry.flatten(0, 1)
            self.parts.append(Inputs(noised.x_t.flatten(0, 1), noised.timesteps.flatten(), cond, geometry))

    def __call__(self) -> None:
        for inputs in self.parts:
            passes(self.policy, inputs, frozen=self.frozen)
        forget_gradients(self.policy)


def online_config(folder: Path, model: str, changes: Sequence[str], seconds: float = 0.0) -> OnlineConfig:
    """NFT's recipe with the sleeping reward; a group is one batch, so that groups are judged one by one."""
    config = load(
        "configs/shapes_nft.yaml",
        [f"backbone.pretrained={model}", f"run_dir={folder}", "train.steps=1000000", "checkpoint.every_steps=1000000",
         f"rewards=['{__file__}:sleeping,seconds={seconds}']", "rollout.kept_groups=0", *changes],
    )  # fmt: skip
    assert isinstance(config, OnlineConfig)
    return config


def measured(folder: Path, model: str, changes: Sequence[str], block: int) -> dict[str, list[float]]:
    """Seconds of each part, in interleaved blocks."""
    online = Online(online_config(folder / "measured", model, changes))
    groups = online.config.rollout.prompts
    began = time.perf_counter()
    online.rollout()
    seconds = (time.perf_counter() - began) / groups
    judged = Online(online_config(folder / "judged", model, changes, seconds))
    parts = {
        ROLLOUT: online.rollout,
        ITS_PASSES: RolloutPasses(online),
        UPDATE: online.update,
        PASSES: UpdatePasses(online),
        BOTH: judged.iteration,
        REWARDS: lambda: time.sleep(seconds * groups),
    }
    times = interleave(parts, block)
    times[LONGER] = [max(pair) for pair in zip(times[ROLLOUT], times[REWARDS], strict=True)]
    return times


def report(options: argparse.Namespace, folder: Path) -> Iterator[str]:
    """The lines, as they are measured."""
    examples = options.prompts * options.images * 4
    changes = [
        f"rollout.prompts={options.prompts}", f"rollout.images={options.images}", f"rollout.batch={options.images}",
        f"train.effective_batch={examples}", f"train.micro_batch={min(64, examples)}",
    ]  # fmt: skip
    yield from machine()
    yield from (
        "",
        f"{options.model}, LoRA rank 16 on all layers, {options.prompts} prompts of {options.images} images",
    )
    times = measured(folder, options.model, changes, options.block)
    yield from [*medians(times), "", *(ratio.line(times) for ratio in RATIOS)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="assets/shapes-sd", help="folder of a model of Shapes, backbone sd15")
    parser.add_argument(
        "--prompts", type=int, default=16, help="of an iteration; the last one's rewards overlap nothing"
    )
    parser.add_argument("--images", type=int, default=8, help="of each prompt")
    parser.add_argument("--block", type=int, default=1, help="iterations timed together")
    parser.add_argument("--out", type=Path, help="a text file that gets the lines too")
    run(report, parser.parse_args())


if __name__ == "__main__":
    main()
