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
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table

from t2ialign.config.reader import parse, read_yaml
from t2ialign.config.schema import Config
from t2ialign.demo.evaluation import (
    MEASURES,
    Row,
    agreement,
    compare_criteria,
    compare_models,
    criterion,
    judge,
    second_look,
)
from t2ialign.demo.evaluation import mean as mean_of
from t2ialign.demo.pair_set import PairSet, shipped_pairs, weights_digest
from t2ialign.demo.sheet import write_sheet
from t2ialign.errors import InputError
from t2ialign.feedback.build import build_pairs
from t2ialign.feedback.pairing import Pairing
from t2ialign.generation.folder import RECORD
from t2ialign.generation.shards import ImageJob, make_images
from t2ialign.generation.worker import WorkerProcess
from t2ialign.models import family_of
from t2ialign.report.page import SUMMARY, TRAINING, VERDICTS, write_report
from t2ialign.rewards.base import parse_reward
from t2ialign.shapes.caption import prompts as shapes_prompts
from t2ialign.storage.atomic import atomic_write
from t2ialign.storage.lock import lock_folder
from t2ialign.storage.resources import find_shipped, shipped
from t2ialign.training.run_folder import IN_USE, result_path
from t2ialign.training.train import train

SETTINGS = "demo.json"
TIMINGS = "timings.json"
SHEET = "sheet.png"
MODELS = ("base", "sft", "aligned")
"""What is measured: the model as it is, after SFT on the winners, and after Diffusion-DPO on the pairs."""
FOLDERS = {"sft": "training_sft", "aligned": TRAINING}
"""Where each is trained."""
MAX_THREADS = 4
"""Of each process; the embedded model is too small to gain from more."""
PASSES_PER_PAIR = 6
"""UNet passes of one row that a pair costs DPO: reference forward, policy forward, policy backward, of two images."""
PASSES_PER_IMAGE = 2
"""The same of a winner in SFT: forward and backward. A backward pass counts as one; by its cost of about two forward
passes SFT would get 8/3 images for each pair, not 3, so that the count is in its favour."""


@dataclass(frozen=True)
class Settings:
    """What the demo does; the defaults fit in minutes on two cores."""

    prompts: int = 1000
    """Held-out prompts that are measured, one image each from every model."""
    seed: int = 0
    """Of prompts, images and training."""
    pair_prompts: int = 800
    """Prompts of the training split that pairs are made of."""
    images_per_prompt: int = 8
    """Candidates of each of them."""
    reward: str = "shapes.mixed"
    """What labels the candidates."""
    keep: str = "best_worst"
    """Which candidates of a prompt become pairs, as in `t2ialign data build`."""
    margin: float = 0.0
    """Scores that differ by no more are a tie."""
    guidance_scale: float = 1.5
    """Of candidates, and of the images that are compared at equal guidance."""
    inference_steps: int = 10
    """DDIM steps of all images."""
    scales: tuple[float, ...] = (1.0, 2.0, 3.0, 5.0, 7.5)
    """Guidance scales among which each model's own is chosen."""
    validation_prompts: int = 100
    """Prompts of the validation split, for each model and scale, that it is chosen on."""
    own_prompts: int = 500
    """Of the held-out prompts, how many are drawn at each model's own guidance: a minute and a half less than all."""
    checked: int = 300
    """Images of base, and as many of the aligned model, that the second reader looks at."""
    batch: int = 50
    """Images made at once by a process."""
    overrides: dict[str, Any] = field(default_factory=dict)
    """Dotted config key -> value, instead of what configs/shapes_dpo.yaml says."""
    sft_overrides: dict[str, Any] = field(default_factory=dict)
    """The same for configs/shapes_sft.yaml."""


