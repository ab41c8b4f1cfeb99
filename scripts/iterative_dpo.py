"""Iterative DPO: rounds of making pairs with the model as it is and training on them, each from the round before.

python scripts/iterative_dpo.py configs/shapes_dpo.yaml --out runs/iterative --prompts prompts.txt \
    --reward shapes.mixed --rounds 3 train.steps=50

A round's pairs are made by the adapter of the round before, which is also its initial weights and its reference. The
prompts are dealt to the rounds, so that `--rounds 1 train.steps=150` costs exactly as many passes through the denoiser;
they are stated at the end and in summary.json. The same command goes on after a stop.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from t2ialign.config.generation import GenerationConfig
from t2ialign.config.reader import load
from t2ialign.config.schema import Config
from t2ialign.data.kinds.prompts import read_prompts
from t2ialign.errors import InputError, UserError
from t2ialign.feedback.build import Built, describe_build, generate_pairs
from t2ialign.feedback.pairing import Pairing
from t2ialign.models import open_model
from t2ialign.rewards.base import PointwiseReward
from t2ialign.rewards.registry import load_pointwise
from t2ialign.rng import keyed_seed
from t2ialign.storage.atomic import atomic_write
from t2ialign.training.preflight import example_passes
from t2ialign.training.run_folder import result_path
from t2ialign.training.train import train

SUMMARY = "summary.json"


@dataclass(frozen=True)
class Candidates:
    """How a round's images are made and paired."""

    images_per_prompt: int = 4
    guidance_scale: float = 1.5
    inference_steps: int = 10
    batch: int = 50
    keep: str = "best_worst"
    margin: float = 0.0


def deal(prompts: Sequence[str], rounds: int, seed: int) -> list[list[str]]:
    """The distinct prompts in an order of the seed, dealt to the rounds in turn.

    Raises:
        InputError: a round would have none.
    """
    distinct = sorted(dict.fromkeys(prompts), key=lambda prompt: keyed_seed(seed, "deal", prompt))
    if not 1 <= rounds <= len(distinct):
        raise InputError(f"--rounds {rounds}: give 1 to {len(distinct)}, the number of distinct prompts")
    return [distinct[first::rounds] for first in range(rounds)]


def round_config(config: Path, overrides: Sequence[str], folder: Path, before: Path | None, number: int) -> Config:
    """The config of a round: its own folder, pairs, draws, and the adapter it starts from.

    Raises:
        InputError: it trains no LoRA, or not on pairs.
    """
    seed = load(config, list(overrides)).seed + number
    own = [f"run_dir={folder / 'training'}", f"data.path={folder / 'pairs'}", f"seed={seed}"]
    made = load(config, [*overrides, *own, *([f"lora.init={before}"] if before is not None else [])])
    if made.lora is None or made.data.name != "pairs":
        raise InputError(f"{config}: iterative DPO trains a LoRA (lora: …) on pairs (data: {{name: pairs, …}})")
    return made


def training_passes(config: Config) -> float:
    """Passes of one image through the denoiser: forward and backward of the policy, and forward of a reference."""
    return config.train.steps * config.train.effective_batch * example_passes(config).total


def generation_passes(images: int, candidates: Candidates) -> int:
    """The same of making candidates; guidance takes two a step."""
    return images * candidates.inference_steps * (2 if candidates.guidance_scale > 1 else 1)


def build(
    config: Config,
    before: Path | None,
    prompts: Sequence[str],
    rewards: Sequence[PointwiseReward],
    candidates: Candidates,
) -> Built:
    """A round's pairs, made with the adapter of the round before."""
    loras = {} if before is None else {str(before): 1.0}
    policy, mixture = open_model(str(config.backbone.pretrained), family=config.backbone.name, loras=loras)
    return generate_pairs(
        config.data.path,
        policy,
        prompts,
        rewards,
        Pairing(candidates.keep, candidates.margin),  # type: ignore[arg-type]
        GenerationConfig(
            guidance_scale=candidates.guidance_scale,
            inference_steps=candidates.inference_steps,
            resolution=config.data.resolution,
            batch=candidates.batch,
            images_per_prompt=candidates.images_per_prompt,
            seed=config.seed,
        ),
        weights=mixture,
        description={"model": str(config.backbone.pretrained), "loras": loras},
    )


