"""The `t2ialign` command. Each function calls one library function; torch is imported inside: --help is quick."""

from __future__ import annotations

import math
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from t2ialign.cli import data as cli_data
from t2ialign.errors import InputError, UserError

if TYPE_CHECKING:
    from t2ialign.policy import Policy

app = typer.Typer(
    help="Align text-to-image diffusion models with preferences, and measure that it worked.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
data = typer.Typer(help="Look at preference data, or build it from a model and a reward.", no_args_is_help=True)
app.add_typer(data, name="data")
out = Console()
err = Console(stderr=True)

Model = Annotated[str, typer.Option("--model", help="Diffusers folder, .safetensors file or hub id.")]
Family = Annotated[str | None, typer.Option(help="sd15 or sdxl, where the model does not say.")]
Loras = Annotated[
    list[str] | None, typer.Option("--lora", help="LoRA or run folder, with :scale if not 1. Repeatable.")
]
Precision = Annotated[str, typer.Option(help="fp32, bf16 or fp16.")]
Guide = Annotated[float, typer.Option("--guidance", min=1.0, help="Classifier-free guidance scale.")]
Steps = Annotated[int, typer.Option("--steps", min=1, help="DDIM steps.")]
Side = Annotated[int | None, typer.Option("--resolution", help="Side in px; the model's own if not said.")]
AtOnce = Annotated[int, typer.Option("--batch", min=1, help="Images made at once.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of all randomness.")]


def _scaled(options: list[str] | None) -> dict[str, float]:
    """{'path': scale} of `path` and `path:scale` options; a path that exists as it stands is a path."""
    scales: dict[str, float] = {}
    for option in options or []:
        path, scale = _path_and_scale(option)
        if path in scales:
            raise InputError(f"--lora {option}: {path} is given twice; give each LoRA once, with its whole scale")
        scales[path] = scale
    return scales


def _path_and_scale(option: str) -> tuple[str, float]:
    path, colon, scale = option.rpartition(":")
    if not colon or Path(option).exists():
        return option, 1.0
    try:
        number = float(scale)
    except ValueError:
        if not Path(path).exists():
            return option, 1.0  # the colon belongs to the path, as in C:\loras; whoever opens it says what is missing
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"--lora {option}: the scale {scale!r} is no number; write for example {path}:0.5")
    return path, number


def _policy(model: str, family: str | None, loras: list[str] | None, precision: str) -> tuple[Policy, dict[str, float]]:
    if precision not in ("fp32", "bf16", "fp16"):
        raise InputError(f"--precision {precision}: give fp32, bf16 or fp16")
    from t2ialign.models import open_policy

    return open_policy(model, family=family, loras=_scaled(loras), precision=precision)


@app.command()
def demo(
    run_dir: Annotated[Path, typer.Option(help="Folder of everything the demo makes.")] = Path("runs/demo"),
    prompts: Annotated[int, typer.Option(min=10, help="Held-out prompts that are measured.")] = 1000,
    seed: Seed = 0,
) -> None:
    """Align the embedded model on this machine, offline, and measure the gain with an exact verifier."""
    from t2ialign.demo.pipeline import run_demo

    run_demo(run_dir, prompts=prompts, seed=seed)


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="A YAML file; see configs/.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, as in train.steps=100.")] = None,
) -> None:
    """Start a run, or go on with it: the same command continues from the newest checkpoint."""
    from t2ialign.config.reader import load

    settings = load(config, overrides or [])
    from t2ialign.training.train import train as start

    result = start(settings, console=err)
    out.print(f"saved {result}", soft_wrap=True)