class Recipes(NamedTuple):
    """The training configs."""

    aligned: Path
    sft: Path


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
        settings: all of it, instead of `prompts` and `seed`.
        model: a diffusers folder that knows Shapes; the shipped assets/shapes-sd if not said.
        recipes: the shipped configs if not said.
        processes: 1 or 2; two where the machine has the cores and no GPU, if not said.
        console: where the result is shown.

    Raises:
        InputError: the folder holds a demo with other settings, or another process works in it.
        TryAgainError: the disk is full; the same command goes on.
        Interrupted: the user stopped; the same command goes on.
    """
    settings = settings or Settings(prompts=prompts, seed=seed)
    console = console or Console()
    model = model or shipped("assets/shapes-sd")
    recipes = recipes or Recipes(shipped("configs/shapes_dpo.yaml"), shipped("configs/shapes_sft.yaml"))
    with lock_folder(run_dir, busy=IN_USE):
        _claim(run_dir, settings, model, recipes)
        if (run_dir / SUMMARY).is_file():
            console.print(f"{run_dir} is finished; remove it to run the demo again")
        else:
            _run(run_dir, settings, model, recipes, processes or _processes())
        summary = json.loads((run_dir / SUMMARY).read_text(encoding="utf-8"))
        if not (run_dir / SHEET).is_file():
            write_sheet(run_dir, run_dir / SHEET)
        if not (run_dir / "report.html").is_file():
            write_report(run_dir)
    _show(run_dir, summary, model, recipes, console)
    return summary


def _claim(run_dir: Path, settings: Settings, model: Path, recipes: Recipes) -> None:
    """Makes the folder this demo's.

    Raises:
        InputError: it holds a demo with other settings, weights or recipes, or something else.
    """
    path = run_dir / SETTINGS
    digests = {name: hashlib.sha256(recipe.read_bytes()).hexdigest()[:16] for name, recipe in recipes._asdict().items()}
    made_of = {"model": str(model.resolve()), "weights": weights_digest(model), "recipes": digests}
    wanted = json.loads(json.dumps({**asdict(settings), **made_of}))
    if path.is_file():
        found = json.loads(path.read_text(encoding="utf-8"))
        changed = [
            f"{key}: {found.get(key)!r} there, {wanted[key]!r} now" for key in wanted if found.get(key) != wanted[key]
        ]
        if changed:
            raise InputError(
                f"{run_dir}: holds a demo with other settings ({'; '.join(changed)}); give another --run-dir, or "
                "remove the folder"
            )
        return
    strangers = [entry.name for entry in run_dir.iterdir() if not entry.name.startswith(".")]
    if strangers:
        raise InputError(f"{run_dir}: holds {strangers[0]}, which is no demo's; give another --run-dir")
    _write_json(path, wanted)


def _write_json(path: Path, content: Any) -> None:
    with atomic_write(path) as partial:
        partial.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _processes() -> int:
    return 1 if torch.cuda.is_available() or _cores() < 2 else 2


def _run(run_dir: Path, settings: Settings, model: Path, recipes: Recipes, processes: int) -> None:
    threads = 1 if processes > 1 and _cores() <= MAX_THREADS else max(1, min(MAX_THREADS, _cores() // processes))
    torch.set_num_threads(threads)
    with Console(stderr=True).status("choosing held-out prompts, a few seconds"):
        held_out = shapes_prompts("test", settings.prompts, settings.seed)
        validation = shapes_prompts("validation", settings.validation_prompts, settings.seed)
    companion: AbstractContextManager[WorkerProcess | None] = WorkerProcess() if processes > 1 else nullcontext()
    with companion as second:
        with _timed(run_dir, "making pairs"):
            pairs = find_pairs(settings, model) or make_pairs(run_dir, settings, model, second, threads)
        with _timed(run_dir, "training"):
            loras = _train_both(run_dir, settings, model, recipes, pairs, second, threads)
        with _timed(run_dir, "making images at equal guidance"):
            jobs = [
                _job(settings, model, loras[name], held_out, run_dir / name, settings.guidance_scale) for name in MODELS
            ]
            make_images(jobs, second, threads)
        with _timed(run_dir, "choosing each model's own guidance"):
            jobs = [
                _job(settings, model, loras[name], validation, run_dir / _sweep_folder(name, scale), scale)
                for name in MODELS
                for scale in settings.scales
            ]
            make_images(jobs, second, threads)
            sweep = _sweep(run_dir, settings, validation)
            own = {name: best_scale(sweep[name]) for name in MODELS}
        with _timed(run_dir, "making images at own guidance"):
            others = [name for name in MODELS if own[name] != settings.guidance_scale]
            some = held_out[: settings.own_prompts]
            make_images(
                [_job(settings, model, loras[name], some, run_dir / "own" / name, own[name]) for name in others],
                second,
                threads,
            )
        with _timed(run_dir, "verifying"):
            equal_rows = judge(held_out, run_dir, {name: name for name in MODELS}, VERDICTS)
            folders = {name: f"own/{name}" if name in others else name for name in MODELS}
            own_rows = judge(some, run_dir, folders, "verdicts_own.jsonl")
            looks = _look_again(run_dir, equal_rows[: settings.checked], second)
        with _timed(run_dir, "comparing"):
            measured = {
                "equal": {
                    "guidance": dict.fromkeys(MODELS, settings.guidance_scale),
                    **compare_models(equal_rows, MODELS, settings.seed),
                },
                "own": {"guidance": own, **compare_models(own_rows, MODELS, settings.seed)},
                "sweep": sweep,
                "criteria": compare_criteria(equal_rows, "base", "aligned", settings.seed),
                "second_reader": {name: agreement(rows) for name, rows in looks.items()},
            }
    summary = _summarise(run_dir, settings, model, pairs, measured)
    _write_json(run_dir / SUMMARY, summary)


@contextmanager
def _timed(run_dir: Path, stage: str) -> Iterator[None]:
    """Adds the time spent to the stage's, so that the total of an interrupted demo is true."""
    started = time.monotonic()
    try:
        yield
    finally:
        path = run_dir / TIMINGS
        timings = json.loads(path.read_text()) if path.is_file() else {}
        timings[stage] = round(timings.get(stage, 0.0) + time.monotonic() - started, 1)
        _write_json(path, timings)


