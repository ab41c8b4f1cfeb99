"""Trains online on a reward with a known flaw, by every way from rewards to advantages, and shows what is exploited.

python scripts/reward_hacking.py                  # all arms, two at once; a finished one is not run again
python scripts/reward_hacking.py group_z judge    # some; the tables are of all that have run
python scripts/reward_hacking.py --steps 8 --root runs/try

The claim (Pref-GRPO, arXiv:2508.20751, section 1) is that pointwise scores of nearly equal images, divided by their
group's deviation, are exploited, and pairwise verdicts are not. Every arm is measured on the same validation prompts:
its trained reward, the true one (`shapes.mixed`), and the spread of a prompt's images. Figures go to
assets/benchmarks/reward_hacking.json, tables of them to reward_hacking.md.
"""

import argparse
import concurrent.futures
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from methods.studies import ONLINE_PROMPTS

from t2ialign.shapes.caption import prompts as shapes_prompts
from t2ialign.storage.atomic import atomic_write
from t2ialign.training.trackers import read_metrics

FLAWED = "scripts/methods/flawed.py"
TRUE, TRAINED = "shapes.mixed", f"{FLAWED}:score"
VALIDATION = 60
"""Prompts that the curves are of."""
STEPS = 80
"""Optimizer steps, two an iteration: about a quarter of an hour on one core."""
POINTS = 10
"""Measurements of a run."""
CONFIG = "configs/shapes_grpo.yaml"
MARGIN = 0.004
"""Scores that differ by no more are a tie: a quarter of their deviation among images of a prompt before training, which
was 0.017 in 32 groups."""


class Arm(NamedTuple):
    """One way from rewards to advantages, as config keys."""

    what: str
    overrides: tuple[str, ...]
    config: str = CONFIG
    seed: int = 0


def arms() -> dict[str, Arm]:
    """Those that are compared; the two that decide have a second seed."""
    scores, judge = f"rewards=[{TRAINED}]", f"rewards=[{FLAWED}:prefers]"
    win, kl = "advantage.of=win_rate", "objective.kl=0.1"
    group, fixed = "advantage.scale=group_std", "advantage.scale=fixed"
    margin = f"advantage.tie_margin={MARGIN}"
    found = {
        "group_z": Arm("score, over the group's deviation", (scores, group)),
        "global_std": Arm("score, over all images' deviation", (scores, "advantage.scale=global_std")),
        "win_z": Arm("win rate of the score", (scores, win, group)),
        "win_margin_z": Arm("win rate of the score, with ties", (scores, win, margin, group)),
        "win_fixed": Arm("win rate of the score, with ties, fixed scale", (scores, win, margin, fixed)),
        "judge": Arm("win rate of pairwise verdicts", (judge, win, fixed)),
        "nft_win": Arm("NFT on win rates of the score", (scores,), "configs/shapes_pref_nft.yaml"),
        "group_z_kl": Arm("score, over the group's deviation, KL", (scores, group, kl)),
        "win_z_kl": Arm("win rate of the score, KL", (scores, win, group, kl)),
    }
    return found | {f"{name}_again": found[name]._replace(seed=1) for name in ("group_z", "judge")}


