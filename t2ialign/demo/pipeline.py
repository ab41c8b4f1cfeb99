"""The demo: aligns the embedded model on this machine through the real data path, and measures what was gained.

Everything is in one folder: `pairs/` (images, pairs.csv; not where pairs are shipped), `training/` and `training_sft/`
(runs like any other), `base/`, `sft/` and `aligned/` (images of held-out prompts from equal seeds and at equal
guidance), `validation/` and `own/` (images that choose each model's own guidance, and images at it), tables of
verdicts, summary.json, sheet.png and report.html. What is there is not made again, so the same command goes on after
a stop.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from t2ialign.backbones.facts import read_facts
from t2ialign.demo.evaluation import PromptResult, compare_criteria, compare_models, criterion, judge
from t2ialign.demo.evaluation import mean as mean_of
from t2ialign.demo.pair_set import find_pairs, make_pairs, weights_digest
from t2ialign.demo.settings import (
    NEGATIVE_KEYS,
    ONLINE,
    ONLINE_KEYS,
    SETTINGS_FILE,
    SHEET,
    TIMINGS,
    WITH_NEGATIVE,
    Demo,
    Recipes,
    Settings,
    image_job,
)
from t2ialign.demo.sheet import write_sheet
from t2ialign.demo.summary import summarise
from t2ialign.demo.tables import show
from t2ialign.demo.training import train_all
from t2ialign.demo.verification import agreement, read_independently
from t2ialign.errors import InputError
from t2ialign.generation.shards import ImageModel, make_images
from t2ialign.generation.worker import WorkerProcess
from t2ialign.models import check_negative, family_of
from t2ialign.progress import plain_console
from t2ialign.report.page import write_report
from t2ialign.report.run_folder import SUMMARY, VERDICTS
from t2ialign.shapes.caption import prompts as shapes_prompts
from t2ialign.storage.atomic import atomic_write
from t2ialign.storage.lock import lock_folder
from t2ialign.storage.resources import shipped
from t2ialign.training.run_folder import IN_USE

MAX_THREADS = 4
"""Of each process; the embedded model is too small to gain from more."""


def run_demo(
    run_dir: Path,
    *,
    prompts: int = Settings.prompts,
    seed: int = Settings.seed,
    settings: Settings | None = None,
    model: Path | None = None,
    recipes: Recipes | None = None,
    processes: int | None = None,
    console: Console | None = None,
) -> dict[str, Any]:
    """Runs the demo, or goes on with it, or shows what a finished one measured; returns its summary.

    Args:
        run_dir: folder of everything the demo makes.
        prompts: held-out prompts that are measured.
        seed: of prompts, images and training.
        settings: all of them, instead of `prompts` and `seed`.
        model: a diffusers folder that knows Shapes. Default: the shipped assets/shapes-sd.
        recipes: default: the shipped configs.
        processes: 1 or 2. Default: 2 where the machine has the cores and no GPU.
        console: where the result is shown.

    Raises:
        InputError: the folder holds a demo with other settings, or another process works in it.
        TryAgainError: the disk is full; the same command goes on.
        Interrupted: the user stopped; the same command goes on.
    """
    settings = settings or Settings(prompts=prompts, seed=seed)
    console = console or plain_console()
    model = model or shipped("assets/shapes-sd")
    recipes = recipes or Recipes(*(shipped(f"configs/shapes_{name}.yaml") for name in ("dpo", "sft", "nft")))
    with lock_folder(run_dir, busy=IN_USE):
        _write_settings(run_dir, settings, model, recipes)
        if (run_dir / SUMMARY).is_file():
            console.print(f"{run_dir} is finished; remove it to run the demo again")
        else:
            _run(run_dir, settings, model, recipes, processes or default_processes())
        summary = json.loads((run_dir / SUMMARY).read_text(encoding="utf-8"))
        if not (run_dir / SHEET).is_file():
            write_sheet(run_dir, run_dir / SHEET)
        if not (run_dir / "report.html").is_file():
            write_report(run_dir)
    show(run_dir, summary, model, recipes, console)
    return summary


def _write_settings(run_dir: Path, settings: Settings, model: Path, recipes: Recipes) -> None:
    """Writes the settings that a finished or continued demo must have.

    Raises:
        InputError: it holds a demo with other settings, weights or recipes, or something else.
    """
    path = run_dir / SETTINGS_FILE
    used = {name: recipe for name, recipe in recipes._asdict().items() if name != ONLINE or settings.online}
    digests = {name: hashlib.sha256(recipe.read_bytes()).hexdigest()[:16] for name, recipe in used.items()}
    made_of = {"model": str(model.resolve()), "weights": weights_digest(model), "recipes": digests}
    wanted = json.loads(json.dumps({**settings.as_dict(), **made_of}))
    if path.is_file():
        found = json.loads(path.read_text(encoding="utf-8"))
        changed = [
            f"{key}: {found.get(key)!r} there, {wanted.get(key)!r} now"
            for key in dict.fromkeys((*wanted, *NEGATIVE_KEYS, *ONLINE_KEYS))
            if found.get(key) != wanted.get(key)
        ]
        if changed:
            raise InputError(
                f"{run_dir}: holds a demo with other settings ({'; '.join(changed)}); give another --run-dir, or "
                "remove the folder"
            )
        return
    others = [entry.name for entry in run_dir.iterdir() if not entry.name.startswith(".")]
    if others:
        raise InputError(f"{run_dir}: holds {others[0]}, which is no demo's; give another --run-dir")
    _write_json(path, wanted)


def _write_json(path: Path, content: Any) -> None:
    with atomic_write(path) as partial:
        partial.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_processes() -> int:
    """2 where the machine has the cores and no GPU, else 1."""
    return 1 if torch.cuda.is_available() or _cores() < 2 else 2


def _run(run_dir: Path, settings: Settings, model: Path, recipes: Recipes, processes: int) -> None:
    facts = read_facts(str(model))
    for path in settings.negative:
        check_negative(path, family=family_of(str(model)), text_width=None if facts is None else facts.text_width)
    threads = 1 if processes > 1 and _cores() <= MAX_THREADS else max(1, min(MAX_THREADS, _cores() // processes))
    torch.set_num_threads(threads)
    second: AbstractContextManager[WorkerProcess | None] = WorkerProcess() if processes > 1 else nullcontext()
    with second as worker:
        summary = _measure_gain(Demo(run_dir, settings, model, recipes, worker, threads))
    _write_json(run_dir / SUMMARY, summary)


def _measure_gain(demo: Demo) -> dict[str, Any]:
    """Makes pairs, trains on them, draws held-out prompts with every model and compares; returns the summary."""
    run_dir, settings = demo.run_dir, demo.settings
    with plain_console(stderr=True).status("choosing held-out prompts, a few seconds"):
        held_out = shapes_prompts("test", settings.prompts, settings.seed)
        validation = shapes_prompts("validation", settings.validation_prompts, settings.seed)
    with _timed(run_dir, "making pairs"):
        pairs = find_pairs(settings, demo.model)
        if pairs is None:
            pairs = make_pairs(run_dir / "pairs", settings, demo.model, demo.worker, demo.threads)
    with _timed(run_dir, "training"):
        loras = train_all(demo, pairs)
        models = _models(demo, loras)
    with _timed(run_dir, "making images at equal guidance"):
        _draw(demo, models, held_out, {name: (name, settings.guidance_scale) for name in loras})
    with _timed(run_dir, "choosing each model's own guidance"):
        sweep = _sweep_guidance(demo, models, validation)
        own = {name: best_scale(sweep[name]) for name in models}
    with _timed(run_dir, "making images at own guidance"):
        some = held_out[: settings.own_prompts]
        # those at equal guidance are drawn already
        others = [name for name in models if name not in loras or own[name] != settings.guidance_scale]
        _draw(demo, models, some, {f"own/{name}": (name, own[name]) for name in others})
    with _timed(run_dir, "verifying"):
        equal_results = judge(held_out, run_dir, {name: name for name in loras}, VERDICTS)
        folders = {name: f"own/{name}" if name in others else name for name in models}
        own_results = judge(some, run_dir, folders, "verdicts_own.jsonl")
        readings = read_independently(run_dir, equal_results[: settings.checked], demo.worker)
    with _timed(run_dir, "comparing"):
        measured = {
            "equal": {
                "guidance": dict.fromkeys(loras, settings.guidance_scale),
                **compare_models(equal_results, tuple(loras), settings.seed),
            },
            "own": {"guidance": own, **compare_models(own_results, tuple(models), settings.seed)},
            "sweep": sweep,
            "criteria": compare_criteria(equal_results, "base", "aligned", settings.seed),
            "independent_verifier": {name: agreement(found) for name, found in readings.items()},
        }
    return summarise(run_dir, settings, demo.model, pairs, measured)


@contextmanager
def _timed(run_dir: Path, stage: str) -> Iterator[None]:
    """Adds the time spent to the stage's, so that the total includes what an interrupted demo spent before."""
    started = time.monotonic()
    try:
        yield
    finally:
        path = run_dir / TIMINGS
        timings = json.loads(path.read_text()) if path.is_file() else {}
        timings[stage] = round(timings.get(stage, 0.0) + time.monotonic() - started, 1)
        _write_json(path, timings)


