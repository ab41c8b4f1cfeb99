"""The demo: aligns the embedded model on this machine through the real data path, and measures what was gained.

Everything is in one folder: `pairs/` (images, pairs.csv), `training/` (a run like any other), `base/` and `aligned/`
(images of held-out prompts from equal seeds), verdicts.jsonl, summary.json and report.html. What is there is not made
again, so the same command goes on after a stop.
"""

from __future__ import annotations

import json
import os
import shlex
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from t2ialign.companion import Companion
from t2ialign.config import Config, parse, read_yaml
from t2ialign.errors import EnvironmentProblem, InputError
from t2ialign.evaluation import MEASURES, compare, compare_criteria, judge
from t2ialign.feedback import Built, Pairing, build_pairs
from t2ialign.files import whole_file
from t2ialign.generate import RECORD, generate_folder
from t2ialign.progress import track
from t2ialign.report import SUMMARY, TRAINING, write_report
from t2ialign.rewards.base import parse_reward
from t2ialign.rollout import Guidance
from t2ialign.run import locked, open_policy, train
from t2ialign.shapes.caption import prompts as shapes_prompts

SETTINGS = "demo.json"
TIMINGS = "timings.json"
MAX_THREADS = 4
"""Of each process; the embedded model is too small to gain from more."""


@dataclass(frozen=True)
class Settings:
    """What the demo does; the defaults fit in minutes on two cores."""

    prompts: int = 1000
    """Held-out prompts that are measured, one image each from base and aligned model."""
    seed: int = 0
    """Of prompts, images and training."""
    pair_prompts: int = 400
    """Prompts of the training split that pairs are made of."""
    images_per_prompt: int = 4
    """Candidates of each of them."""
    reward: str = "shapes.mixed"
    """What labels the candidates."""
    keep: str = "best_worst"
    """Which candidates of a prompt become pairs, as in `t2ialign data build`."""
    margin: float = 0.0
    """Scores that differ by no more are a tie."""
    guidance_scale: float = 3.0
    """Of candidates and of measured images."""
    inference_steps: int = 15
    """DDIM steps of both."""
    batch: int = 50
    """Images made at once by a process."""
    overrides: dict[str, Any] = field(default_factory=dict)
    """Dotted config key -> value, instead of what configs/shapes_dpo.yaml says."""


@dataclass(frozen=True)
class ImageJob:
    """A folder of images to make; picklable, so that a second process can share it."""

    model: Path
    lora: Path | None
    prompts: list[str]
    out: Path
    images_per_prompt: int
    seed: int
    guidance_scale: float
    steps: int
    batch: int

    @property
    def total(self) -> int:
        return len(self.prompts) * self.images_per_prompt


def run_demo(
    run_dir: Path,
    *,
    prompts: int = Settings.prompts,
    seed: int = Settings.seed,
    settings: Settings | None = None,
    model: Path | None = None,
    config: Path | None = None,
    processes: int | None = None,
    console: Console | None = None,
) -> dict[str, Any]:
    """Runs the demo, or goes on with it, or shows what a finished one measured; returns its summary.

    Args:
        run_dir: folder of everything the demo makes.
        prompts: held-out prompts that are measured.
        seed: of prompts, images and training.
        settings: all of it, instead of `prompts` and `seed`.
        model: a diffusers folder that knows Shapes; the shipped one if not said.
        config: the training config; the shipped configs/shapes_dpo.yaml if not said.
        processes: 1 or 2; two where the machine has the cores and no GPU, if not said.
        console: where the result is shown.

    Raises:
        InputError: the folder holds a demo with other settings, or another process works in it.
        TryAgainError: the disk is full; the same command goes on.
        Interrupted: the user stopped; the same command goes on.
    """
    settings = settings or Settings(prompts=prompts, seed=seed)
    console = console or Console()
    model, config = model or shipped("assets/shapes-sd"), config or shipped("configs/shapes_dpo.yaml")
    with locked(run_dir):
        _claim(run_dir, settings, model)
        if (run_dir / SUMMARY).is_file():
            console.print(f"{run_dir} is finished; remove it to run the demo again")
        else:
            _run(run_dir, settings, model, config, processes or _processes())
        summary = json.loads((run_dir / SUMMARY).read_text(encoding="utf-8"))
        if not (run_dir / "report.html").is_file():
            write_report(run_dir)
    _show(run_dir, summary, model, config, console)
    return summary


def shipped(path: str) -> Path:
    """A file or folder that comes with the package: beside its modules, or in the repository's root.

    Raises:
        EnvironmentProblem: it is not there.
    """
    package = Path(__file__).resolve().parent
    for root in (package, package.parent):
        if (root / path).exists():
            return _short(root / path)
    raise EnvironmentProblem(f"{path} is not part of this installation; install t2ialign again, or from its repository")