def _job(
    settings: Settings, model: Path, lora: Path | None, prompts: list[str], out: Path, scale: float, per_prompt: int = 1
) -> ImageJob:
    # one seed for all models: image i starts from the same noise in each
    return ImageJob(
        model, lora, prompts, out, per_prompt, settings.seed, scale, settings.inference_steps, settings.batch
    )


def find_pairs(settings: Settings, model: Path) -> PairSet | None:
    """The pairs shipped with the package, where they are of this model and made as the settings say."""
    folder = find_shipped(f"assets/pairs/{model.name}")
    return None if folder is None else shipped_pairs(folder, model, pair_settings(settings))


def pair_settings(settings: Settings) -> dict[str, Any]:
    """What decides the pairs, but for the seed."""
    keys = ("pair_prompts", "images_per_prompt", "reward", "keep", "margin", "guidance_scale", "inference_steps")
    return {key: getattr(settings, key) for key in keys}


def make_pairs(run_dir: Path, settings: Settings, model: Path, second: WorkerProcess | None, threads: int) -> PairSet:
    """Candidates of training prompts, scored, and pairs of them in `pairs/`."""
    prompts = shapes_prompts("train", settings.pair_prompts, settings.seed)
    out = run_dir / "pairs"
    job = _job(settings, model, None, prompts, out / "images", settings.guidance_scale, settings.images_per_prompt)
    make_images([job], second, threads)
    pairing = Pairing(settings.keep, settings.margin)  # type: ignore[arg-type]
    built = build_pairs(out, [parse_reward(settings.reward)], pairing, images=job.out, seed=settings.seed)
    return PairSet(out, built.totals._asdict(), settings.seed)