@app.command()
def generate(
    model: Model,
    out_dir: Annotated[Path, typer.Option("--out", help="Folder of the images and generation.json.")],
    prompts: Annotated[
        Path | None,
        typer.Option(help="A text file, a CSV or JSONL with a prompt column, a UniGenBench file, or suite_en."),
    ] = None,
    subset: Annotated[str | None, typer.Option(help="Part of a UniGenBench file: testmini60, testmini120.")] = None,
    prompt: Annotated[list[str] | None, typer.Option(help="A prompt. Repeatable.")] = None,
    lora: Loras = None,
    family: Family = None,
    images_per_prompt: Annotated[int, typer.Option(min=1)] = 1,
    seed: Seed = 0,
    seed_policy: Annotated[
        str, typer.Option(help="keyed; official: --seed + image; per_prompt: --seed + 10000 image + index.")
    ] = "keyed",
    rank: Annotated[int, typer.Option(min=0, help="Which of --world processes that share the folder.")] = 0,
    world: Annotated[int, typer.Option(min=1, help="How many processes share the folder.")] = 1,
    guidance: Guide = 5.0,
    steps: Steps = 30,
    resolution: Side = None,
    batch: AtOnce = 4,
    precision: Precision = "fp32",
) -> None:
    """Make a folder of images; the same command goes on after a stop."""
    if (prompts is None) == (not prompt):
        raise InputError("give either --prompts FILE or --prompt TEXT")
    if subset is not None and prompts is None:
        raise InputError(f"--subset {subset}: is a part of --prompts FILE; name the file")
    if seed_policy not in ("keyed", "official", "per_prompt"):
        raise InputError(f"--seed-policy {seed_policy}: give keyed, official or per_prompt")
    if rank >= world:
        raise InputError(f"--rank {rank}: is one of 0 to {world - 1}, as --world is {world}")
    from t2ialign.data.kinds.prompts import PromptList, read_prompt_list
    from t2ialign.generation.folder import generate_folder
    from t2ialign.sampling.guidance import Guidance

    texts = list(prompt or [])
    wanted = PromptList(texts, list(range(len(texts))), "") if prompts is None else read_prompt_list(prompts, subset)
    policy, mixture = _policy(model, family, lora, precision)
    paths = generate_folder(
        policy,
        wanted.prompts,
        out_dir,
        images_per_prompt=images_per_prompt,
        seed=seed,
        guidance=Guidance(guidance, mixture, mixture),
        steps=steps,
        resolution=resolution,
        batch=batch,
        description={
            "model": model,
            "loras": _scaled(lora),
            "precision": precision,
            "prompts_sha256": wanted.sha256,
        },
        indices=wanted.indices,
        seed_policy=seed_policy,
        shard=(rank, world),
    )
    made = len(paths[rank::world])
    out.print(f"{made} images in {out_dir}{f', share {rank} of {world}' if world > 1 else ''}", soft_wrap=True)


Rewards = Annotated[
    list[str],
    typer.Option(
        "--reward", help="Name, module:attr or file.py:attr, then =WEIGHT,option=value if wanted. Repeatable."
    ),
]


@app.command()
def score(
    folder: Annotated[Path, typer.Argument(help="Images with generation.json, a table, or a text file beside each.")],
    reward: Rewards,
    out_file: Annotated[
        Path | None, typer.Option("--out", help="The table; scores.jsonl in the folder if not said.")
    ] = None,
) -> None:
    """Score a folder of images with one or more rewards."""
    from t2ialign.feedback.scoring import describe_scores, score_folder
    from t2ialign.rewards.base import parse_reward

    scored = score_folder(folder, [parse_reward(text).reward for text in reward], out=out_file)
    out.print(describe_scores(scored.summaries), highlight=False, soft_wrap=True)
    out.print(f"scores in {scored.table}", soft_wrap=True)


@app.command()
def accuracy(
    pairs: Annotated[Path, typer.Argument(help="Held-out pairs: a table or folder.")],
    model: Model,
    lora: Annotated[list[str], typer.Option("--lora", help="LoRA or run folder, with :scale if not 1. Repeatable.")],
    texts: Annotated[bool, typer.Option("--texts", help="Pairs of prompts of one image.")] = False,
    family: Family = None,
    max_pairs: Annotated[int, typer.Option(min=2, help="Pairs asked about, drawn by the seed.")] = 500,
    draws: Annotated[int, typer.Option(min=1, help="Looks at each pair, at fixed timesteps and noise.")] = 10,
    seed: Seed = 0,
    resolution: Side = None,
    batch: AtOnce = 4,
    precision: Precision = "fp32",
) -> None:
    """Say how often a LoRA orders held-out pairs as their labels do, against the model without it."""
    from t2ialign.config.reader import validated
    from t2ialign.training.pair_accuracy import describe, measure_pairs

    name = "text_pairs" if texts else "pairs"
    section = validated("data", {"name": name, "path": pairs, "resolution": resolution})
    policy, mixture = _policy(model, family, lora, precision)
    found = measure_pairs(policy, mixture, section, max_pairs=max_pairs, draws=draws, seed=seed, batch=batch)
    out.print(describe(found), highlight=False, soft_wrap=True)