def iterate(
    config: Path,
    overrides: Sequence[str],
    out: Path,
    prompts: Sequence[str],
    rewards: Sequence[PointwiseReward],
    *,
    rounds: int,
    candidates: Candidates,
) -> dict[str, Any]:
    """Runs all rounds, or goes on with them; returns what summary.json holds.

    Raises:
        UserError: see `generate_pairs` and `run.train`.
    """
    before: Path | None = None
    done: list[dict[str, Any]] = []
    for number, own in enumerate(deal(prompts, rounds, seed=0)):
        made = round_config(config, overrides, out / f"round{number}", before, number)
        built = build(made, before, own, rewards, candidates)
        print(f"round {number}: {describe_build(built).splitlines()[-1]}")
        train(made)
        before = result_path(made)
        done.append(
            {
                "prompts": len(own),
                "pairs": built.totals._asdict(),
                "rewards": {name: summary._asdict() for name, summary in built.summaries.items()},
                "adapter": str(before),
                "passes": {
                    "generation": generation_passes(built.totals.images, candidates),
                    "training": training_passes(made),
                },
            }
        )
    total = {key: sum(one["passes"][key] for one in done) for key in ("generation", "training")}
    summary = {"rounds": done, "passes": {**total, "all": sum(total.values())}, "adapter": str(before)}
    with atomic_write(out / SUMMARY) as partial:
        partial.write_text(json.dumps(summary, indent=1, ensure_ascii=False), encoding="utf-8")
    return summary


def describe(summary: dict[str, Any]) -> str:
    """Rewards of each round's candidates, made before it was trained, and what everything cost."""
    lines = []
    for number, one in enumerate(summary["rounds"]):
        means = ", ".join(f"{name} {found['mean']:.4g}" for name, found in one["rewards"].items())
        lines.append(f"round {number}: candidates {means}; {one['pairs']['pairs']} pairs")
    passes = summary["passes"]
    lines.append(
        f"{passes['all']:,} passes of an image through the denoiser: {passes['generation']:,} to make candidates, "
        f"{passes['training']:,} to train"
    )
    return "\n".join([*lines, f"adapter in {summary['adapter']}"])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, help="a training config with a LoRA and pairs")
    parser.add_argument("overrides", nargs="*", help="key=value of every round, as in train.steps=50")
    parser.add_argument("--out", type=Path, required=True, help="folder of everything")
    parser.add_argument("--prompts", type=Path, required=True)
    parser.add_argument("--reward", action="append", required=True, help="as in `t2ialign data build`; repeatable")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images-per-prompt", type=int, default=Candidates.images_per_prompt)
    parser.add_argument("--guidance", type=float, default=Candidates.guidance_scale)
    parser.add_argument("--steps", type=int, default=Candidates.inference_steps, help="DDIM steps")
    parser.add_argument("--batch", type=int, default=Candidates.batch, help="images made at once")
    parser.add_argument("--keep", default=Candidates.keep, help="best_worst or all")
    parser.add_argument("--margin", type=float, default=Candidates.margin)
    given = parser.parse_intermixed_args(arguments)
    candidates = Candidates(given.images_per_prompt, given.guidance, given.steps, given.batch, given.keep, given.margin)
    try:
        summary = iterate(
            given.config,
            given.overrides,
            given.out,
            read_prompts(given.prompts),
            load_pointwise(given.reward, "iterative DPO"),
            rounds=given.rounds,
            candidates=candidates,
        )
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(describe(summary))
    return 0


if __name__ == "__main__":
    sys.exit(main())