def _train_both(
    run_dir: Path,
    settings: Settings,
    model: Path,
    recipes: Recipes,
    pairs: PairSet,
    second: WorkerProcess | None,
    threads: int,
) -> dict[str, Path | None]:
    """The LoRA of each model; SFT and DPO are trained side by side where there are two processes."""
    dpo = training_content(run_dir / FOLDERS["aligned"], settings, model, recipes.aligned, pairs, settings.overrides)
    sft = training_content(run_dir / FOLDERS["sft"], settings, model, recipes.sft, pairs, settings.sft_overrides)
    sft["train"]["steps"] = equal_steps(parse(dpo), parse(sft))
    if second is None:
        train(parse(sft))
    else:
        second.start(train_quietly, sft, threads)
    aligned = train(parse(dpo))
    if second is not None:
        with Console(stderr=True).status("waiting for the second process to end SFT"):
            second.finish()
    return {"base": None, "sft": result_path(parse(sft)), "aligned": aligned}


def train_quietly(content: dict[str, Any], threads: int) -> None:
    """Trains beside another run, whose progress is shown."""
    torch.set_num_threads(threads)
    train(parse(content), console=Console(quiet=True))


def equal_steps(dpo: Config, sft: Config) -> int:
    """Optimizer steps in which SFT makes as many UNet passes as all of DPO's; see PASSES_PER_PAIR."""
    passes = dpo.train.steps * dpo.train.effective_batch * PASSES_PER_PAIR
    return round(passes / (sft.train.effective_batch * PASSES_PER_IMAGE))


def training_content(
    run_dir: Path, settings: Settings, model: Path, recipe: Path, pairs: PairSet, overrides: Mapping[str, Any]
) -> dict[str, Any]:
    """The config file's content with this demo's paths and seed."""
    content, _ = read_yaml(recipe)
    changes = {
        "run_dir": str(run_dir),
        "seed": settings.seed,
        "backbone.name": family_of(str(model)),
        "backbone.pretrained": str(model),
        "data.path": str(pairs.path),
        **overrides,
    }
    for key, value in changes.items():
        *sections, name = key.split(".")
        section = content
        for part in sections:
            section = section.setdefault(part, {})
        section[name] = value
    return content


def _sweep_folder(model: str, scale: float) -> str:
    return f"validation/{model}/{scale:g}"


Scores = dict[str, float]
"""faithfulness, taste, criterion: means over the validation prompts."""


def _sweep(run_dir: Path, settings: Settings, prompts: list[str]) -> dict[str, dict[str, Scores]]:
    """Model -> guidance scale -> what it reaches on the validation prompts."""
    folders = {f"{name} at {scale:g}": _sweep_folder(name, scale) for name in MODELS for scale in settings.scales}
    rows = judge(prompts, run_dir, folders, "verdicts_validation.jsonl")
    return {name: {f"{scale:g}": _scores(rows, f"{name} at {scale:g}") for scale in settings.scales} for name in MODELS}


def _scores(rows: Sequence[Row], label: str) -> Scores:
    means = {key: mean_of(rows, label, key) for key in ("faithfulness", "taste")}
    return {**means, "criterion": criterion(rows, label)}


def best_scale(by_scale: Mapping[str, Scores]) -> float:
    """The scale of the highest criterion; of equal ones the lowest."""
    return max((float(scale) for scale in by_scale), key=lambda scale: (by_scale[f"{scale:g}"]["criterion"], -scale))