def _short(path: Path) -> Path:
    """The path as a user would type it here."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def _claim(run_dir: Path, settings: Settings, model: Path) -> None:
    """Makes the folder this demo's.

    Raises:
        InputError: it holds a demo with other settings, or something else.
    """
    path = run_dir / SETTINGS
    wanted = {**asdict(settings), "model": str(model.resolve())}
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
    with whole_file(path) as partial:
        partial.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _processes() -> int:
    return 1 if torch.cuda.is_available() or _cores() < 2 else 2


def _run(run_dir: Path, settings: Settings, model: Path, config: Path, processes: int) -> None:
    threads = 1 if processes > 1 and _cores() <= MAX_THREADS else max(1, min(MAX_THREADS, _cores() // processes))
    torch.set_num_threads(threads)
    with Console(stderr=True).status("choosing held-out prompts, a few seconds"):
        held_out = shapes_prompts("test", settings.prompts, settings.seed)
    base = _measured_images(settings, model, None, held_out, run_dir / "base")
    companion: AbstractContextManager[Companion | None] = Companion() if processes > 1 else nullcontext()
    with companion as second:
        with _timed(run_dir, "making pairs"):
            built = _build(run_dir, settings, model, second, threads)
        with _timed(run_dir, "training"):
            if second is not None:  # the base's images do not wait for the training
                second.start(make_images, base, (0, 1), threads, False)
            lora = train(_training_config(run_dir, settings, model, config))
        with _timed(run_dir, "making images of held-out prompts"):
            if second is not None:
                _await(second, base)
            else:
                make_images(base, (0, 1), threads, True)
            aligned = _measured_images(settings, model, lora, held_out, run_dir / "aligned")
            _make_together(aligned, second, threads)
    with _timed(run_dir, "verifying"):
        rows = judge(held_out, run_dir)
    summary = _summarise(run_dir, settings, model, built, rows)
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


def _measured_images(settings: Settings, model: Path, lora: Path | None, prompts: list[str], out: Path) -> ImageJob:
    # one seed for base and aligned: image i starts from the same noise in both
    return ImageJob(
        model, lora, prompts, out, 1, settings.seed, settings.guidance_scale, settings.inference_steps, settings.batch
    )


def _build(run_dir: Path, settings: Settings, model: Path, second: Companion | None, threads: int) -> Built:
    """Candidates of training prompts, scored, and pairs of them in `pairs/`."""
    job = ImageJob(
        model=model,
        lora=None,
        prompts=shapes_prompts("train", settings.pair_prompts, settings.seed),
        out=run_dir / "pairs" / "images",
        images_per_prompt=settings.images_per_prompt,
        seed=settings.seed,
        guidance_scale=settings.guidance_scale,
        steps=settings.inference_steps,
        batch=settings.batch,
    )
    _make_together(job, second, threads)
    pairing = Pairing(settings.keep, settings.margin)  # type: ignore[arg-type]
    rewards = [parse_reward(settings.reward)]
    return build_pairs(run_dir / "pairs", rewards, pairing, images=job.out, seed=settings.seed)


def _make_together(job: ImageJob, second: Companion | None, threads: int) -> None:
    """Makes the job's images, in two processes where there are two."""
    if second is None:
        make_images(job, (0, 1), threads, True)
        return
    second.start(make_images, job, (1, 2), threads, False)
    make_images(job, (0, 2), threads, True)
    _await(second, job)


def make_images(job: ImageJob, shard: tuple[int, int], threads: int, progress: bool) -> None:
    """Makes one process's share of a job's images; see `generate_folder`."""
    torch.set_num_threads(threads)
    policy, mixture = open_policy(str(job.model), loras={} if job.lora is None else {str(job.lora): 1.0})
    generate_folder(
        policy,
        job.prompts,
        job.out,
        images_per_prompt=job.images_per_prompt,
        seed=job.seed,
        guidance=Guidance(job.guidance_scale, mixture, mixture),
        steps=job.steps,
        resolution=None,
        batch=job.batch,
        description={"model": str(job.model), "loras": {} if job.lora is None else {str(job.lora): 1.0}},
        shard=shard,
        progress=progress,
    )


def _await(second: Companion, job: ImageJob) -> None:
    """Waits for the second process, showing how many of the job's images are there."""

    def made() -> Iterator[int]:
        done = 0
        while not second.is_done(0.5):
            there = sum(1 for _ in job.out.glob("*.png")) if job.out.is_dir() else 0
            for _ in range(there - done):
                yield done
            done = max(done, there)

    for _ in track(made(), f"images in {job.out}", job.total):
        pass
    second.finish()


def _training_config(run_dir: Path, settings: Settings, model: Path, config: Path) -> Config:
    """The config file with this demo's paths and seed."""
    content, _ = read_yaml(config)
    changes = {
        "run_dir": str(run_dir / TRAINING),
        "seed": settings.seed,
        "backbone.pretrained": str(model),
        "data.path": str(run_dir / "pairs"),
        **settings.overrides,
    }
    for key, value in changes.items():
        *sections, name = key.split(".")
        section = content
        for part in sections:
            section = section.setdefault(part, {})
        section[name] = value
    return parse(content)


