"""Runs every method on Shapes as a user would, by the commands of the command line, and measures each.

python scripts/compare_methods.py                       # all studies, two at once; a finished one is not run again
python scripts/compare_methods.py mapo kto --jobs 1
python scripts/compare_methods.py dpo inpo smpo --seeds 5 6 7
python scripts/compare_methods.py dpo --negative npo self_npo self_npo:0.5 --own-guidance   # each with each, and base

Base and every study draw the same held-out prompts from the same noise. Figures go to
assets/benchmarks/methods_MODEL.json, a table of them to methods_MODEL.md, the Pareto figure to pareto_MODEL.svg; --name
gives another stem.
"""

import argparse
import concurrent.futures
import json
import multiprocessing
import os
import platform
import shlex
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from methods.figures import pareto, table
from methods.measuring import Folder, Sweep, compare, draw, sweep, validation
from methods.studies import (
    ONLINE_PROMPTS,
    PROMPTS,
    SCENES,
    SETTINGS,
    Command,
    Place,
    Study,
    beside,
    negative_models,
    prepare,
    studies,
    wanted,
)

from t2ialign.demo.evaluation import PromptResult, judge
from t2ialign.demo.pipeline import best_scale
from t2ialign.errors import TryAgainError
from t2ialign.shapes.caption import prompts as shapes_prompts
from t2ialign.shapes.data import write_dataset
from t2ialign.storage.atomic import atomic_write
from t2ialign.storage.resources import shipped as of_package

SCALES = (1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 7.5)


class Seed(NamedTuple):
    """What is compared with one seed."""

    place: Place
    trained: dict[str, Study]
    """In the order in which they start."""
    compared: dict[str, Study]
    """Base first."""
    held_out: list[str]
    validation: list[str]


def choose(options: argparse.Namespace, seed: int) -> Seed:
    """The studies that the command line names, base, and each of them with each negative model.

    Raises:
        SystemExit: a study or a negative model that does not exist.
    """
    place = Place(options.root / options.model.name / f"seed{seed}", options.model, options.guidance, seed)
    every, negatives = studies(place), negative_models(place)
    serving = list(dict.fromkeys(name.partition(":")[0] for name in options.negative))
    if unknown := {*options.studies} - {*every} | {*serving} - {*negatives}:
        raise SystemExit(
            f"no study {', '.join(sorted(unknown))}; there are {', '.join(every)}, and as --negative "
            f"{', '.join(negatives)}"
        )
    chosen = {name: every[name] for name in every if name in options.studies or not options.studies}
    compared = {"base": Study("base"), **chosen}
    for name, study in list(compared.items()):
        for negative in options.negative:
            for alpha in options.negative_alpha if study.loras else [1.0]:
                compared |= beside(name, study, negative, negatives, alpha)
    trained = {name: study for name, study in chosen.items() if study.commands}
    trained |= {name: negatives[name] for name in serving}
    prompts = shapes_prompts("test", options.prompts, seed), shapes_prompts("validation", options.validation, seed)
    return Seed(place, {name: trained[name] for name in longest_first(list(trained))}, compared, *prompts)


def longest_first(names: Sequence[str]) -> list[str]:
    """The order in which studies start: the rounds, which also make images, before the rest."""
    return sorted(names, key=lambda name: name != "iterative")


def run(place: Place, name: str, commands: Sequence[Command]) -> None:
    """Runs the commands one after the other; what they print is in `NAME.log`.

    Raises:
        TryAgainError: one failed.
    """
    with (place.root / f"{name}.log").open("a", encoding="utf-8") as log:
        for command in commands:
            print("$", shlex.join(command), file=log, flush=True)
            if subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False).returncode:
                raise TryAgainError(f"{name}: {shlex.join(command)} failed; see {log.name}. The same command goes on.")


def prepare_seed(seed: Seed) -> None:
    """Prompts, scenes, pairs, and all else that the studies learn from."""
    place = seed.place
    place.root.mkdir(parents=True, exist_ok=True)
    needed = wanted(prepare(place), place.root, list(seed.trained.values()))
    learnt = [command for study in seed.trained.values() for command in study.commands]
    texts = {"train.txt": SETTINGS.pair_prompts}
    if any(str(place.root / PROMPTS) in word for command in learnt for word in command):
        texts[PROMPTS] = ONLINE_PROMPTS
    for name, count in texts.items():
        with atomic_write(place.root / name) as partial:
            lines = shapes_prompts("train", count, place.seed)
            partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
    scenes = place.root / "scenes"
    if not scenes.is_dir() and any(str(scenes) in word for command in [*needed, *learnt] for word in command):
        write_dataset(place.root / "scenes.partial", SCENES, seed=1, noise=0).rename(scenes)
    run(place, "prepare", needed)