@data.command("build")
def data_build(
    out_dir: Annotated[Path, typer.Option("--out", help="Folder of the images and pairs.csv.")],
    reward: Rewards,
    model: Annotated[str | None, typer.Option(help="Makes the images: folder, .safetensors file or hub id.")] = None,
    prompts: Annotated[Path | None, typer.Option(help="Prompts for the model.")] = None,
    images: Annotated[Path | None, typer.Option(help="A folder of images to pair, instead of a model.")] = None,
    keep: Annotated[
        str, typer.Option(help="best_worst: one pair a prompt; all: every two beyond the margin.")
    ] = "best_worst",
    margin: Annotated[float, typer.Option(min=0, help="Scores that differ by no more are a tie.")] = 0.0,
    ties: Annotated[str, typer.Option(help="drop or keep.")] = "drop",
    flip: Annotated[float, typer.Option(min=0, max=0.99, help="Share of labels turned around, to study noise.")] = 0.0,
    max_failed: Annotated[
        float, typer.Option(min=0, max=1, help="Share of images that may stay without a score.")
    ] = 0.05,
    lora: Loras = None,
    family: Family = None,
    images_per_prompt: Annotated[int, typer.Option(min=2)] = 4,
    seed: Seed = 0,
    guidance: Guide = 5.0,
    steps: Steps = 30,
    resolution: Side = None,
    batch: AtOnce = 4,
    precision: Precision = "fp32",
) -> None:
    """Build preference pairs: several images a prompt, scored, better against worse."""
    if (images is None) == (model is None or prompts is None):
        raise InputError("give --model and --prompts to make images, or --images with a folder of them")
    from t2ialign.feedback.build import build_pairs, describe_build, generate_pairs
    from t2ialign.feedback.pairing import Pairing
    from t2ialign.rewards.base import parse_reward

    rewards = [parse_reward(text) for text in reward]
    pairing = Pairing(keep, margin, ties, flip)  # type: ignore[arg-type]
    if images is not None:
        built = build_pairs(out_dir, rewards, pairing, images=images, seed=seed, max_failed=max_failed)
    else:
        assert model is not None
        assert prompts is not None
        from t2ialign.data.kinds.prompts import read_prompts
        from t2ialign.sampling.guidance import Guidance

        policy, mixture = _policy(model, family, lora, precision)
        built = generate_pairs(
            out_dir,
            policy,
            read_prompts(prompts),
            rewards,
            pairing,
            images_per_prompt=images_per_prompt,
            seed=seed,
            guidance=Guidance(guidance, mixture, mixture),
            steps=steps,
            resolution=resolution,
            batch=batch,
            description={"model": model, "loras": _scaled(lora), "precision": precision},
            max_failed=max_failed,
        )
    out.print(describe_build(built), highlight=False, soft_wrap=True)


data.command("perturb")(cli_data.perturb)
data.command("relabel")(cli_data.relabel)


@data.command("inspect")
def data_inspect(
    path: Annotated[Path, typer.Argument(help="A table or folder of pairs.")],
    singles: Annotated[bool, typer.Option("--singles", help="Images and prompts, no pairs.")] = False,
    columns: Annotated[list[str] | None, typer.Option(help="meaning=column, as in chosen=better. Repeatable.")] = None,
    warn: Annotated[
        float, typer.Option(min=0.5, max=1, help="Warn where the label follows what should not matter: AUC above this.")
    ] = 0.65,
) -> None:
    """Say how a data set is understood, account for every row of it, and what else its labels follow."""
    from t2ialign.config.reader import validated
    from t2ialign.data.inspect.summary import render, summarise

    named = dict(column.split("=", 1) for column in columns or [] if "=" in column)
    content = {"name": "singles" if singles else "pairs", "path": path, "columns": named}
    out.print(render(summarise(validated("data", content)), warn), highlight=False, soft_wrap=True)


@app.command()
def report(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a training run or of a demo.")],
    out_file: Annotated[Path | None, typer.Option("--out", help="The page; RUN/report.html if not said.")] = None,
) -> None:
    """Write one HTML page of what a run did and measured."""
    from t2ialign.report.page import write_report

    out.print(f"report in {write_report(run_dir, out_file)}", soft_wrap=True)


@app.command()
def doctor(
    full: Annotated[bool, typer.Option("--full", help="Also import the packages and look for a GPU.")] = False,
) -> None:
    """Say what this machine has, and what is missing."""
    from t2ialign.cli.doctor import examine

    table = Table(box=None, show_header=False)
    findings = examine(full=full)
    for finding in findings:
        table.add_row("x" if finding.remedy else "ok", finding.what, escape(finding.seen), escape(finding.remedy or ""))
    out.print(table)
    if any(finding.remedy for finding in findings):
        raise typer.Exit(3)


@app.command()
def keys(only: Annotated[str, typer.Argument(help="Keys that contain this text.")] = "") -> None:
    """List every config key with its type, default and meaning."""
    from t2ialign.config.reader import keys as all_keys

    for key, kind, default, text in all_keys():
        if only in key:
            out.print(f"[bold]{key}[/bold]  {kind}{f', default {default}' if default else ''}", highlight=False)
            out.print(f"    {text}", highlight=False, markup=False)


class _Stopped(BaseException):
    """Ctrl-C. typer would end on a KeyboardInterrupt without a word."""


def _stop(_number: int, _frame: object) -> None:
    raise _Stopped


def main() -> None:
    """Runs the command; an error that the user can act on is one message and its exit code."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    signal.signal(signal.SIGINT, _stop)
    try:
        app(standalone_mode=True)
    except UserError as error:
        err.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)
    except _Stopped:
        err.print("stopped; the same command goes on from what is saved", highlight=False)
        sys.exit(130)


if __name__ == "__main__":
    main()
