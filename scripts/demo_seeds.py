"""Runs the demo for several seeds, gathers what each measured, and prints the tables of docs/evidence.md.

python scripts/demo_seeds.py --model shapes-sd --seeds 0 1 2
python scripts/demo_seeds.py --model shapes-sdxl --seeds 0 1 2 --pair-prompts 400

A finished seed is not run again. Figures go to assets/benchmarks/demo_MODEL.json, the first seed's sheet of images to
assets/samples/MODEL.png.
"""

import argparse
import json
import platform
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from t2ialign.demo.pipeline import run_demo
from t2ialign.demo.settings import SHEET, Settings
from t2ialign.report.comparison import in_points
from t2ialign.statistics import prompts_for_mean, prompts_for_share
from t2ialign.storage.atomic import atomic_write
from t2ialign.storage.resources import shipped

SHOWN = ("faithfulness", "all_right", "taste", "taste_satisfied", "more_to_taste")
POWER = 0.9


def figures(summary: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept of a demo: all numbers, none of the images."""
    keys = ("equal", "own", "sweep", "goals", "pairs", "settings", "timings_seconds", "independent_verifier")
    return {key: summary[key] for key in keys}


def table(seeds: Mapping[int, Mapping[str, Any]], compared: str, pair: str) -> list[str]:
    """A markdown table: a line a seed, differences in points with their 95 % intervals."""
    lines = [f"| {pair}, {compared} guidance | {' | '.join(key.replace('_', ' ') for key in SHOWN)} | diversity |"]
    lines.append("|---" * (len(SHOWN) + 2) + "|")
    model = pair.split(" - ")[0]
    for seed, found in seeds.items():
        shifts = [in_points(found[compared]["differences"][pair][key]) for key in SHOWN]
        ratio = found[compared]["diversity"][model]["diversity"]
        told = "–" if ratio is None else "{mean:.2f} ({low:.2f} to {high:.2f})".format(**ratio)
        lines.append(f"| seed {seed} | {' | '.join(shifts)} | {told} |")
    return lines


def agreements(seeds: Mapping[int, Mapping[str, Any]]) -> list[str]:
    """Agreement of the two verifiers, and the time each demo took."""
    lines = []
    for seed, found in seeds.items():
        agreed = ", ".join(
            f"{name} {one['verdicts']['mean']:.1%}" for name, one in found["independent_verifier"].items()
        )
        minutes = sum(found["timings_seconds"].values()) / 60
        lines.append(f"seed {seed}: both verifiers agree on {agreed} of the verdicts; {minutes:.1f} min")
    return lines


def power(found: Mapping[str, Any]) -> list[str]:
    """Prompts that each of the measured differences would need, from its own discordance (docs/power.md)."""
    lines = ["| aligned - base | difference | sd | better | worse | prompts needed |", "|---" * 6 + "|"]
    for key in SHOWN:
        shift = found["equal"]["differences"]["aligned - base"][key]
        needed = "–"
        if shift["mean"] > 0:
            is_share = key in ("all_right", "taste_satisfied", "more_to_taste")
            counted = prompts_for_share(shift["better"], shift["worse"], POWER) if is_share else None
            needed = str(counted or prompts_for_mean(shift["mean"], shift["sd"], POWER))
        row = (f"{100 * shift[name]:.1f}" for name in ("mean", "sd", "better", "worse"))
        lines.append(f"| {key.replace('_', ' ')} | {' | '.join(row)} | {needed} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="shapes-sd", help="folder in assets/")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--prompts", type=int, default=Settings.prompts)
    parser.add_argument(
        "--pair-prompts", type=int, default=Settings.pair_prompts, help="shipped pairs are taken if as many"
    )
    parser.add_argument("--runs", type=Path, default=Path("runs/demo_seeds"))
    parser.add_argument("--assets", type=Path, default=Path("assets"))
    options = parser.parse_args()
    seeds: dict[int, dict[str, Any]] = {}
    for seed in options.seeds:
        run_dir = options.runs / options.model / f"seed{seed}"
        settings = Settings(prompts=options.prompts, seed=seed, pair_prompts=options.pair_prompts)
        summary = run_demo(run_dir, settings=settings, model=shipped(f"assets/{options.model}"))
        seeds[seed] = figures(summary)
    out = options.assets / "benchmarks" / f"demo_{options.model}.json"
    with atomic_write(out) as partial:
        partial.write_text(
            json.dumps({"machine": platform.processor() or platform.machine(), "seeds": seeds}, indent=1)
        )
    sheet = options.assets / "samples" / f"{options.model}.png"
    with atomic_write(sheet) as partial:
        shutil.copyfile(options.runs / options.model / f"seed{options.seeds[0]}" / SHEET, partial)
    for compared in ("equal", "own"):
        for pair in ("aligned - base", "aligned - sft"):
            print("\n".join(["", *table(seeds, compared, pair)]))
    print("\n".join(["", *agreements(seeds), "", *power(seeds[options.seeds[0]])]))
    print(f"\nfigures in {out}, sheet in {sheet}")


if __name__ == "__main__":
    main()