def _look_again(run_dir: Path, rows: list[Row], second: WorkerProcess | None) -> dict[str, list[Row]]:
    """What the second reader sees in the first images of base and aligned model, beside the verifier's verdicts."""
    paths = {name: run_dir / f"second_reader_{name}.jsonl" for name in ("base", "aligned")}
    if second is not None:
        second.start(second_look, rows, "base", run_dir, paths["base"])
    else:
        second_look(rows, "base", run_dir, paths["base"])
    second_look(rows, "aligned", run_dir, paths["aligned"])
    if second is not None:
        second.finish()
    return {
        name: [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for name, path in paths.items()
    }


def _summarise(
    run_dir: Path, settings: Settings, model: Path, pairs: PairSet, measured: Mapping[str, Any]
) -> dict[str, Any]:
    config, _ = read_yaml(run_dir / FOLDERS["aligned"] / "config.yaml")
    sft, _ = read_yaml(run_dir / FOLDERS["sft"] / "config.yaml")
    record = json.loads((run_dir / "base" / RECORD).read_text(encoding="utf-8"))
    steps, batch = config["train"]["steps"], config["train"]["effective_batch"]
    totals = pairs.totals
    return {
        "title": f"Diffusion-DPO on Shapes: {model.name}",
        "sentence": (
            f"The embedded model made {totals['images']:,} images of {totals['prompts']} training prompts, the reward "
            f"{settings.reward} ranked them, and Diffusion-DPO trained a rank-{config['lora']['rank']} LoRA on the "
            f"{totals['pairs']} resulting pairs for {steps} steps. SFT had the winners of the same pairs and as many "
            f"UNet passes. Base, SFT and aligned model then each drew {settings.prompts:,} held-out prompts from the "
            "same noise."
        ),
        "measures": [{"key": key, "name": name, "meaning": meaning} for key, (name, meaning) in MEASURES.items()],
        **measured,
        "goals": goals(measured),
        "pairs": totals,
        "caveats": [
            "One training run with one seed. The intervals say how the result varies with the held-out prompts, not "
            "with the training seed.",
            f"One image a prompt, {settings.inference_steps} DDIM steps; other settings give other numbers.",
            "The held-out prompts combine known words in ways that no training pair did. They are of the same small "
            "world: nothing follows for photographs.",
            "The labels of the training pairs come from the same verifier and the same taste that measure the result. "
            "That is the aim of this demo; on real data, measure with another judge than the one that labelled. The "
            "second reader says how far the verifier itself can be trusted.",
            "Diversity is measured over the prompts of a family, with one image a prompt: it does not see a model that "
            "draws one prompt always alike but different prompts differently.",
        ],
        "settings": {
            "model": str(model),
            "weights": record["fingerprint"],
            "seed": settings.seed,
            "reward of the pairs": settings.reward,
            "training prompts": settings.pair_prompts,
            "candidates a prompt": settings.images_per_prompt,
            "pairs": f"{totals['pairs']}, made with seed {pairs.seed}{', shipped' if pairs.shipped else ''}",
            "guidance of the candidates": settings.guidance_scale,
            "DDIM steps": settings.inference_steps,
            "UNet passes of DPO": f"{steps} steps x {batch} pairs x {PASSES_PER_PAIR}",
            "UNet passes of SFT": (
                f"{sft['train']['steps']} steps x {sft['train']['effective_batch']} images x {PASSES_PER_IMAGE}"
            ),
            "own guidance chosen by": "mean of faithfulness and taste, of equal ones the lower scale, on "
            f"{settings.validation_prompts} validation prompts a model and scale",
        },
        "timings_seconds": json.loads((run_dir / TIMINGS).read_text()),
    }


def goals(measured: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What the demo is to show, at equal guidance, and whether it does: goal, seen, reached."""
    over_base = measured["equal"]["differences"]["aligned - base"]
    over_sft = measured["equal"]["differences"]["aligned - sft"]
    diversity = measured["equal"]["diversity"]["aligned"]["diversity"]
    agreed = [reader["verdicts"]["mean"] for reader in measured["second_reader"].values()]

    def points(shift: Mapping[str, float]) -> str:
        return f"{100 * shift['mean']:+.1f} points ({100 * shift['low']:+.1f} to {100 * shift['high']:+.1f})"

    faithful, liked, more = (over_base[key] for key in ("faithfulness", "taste_satisfied", "more_to_taste"))
    found = [
        (
            "Faithfulness at least 5 points above base, its interval above zero",
            points(faithful),
            faithful["mean"] >= 0.05 and faithful["low"] > 0,
        ),
        ("Taste satisfied at least 25 points more often than by base", points(liked), liked["mean"] >= 0.25),
        (
            "More to taste than base's picture at least 25 points more often than less",
            points(more),
            more["mean"] >= 0.25,
        ),
        *(
            (f"{MEASURES[key][0]} above SFT, the interval above zero", points(over_sft[key]), over_sft[key]["low"] > 0)
            for key in ("faithfulness", "taste_satisfied")
        ),
        (
            "Diversity at least 0.9 of base",
            "not measured" if diversity is None else "{mean:.2f} ({low:.2f} to {high:.2f})".format(**diversity),
            diversity is not None and diversity["mean"] >= 0.9,
        ),
        (
            "Both readers agree on at least 97 % of verdicts, of base and of aligned",
            " and ".join(f"{share:.1%}" for share in agreed),
            min(agreed) >= 0.97,
        ),
    ]
    return [{"goal": goal, "seen": seen, "reached": bool(reached)} for goal, seen, reached in found]


def _show(run_dir: Path, summary: Mapping[str, Any], model: Path, recipes: Recipes, console: Console) -> None:
    for table in summary_tables(summary):
        console.print(table)
        console.print()
    for goal in summary["goals"]:
        mark = "[green]reached[/green]    " if goal["reached"] else "[red]not reached[/red]"
        console.print(f"{mark} {goal['goal']}: {goal['seen']}", highlight=False)
    minutes, seconds = divmod(round(sum(summary["timings_seconds"].values())), 60)
    console.print(f"\n{summary['sentence']} It took {minutes} min {seconds} s.", highlight=False)
    console.print(f"\n[bold]Look at it[/bold]\n  {run_dir / 'report.html'}", highlight=False, soft_wrap=True)
    for what, command in next_commands(run_dir, model, recipes, summary["own"]["guidance"]["aligned"]):
        console.print(f"\n[bold]{what}[/bold]", highlight=False)
        console.print(f"  {command}", highlight=False, markup=False, soft_wrap=True)


def summary_tables(summary: Mapping[str, Any]) -> list[Table]:
    """All models at equal guidance, and each at its own: means, and differences in points with 95 % intervals."""
    titles = {"equal": "equal guidance", "own": "each model at its own best guidance"}
    return [
        _table(summary, summary[key], f"{summary[key]['prompts']:,} held-out prompts, {titles[key]}") for key in titles
    ]


def _table(summary: Mapping[str, Any], compared: Mapping[str, Any], title: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for name in MODELS:
        table.add_column(f"{name}, {compared['guidance'][name]:g}", justify="right")
    shown = ("aligned - base", "aligned - sft")
    for pair in shown:
        table.add_column(f"{pair}, points", justify="right")
    for entry in summary["measures"]:
        key = entry["key"]
        means = [f"{compared['models'][name][key]:.1%}" if key != "more_to_taste" else "" for name in MODELS]
        shifts = [compared["differences"][pair][key] for pair in shown]
        style = "green" if shifts[0]["low"] > 0 else "red" if shifts[0]["high"] < 0 else ""
        table.add_row(entry["name"], *means, *(interval(shift) for shift in shifts), style=style)
    return table


def interval(shift: Mapping[str, float]) -> str:
    """A difference in points with its interval, for example "+5.1 (+2.7 to +7.5)"."""
    return "{:+.1f} ({:+.1f} to {:+.1f})".format(*(100 * shift[key] for key in ("mean", "low", "high")))


def next_commands(run_dir: Path, model: Path, recipes: Recipes, guidance: float) -> list[tuple[str, str]]:
    """(what for, command) of what a newcomer may want to do next; each works as it stands."""
    beside = run_dir.parent
    config, _ = read_yaml(run_dir / TRAINING / "config.yaml")
    paths = (run_dir / TRAINING, config["data"]["path"], beside / "drawn", beside / "mine", model, recipes.aligned)
    run, pairs, drawn, mine, base, recipe = (shlex.quote(str(path)) for path in paths)
    family = config["backbone"]["name"]
    return [
        (
            "Draw a prompt of your own with the aligned model",
            f"t2ialign generate --model {base} --lora {run} --guidance {guidance:g} "
            f'--prompt "a red circle above a blue square" --out {drawn}',
        ),
        ("Look at the pairs it learnt from", f"t2ialign data inspect {pairs}"),
        (
            "Train again, with a change (every key: t2ialign keys)",
            f"t2ialign train {recipe} backbone.name={family} backbone.pretrained={base} data.path={pairs} "
            f"run_dir={mine} objective.beta=500",
        ),
    ]
