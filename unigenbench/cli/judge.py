"""The commands `judge` and `estimate`, and their options."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from unigenbench.cli.judge_output import show_estimate, show_outcome, show_progress, show_stop

if TYPE_CHECKING:
    from unigenbench.judging.run import JudgeConfig

Data = Annotated[str, typer.Option("--data", help="Prompt file (CSV), or the name of a suite that is shipped.")]
Images = Annotated[Path, typer.Option("--images", help="Folder of images, <prompt>_<image>.png.")]
JudgeName = Annotated[
    str, typer.Option("--judge", help="openai:MODEL, gemini:MODEL, hf:PATH, replay:RUN, shapes, or module:Class.")
]
RubricName = Annotated[
    Literal["native-v1", "official-gemini", "official-vllm"],
    typer.Option("--rubric", "--protocol", help="How the judge is asked: in our words, or in the official ones."),
]
Checkout = Annotated[Path | None, typer.Option(help="Your checkout of CodeGoat24/UniGenBench, for its wording.")]
Pattern = Annotated[str, typer.Option(help="Names of images without suffix, from {index} and {image}.")]
PerPrompt = Annotated[int, typer.Option(min=1, max=1000)]
Samples = Annotated[int, typer.Option(min=1, max=1000, help="Judgements of each image.")]
Reply = Annotated[
    Literal["tags", "json", "logits"],
    typer.Option(help="As the wording asks; as a JSON object; or one digit a test point, with its probability."),
]
Limit = Annotated[int | None, typer.Option(min=1, help="The first so many prompts of what is chosen.")]
Indices = Annotated[str | None, typer.Option(help="Prompts by number: 0-99,120.")]
Subset = Annotated[str | None, typer.Option(help="testmini60 or testmini120.")]
Theme = Annotated[str | None, typer.Option(help="Prompts of one theme.")]
OfDimension = Annotated[str | None, typer.Option("--dimension", help="Prompts that test one dimension.")]
NotFlagged = Annotated[bool, typer.Option("--exclude-flagged", help="Leave out prompts that cannot be checked.")]
Strict = Annotated[bool, typer.Option("--strict", help="Refuse a prompt file that needs repair.")]
Prices = Annotated[Path | None, typer.Option(help='JSON, a million tokens: {"MODEL": {"input": 1.25, "output": 10}}.')]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


def judge(
    data: Data,
    images: Images,
    run: Annotated[Path, typer.Option("--run", help="Folder for the judgements; the same command goes on in it.")],
    judge: JudgeName,
    base_url: Annotated[str | None, typer.Option(help="Address of the server, with or without /v1.")] = None,
    api_key_file: Annotated[
        Path | None, typer.Option(help="Instead of UNIGENBENCH_API_KEY, OPENAI_API_KEY or GEMINI_API_KEY.")
    ] = None,
    rubric: RubricName = "native-v1",
    official_checkout: Checkout = None,
    official_sampling: Annotated[
        bool, typer.Option("--official-sampling", help="Send neither temperature nor seed, as the official script.")
    ] = False,
    reply: Reply = "tags",
    temperature: Annotated[float, typer.Option(min=0.0, max=100.0)] = 0.0,
    seed: int = 0,
    max_tokens: Annotated[int, typer.Option(min=1, help="Of a reply; doubled once where it was cut.")] = 4096,
    concurrency: Annotated[int, typer.Option(min=1, help="Calls at once, at most.")] = 16,
    requests_per_minute: Annotated[float | None, typer.Option(min=0.001, max=1e9)] = None,
    tokens_per_minute: Annotated[float | None, typer.Option(min=0.001, max=1e9)] = None,
    timeout_seconds: Annotated[
        float, typer.Option("--timeout", min=0.001, max=604_800, help="Seconds for one call.")
    ] = 300.0,
    tries: Annotated[int, typer.Option(min=1, help="Of one call, where the fault may pass.")] = 6,
    parse_tries: Annotated[int, typer.Option(min=1, help="Replies asked for before an unreadable one is final.")] = 3,
    device: Annotated[str | None, typer.Option(help="Of a model in this process.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Of a model in this process.")] = 8,
    max_pixels: Annotated[
        int | None,
        typer.Option(
            min=1, show_default="4000000; none with official wording", help="A larger image is scaled down first."
        ),
    ] = None,
    images_per_prompt: PerPrompt = 4,
    samples: Samples = 1,
    pattern: Pattern = "{index}_{image}",
    limit: Limit = None,
    indices: Indices = None,
    subset: Subset = None,
    theme: Theme = None,
    dimension: OfDimension = None,
    exclude_flagged: NotFlagged = False,
    strict: Strict = False,
    order: Annotated[
        Literal["shuffled", "index"], typer.Option(help="Shuffled, an early stop leaves a fair sample.")
    ] = "shuffled",
    max_cost: Annotated[float | None, typer.Option(min=0.0, help="Stop before more is spent; needs --prices.")] = None,
    max_requests: Annotated[int | None, typer.Option(min=0, help="Stop before more requests are made.")] = None,
    prices: Prices = None,
    max_failed: Annotated[float, typer.Option(min=0.0, max=1.0, help="Exit 1 above this share of failures.")] = 0.01,
    keep_failed: Annotated[bool, typer.Option("--keep-failed", help="Do not ask again about what failed.")] = False,
    cache: Annotated[Path | None, typer.Option(help="File of replies that several runs share.")] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh/--resume", help="Begin anew; the old folder is kept under another name.")
    ] = False,
    prompts_differ: Annotated[
        bool,
        typer.Option("--prompts-differ", help="Judge images made from other texts than those of --data."),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what is left and what it would take.")] = False,
    as_json: AsJson = False,
) -> None:
    """Ask a judge about every image of a folder; what is paid for is kept, whatever happens."""
    given = dict(locals())  # the options, by name
    from unigenbench.judges.retry import RetryPolicy
    from unigenbench.judging.run import estimate_folder, judge_folder

    if official_sampling:
        given["temperature"] = None
    config = config_from_options(given | {"retry": RetryPolicy(tries=tries)})
    if dry_run:
        show_estimate(estimate_folder(config), as_json)
        return
    with show_progress() as report:
        outcome = judge_folder(config, report)
    show_outcome(outcome, run, as_json)
    if outcome.error is not None:
        show_stop(outcome.error)
        raise typer.Exit(outcome.error.exit_code)
    if outcome.failed_share > max_failed:
        raise typer.Exit(1)


def estimate(
    data: Data,
    images: Images,
    judge: JudgeName = "openai:MODEL",
    prices: Prices = None,
    reply: Reply = "tags",
    rubric: RubricName = "native-v1",
    official_checkout: Checkout = None,
    images_per_prompt: PerPrompt = 4,
    pattern: Pattern = "{index}_{image}",
    samples: Samples = 1,
    subset: Subset = None,
    indices: Indices = None,
    limit: Limit = None,
    dimension: OfDimension = None,
    theme: Theme = None,
    strict: Strict = False,
    exclude_flagged: NotFlagged = False,
    as_json: AsJson = False,
) -> None:
    """Say how many requests and tokens, and with prices how much money, judging a folder would take."""
    given = dict(locals())  # the options, by name
    from unigenbench.judging.run import estimate_folder

    show_estimate(estimate_folder(config_from_options(given)), as_json)


def config_from_options(given: Mapping[str, Any]) -> JudgeConfig:
    """The configuration that options stand for, which have the names of its fields and of those of its parts."""
    from unigenbench.judges.base import JudgeOptions
    from unigenbench.judging.plan import Settings
    from unigenbench.judging.run import JudgeConfig

    def part(kind: type) -> dict[str, Any]:
        names = {field.name for field in fields(kind)}
        return {name: value for name, value in given.items() if name in names}

    if given.get("max_pixels") is None and not str(given.get("rubric", "")).startswith("official"):
        given = {**given, "max_pixels": Settings.max_pixels}  # the official clients send images of any size whole
    parts = {"options": JudgeOptions(**part(JudgeOptions)), "settings": Settings(**part(Settings))}
    return JudgeConfig(**{**part(JudgeConfig), **parts, "command": ("unigenbench", *sys.argv[1:])})