class Workers:
    """At most `jobs` trainings, or as many processes that make images, at once."""

    def __init__(self, jobs: int):
        self._jobs = jobs

    def train(self, seeds: Sequence[Seed]) -> None:
        """Runs what is not trained yet."""
        with concurrent.futures.ThreadPoolExecutor(self._jobs) as pool:
            list(pool.map(prepare_seed, seeds))
            pending = {
                pool.submit(run, seed.place, name, study.commands): f"seed {seed.place.seed}, {name}"
                for seed in seeds
                for name, study in seed.trained.items()
            }
            _wait(pending)

    def draw(self, seeds: Sequence[Seed], folders: Mapping[int, Mapping[str, Sequence[Folder]]]) -> None:
        """Makes what is missing; folders: seed -> model -> its folders."""
        with concurrent.futures.ProcessPoolExecutor(self._jobs, multiprocessing.get_context("spawn")) as pool:
            pending = {
                pool.submit(draw, seed.place, seed.compared[name], some): f"seed {seed.place.seed}, images of {name}"
                for seed in seeds
                for name, some in folders[seed.place.seed].items()
            }
            _wait(pending)


def _wait(pending: Mapping[concurrent.futures.Future[None], str]) -> None:
    started = time.monotonic()
    for done in concurrent.futures.as_completed(pending):
        done.result()
        print(f"{pending[done]}: done after {time.monotonic() - started:.0f} s", flush=True)


def own_guidance(workers: Workers, seeds: Sequence[Seed], scales: Sequence[float]) -> dict[int, dict[str, Sweep]]:
    """Seed -> model -> what it reaches at each guidance scale, on validation prompts."""
    wide = {
        seed.place.seed: {name: validation(seed.validation, name, scales) for name in seed.compared} for seed in seeds
    }
    workers.draw(seeds, wide)
    return {
        seed.place.seed: {name: sweep(seed.place, seed.validation, name, scales) for name in seed.compared}
        for seed in seeds
    }


def measure(
    workers: Workers, seeds: Sequence[Seed], kind: str, scales: Mapping[int, Mapping[str, float]]
) -> dict[str, Any]:
    """Draws the held-out prompts at each model's guidance and compares; scales: seed -> model -> its scale."""
    folders = {
        seed.place.seed: {
            name: [Folder(seed.held_out, f"{kind}/{name}", scales[seed.place.seed][name])] for name in seed.compared
        }
        for seed in seeds
    }
    workers.draw(seeds, folders)
    by_seed: dict[int, list[PromptResult]] = {
        seed.place.seed: judge(
            seed.held_out, seed.place.root, {name: f"{kind}/{name}" for name in seed.compared}, f"{kind}.jsonl"
        )
        for seed in seeds
    }
    return compare(by_seed, seeds[0].compared)


def options_of() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="*", help="which; all if none is named")
    parser.add_argument("--model", type=Path, default=of_package("assets/shapes-sd"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[SETTINGS.seed], help="pooled, and each by itself")
    parser.add_argument("--guidance", type=float, default=SETTINGS.guidance_scale)
    parser.add_argument("--own-guidance", action="store_true", help="also each model at its own best scale")
    parser.add_argument("--scales", type=float, nargs="+", default=SCALES, help="among which it is chosen")
    parser.add_argument("--negative", nargs="+", default=[], help="negative models, each as NAME or NAME:beta")
    parser.add_argument("--negative-alpha", type=float, nargs="+", default=[1.0], help="shares of a study's LoRA there")
    parser.add_argument("--jobs", type=int, default=max(1, min(4, (os.cpu_count() or 1))), help="studies at once")
    parser.add_argument("--prompts", type=int, default=SETTINGS.prompts, help="held-out prompts of each seed")
    parser.add_argument(
        "--validation", type=int, default=SETTINGS.validation_prompts, help="prompts that choose scales"
    )
    parser.add_argument("--root", type=Path, default=Path("runs/methods"))
    parser.add_argument("--out", type=Path, default=Path("assets/benchmarks"))
    parser.add_argument("--name", default="methods", help="stem of the files in --out")
    return parser.parse_args()


def main() -> None:
    options = options_of()
    seeds = [choose(options, seed) for seed in options.seeds]
    workers, model = Workers(options.jobs), options.model.name
    guidance: float = options.guidance
    workers.train(seeds)
    equal = {seed: dict.fromkeys(seeds[0].compared, guidance) for seed in options.seeds}
    found = measure(workers, seeds, "images", equal)
    about = {
        "machine": platform.processor() or platform.machine(),
        "prompts": options.prompts,
        "guidance": guidance,
        "seeds": options.seeds,
    }
    head = f"{options.prompts:,} held-out prompts, {model}, seeds {', '.join(map(str, options.seeds))}"
    told = table(found, f"{head}; guidance {guidance:g}; differences in points")
    content = {**about, "studies": found}
    if options.own_guidance:
        sweeps = own_guidance(workers, seeds, options.scales)
        own = {seed: {name: best_scale(one) for name, one in models.items()} for seed, models in sweeps.items()}
        content |= {"own": measure(workers, seeds, "own", own), "own_guidance": own, "sweep": sweeps}
        told += "\n" + table(content["own"], f"{head}; each at its own guidance; differences in points", own)
    stem = f"{options.name}_{model}"
    with atomic_write(options.out / f"{stem}.json") as partial:
        partial.write_text(json.dumps(content, indent=1), encoding="utf-8")
    with atomic_write(options.out / f"{stem}.md") as partial:
        partial.write_text(told, encoding="utf-8")
    if "soup_0.5" in found and "weighted_0.5" in found:
        with atomic_write(options.out / f"pareto_{model}.svg") as partial:
            partial.write_text(pareto(found), encoding="utf-8")
    print(told)


if __name__ == "__main__":
    main()