def _summarise(
    run_dir: Path, settings: Settings, model: Path, built: Built, rows: list[dict[str, Any]]
) -> dict[str, Any]:
    config, _ = read_yaml(run_dir / TRAINING / "config.yaml")
    record = json.loads((run_dir / "base" / RECORD).read_text(encoding="utf-8"))
    lora, steps = config["lora"], config["train"]["steps"]
    return {
        "title": "Diffusion-DPO on Shapes",
        "sentence": (
            f"The embedded model made {built.totals.images:,} images of {built.totals.prompts} training prompts, the "
            f"reward {settings.reward} ranked them, and Diffusion-DPO trained a rank-{lora['rank']} LoRA on the "
            f"{built.totals.pairs} resulting pairs for {steps} steps. Base and aligned model then each drew "
            f"{len(rows):,} held-out prompts from the same noise."
        ),
        "prompts": len(rows),
        "images_per_prompt": 1,
        "measures": [{"key": key, "name": name, "meaning": meaning} for key, (name, meaning) in MEASURES.items()],
        **{key: compare(rows, key, settings.seed) for key in MEASURES},
        "criteria": compare_criteria(rows, settings.seed),
        "unreadable": {side: sum(row[side]["unreadable"] is not None for row in rows) for side in ("base", "aligned")},
        "pairs": built.totals._asdict(),
        "caveats": [
            "One training run with one seed. The intervals say how the result varies with the held-out prompts, not "
            "with the training seed.",
            f"One image a prompt, guidance {settings.guidance_scale:g}, {settings.inference_steps} DDIM steps; other "
            "settings give other numbers.",
            "The held-out prompts combine known words in ways that no training pair did. They are of the same small "
            "world: nothing follows for photographs.",
            "The labels of the training pairs come from the same verifier and the same taste that measure the result. "
            "That is the aim of this demo; on real data, measure with another judge than the one that labelled.",
        ],
        "settings": {
            "model": str(model),
            "weights": record["fingerprint"],
            "seed": settings.seed,
            "reward of the pairs": settings.reward,
            "training prompts": settings.pair_prompts,
            "candidates a prompt": settings.images_per_prompt,
            "pairs": built.totals.pairs,
            "guidance": settings.guidance_scale,
            "DDIM steps": settings.inference_steps,
        },
        "timings_seconds": json.loads((run_dir / TIMINGS).read_text()),
    }


def _show(run_dir: Path, summary: Mapping[str, Any], model: Path, config: Path, console: Console) -> None:
    console.print(summary_table(summary))
    minutes, seconds = divmod(round(sum(summary["timings_seconds"].values())), 60)
    console.print(f"{summary['sentence']} It took {minutes} min {seconds} s.", highlight=False)
    console.print(f"\n[bold]Look at it[/bold]\n  {run_dir / 'report.html'}", highlight=False, soft_wrap=True)
    for what, command in next_commands(run_dir, model, config, summary["settings"]["guidance"]):
        console.print(f"\n[bold]{what}[/bold]", highlight=False)
        console.print(f"  {command}", highlight=False, markup=False, soft_wrap=True)


def summary_table(summary: Mapping[str, Any]) -> Table:
    """The headline: both models, the difference in points, and its interval."""
    table = Table(title=f"{summary['prompts']:,} held-out prompts, equal seeds", title_justify="left")
    table.add_column("")
    for column in ("base", "aligned", "difference", "95 % interval"):
        table.add_column(column, justify="right")
    for measure_ in summary["measures"]:
        entry = summary[measure_["key"]]
        shift = entry["difference"]
        style = "green" if shift["low"] > 0 else "red" if shift["high"] < 0 else ""
        table.add_row(
            measure_["name"],
            f"{entry['base']:.1%}",
            f"{entry['aligned']:.1%}",
            f"{100 * shift['mean']:+.1f} points",
            f"{100 * shift['low']:+.1f} to {100 * shift['high']:+.1f}",
            style=style,
        )
    return table


def next_commands(run_dir: Path, model: Path, config: Path, guidance: float) -> list[tuple[str, str]]:
    """(what for, command) of what a newcomer may want to do next; each works as it stands."""
    beside = run_dir.parent
    paths = (run_dir / TRAINING, run_dir / "pairs", beside / "drawn", beside / "mine", model, config)
    run, pairs, drawn, mine, base, recipe = (shlex.quote(str(path)) for path in paths)
    return [
        (
            "Draw a prompt of your own with the aligned model",
            f"t2ialign generate --model {base} --lora {run} --guidance {guidance:g} "
            f'--prompt "a red circle above a blue square" --out {drawn}',
        ),
        ("Look at the pairs it learnt from", f"t2ialign data inspect {pairs}"),
        (
            "Train again, with a change (every key: t2ialign keys)",
            f"t2ialign train {recipe} backbone.pretrained={base} data.path={pairs} run_dir={mine} objective.beta=500",
        ),
    ]