def command(root: Path, name: str, arm: Arm, steps: int) -> list[str]:
    """What trains an arm: NFT makes one optimizer step an iteration, the others two."""
    own = steps // 2 if arm.config != CONFIG else steps
    every = max(2, own // POINTS)
    return [
        sys.executable, "-m", "t2ialign", "train", arm.config, f"run_dir={root / name}", f"seed={arm.seed}",
        f"data.path={root / 'train.txt'}", f"data.cache.folder={root / 'cache'}", f"train.steps={own}",
        "optim.schedule=constant", "rollout.guidance_scale=1.5", *arm.overrides, f"validate.every_steps={every}",
        f"validate.prompts={root / 'validation.txt'}", f"validate.max_prompts={VALIDATION}",
        f"validate.rewards=[{TRUE}, {TRAINED}]", "validate.guidance_scale=1.5", "validate.inference_steps=10",
    ]  # fmt: skip


def curve(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
    """What a run measured along its way: at each validation the rewards, and the images' spread and saturation.

    Args:
        rows: of its metrics.jsonl.
    """
    found: list[dict[str, float]] = []
    rolled: dict[str, float] = {}
    for row in rows:
        rolled |= {key: row[key] for key in ("rollout/diversity", "rollout/saturation", "iteration") if key in row}
        if f"validation/{TRUE}/policy" in row:
            values = {
                "true": row[f"validation/{TRUE}/policy"],
                "trained": row[f"validation/{TRAINED}/policy"],
                "true_gain": row[f"validation/{TRUE}/policy"] - row[f"validation/{TRUE}/base"],
                "true_error": row[f"validation/{TRUE}/standard_error"],
                "trained_gain": row[f"validation/{TRAINED}/policy"] - row[f"validation/{TRAINED}/base"],
                "trained_error": row[f"validation/{TRAINED}/standard_error"],
            }
            found.append({"step": row["step"], **rolled, **values})
    return found


def hacked_at(points: Sequence[Mapping[str, float]]) -> float | None:
    """The first step at which the trained reward is up, and the true one down, by two standard errors each."""
    for point in points:
        if point["trained_gain"] > 2 * point["trained_error"] and point["true_gain"] < -2 * point["true_error"]:
            return point["step"]
    return None


def tables(curves: Mapping[str, Sequence[Mapping[str, float]]], about: Mapping[str, Arm]) -> str:
    """A summary of all arms, and the curve of each."""
    lines = [
        f"{VALIDATION} validation prompts of Shapes, guidance 1.5; true reward {TRUE}, trained reward {TRAINED}", "",
        "| arm | seed | true: start | best | end | trained: start | end | diversity kept | exploited from step |",
        "|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for name, points in curves.items():
        first, last = points[0], points[-1]
        spread = [point["rollout/diversity"] for point in points if "rollout/diversity" in point]
        lines.append(
            f"| {about[name].what} | {about[name].seed} | {first['true']:.3f} | "
            f"{max(point['true'] for point in points):.3f} | {last['true']:.3f} ± {2 * last['true_error']:.3f} | "
            f"{first['trained']:.4f} | {last['trained']:.4f} | {spread[-1] / spread[0]:.2f} | "
            f"{hacked_at(points) or 'never'} |"
        )
    for name, points in curves.items():
        lines += [
            "", f"{about[name].what}, seed {about[name].seed}", "",
            "| step | true | trained | diversity | saturation |", "|---|---|---|---|---|",
        ]  # fmt: skip
        for point in points:
            drawn = [f"{point[key]:.3f}" if key in point else "" for key in ("rollout/diversity", "rollout/saturation")]
            lines.append(f"| {point['step']} | {point['true']:.3f} | {point['trained']:.4f} | {' | '.join(drawn)} |")
    return "\n".join(lines) + "\n"


def write_prompts(root: Path) -> None:
    """The prompts that are learnt from, and those that the curves are of."""
    root.mkdir(parents=True, exist_ok=True)
    texts = {
        "train": shapes_prompts("train", ONLINE_PROMPTS, 0),
        "validation": shapes_prompts("validation", VALIDATION, 0),
    }
    for split, lines in texts.items():
        with atomic_write(root / f"{split}.txt") as partial:
            partial.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    every = arms()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("arms", nargs="*", metavar="ARM", help=f"of {', '.join(every)}; all if none is named")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--jobs", type=int, default=max(1, min(4, (os.cpu_count() or 1))), help="runs at once")
    parser.add_argument("--root", type=Path, default=Path("runs/reward_hacking"))
    parser.add_argument("--out", type=Path, default=Path("assets/benchmarks"))
    options = parser.parse_args()
    if unknown := {*options.arms} - {*every}:
        parser.error(f"no arm {', '.join(sorted(unknown))}; there are {', '.join(every)}")
    chosen = {name: arm for name, arm in every.items() if name in options.arms or not options.arms}
    write_prompts(options.root)

    def train(name: str) -> None:
        with (options.root / f"{name}.log").open("a", encoding="utf-8") as log:
            asked = command(options.root, name, every[name], options.steps)
            subprocess.run(asked, stdout=log, stderr=subprocess.STDOUT, check=True)
        print(f"{name}: done", flush=True)

    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(train, chosen))
    done = {name: curve(read_metrics(options.root / name / "metrics.jsonl")) for name in every}
    curves = {name: points for name, points in done.items() if points}
    told = tables(curves, every)
    with atomic_write(options.out / "reward_hacking.json") as partial:
        partial.write_text(json.dumps(curves, indent=1), encoding="utf-8")
    with atomic_write(options.out / "reward_hacking.md") as partial:
        partial.write_text(told, encoding="utf-8")
    print(told)


if __name__ == "__main__":
    main()