def _models(demo: Demo, loras: Mapping[str, Path | None]) -> dict[str, ImageModel]:
    """The models that draw, by name."""
    models = {name: ImageModel(demo.model, lora) for name, lora in loras.items()}
    if demo.settings.negative:
        shares = {"negative": demo.settings.negative, "negative_alpha": demo.settings.negative_alpha}
        models[WITH_NEGATIVE] = replace(models["aligned"], **shares)
    return models


def _draw(
    demo: Demo, models: Mapping[str, ImageModel], prompts: list[str], folders: Mapping[str, tuple[str, float]]
) -> None:
    """Makes one image a prompt in each folder; folders: name -> (model, guidance scale)."""
    jobs = [
        image_job(demo.settings, models[name], prompts, demo.run_dir / folder, scale)
        for folder, (name, scale) in folders.items()
    ]
    make_images(jobs, demo.worker, demo.threads)


Scores = dict[str, float]
"""faithfulness, taste, criterion: means over the validation prompts."""


def _sweep_guidance(demo: Demo, models: Mapping[str, ImageModel], prompts: list[str]) -> dict[str, dict[str, Scores]]:
    """Model -> guidance scale -> what it reaches on the validation prompts."""
    folders = {f"validation/{name}/{scale:g}": (name, scale) for name in models for scale in demo.settings.scales}
    _draw(demo, models, prompts, folders)
    results = judge(prompts, demo.run_dir, {folder: folder for folder in folders}, "verdicts_validation.jsonl")
    sweep: dict[str, dict[str, Scores]] = {name: {} for name in models}
    for folder, (name, scale) in folders.items():
        sweep[name][f"{scale:g}"] = _scores(results, folder)
    return sweep


def _scores(results: Sequence[PromptResult], model: str) -> Scores:
    means = {key: mean_of(results, model, key) for key in ("faithfulness", "taste")}
    return {**means, "criterion": criterion(results, model)}


def best_scale(by_scale: Mapping[str, Scores]) -> float:
    """The scale of the highest criterion; of equal ones the lowest."""
    return max((float(scale) for scale in by_scale), key=lambda scale: (by_scale[f"{scale:g}"]["criterion"], -scale))
