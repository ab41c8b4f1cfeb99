"""From a configuration to a run folder: reads and selects prompts, scans the images, opens the judge, and judges."""

from __future__ import annotations

import platform
import shlex
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from unigenbench.errors import InputError
from unigenbench.judges.base import JudgeOptions, open_judge
from unigenbench.judges.keys import public_url, read_key, redact, url_secrets
from unigenbench.judges.openai_compatible import OpenAICompatible
from unigenbench.judging.estimate import Estimate, read_price, total
from unigenbench.judging.evaluate import evaluate
from unigenbench.judging.generation import DifferentPrompt, check_same_prompts, different_prompts, read_generation
from unigenbench.judging.images import scan
from unigenbench.judging.plan import Plan, Settings, pending_tasks
from unigenbench.judging.progress import Outcome, Progress
from unigenbench.prompts import parse_indices, read_prompts, select
from unigenbench.protocol.rubric import open_rubric
from unigenbench.runs.cache import ReplyCache
from unigenbench.runs.files import archive_folder
from unigenbench.runs.judgements import last_judgements
from unigenbench.runs.store import JUDGEMENTS, REPLIES, SCHEMA_VERSION, RunStore
from unigenbench.scoring.leaderboard import BOARD_IMAGES_PER_PROMPT, against_board
from unigenbench.types import Usage


@dataclass(frozen=True)
class JudgeConfig:
    """Configuration of a judging run."""

    data: str
    """a prompt file, or the name of one that is shipped"""
    images: Path
    judge: str
    run: Path | None = None
    rubric: str = "native-v1"
    official_checkout: Path | None = None
    options: JudgeOptions = field(default_factory=JudgeOptions)
    settings: Settings = field(default_factory=Settings)
    api_key_file: Path | None = None
    prices: Path | None = None
    cache: Path | None = None
    """None is a file in the run folder"""
    pattern: str = "{index}_{image}"
    images_per_prompt: int = BOARD_IMAGES_PER_PROMPT
    strict: bool = False
    limit: int | None = None
    indices: str | None = None
    subset: str | None = None
    theme: str | None = None
    dimension: str | None = None
    exclude_flagged: bool = False
    fresh: bool = False
    prompts_differ: bool = False
    """judge images that were made from other texts than those of `data`"""
    command: Sequence[str] = ()
    """the arguments of the process, for the record"""


def judge_folder(config: JudgeConfig, report: Callable[[Progress], None] = lambda _: None) -> Outcome:
    """Judges a folder of images into a run folder, or goes on with it.

    Raises:
        BenchError: nothing was judged, as something is not as needed.
    """
    if config.run is None:
        raise InputError("--run: missing; name the folder that keeps the judgements")
    plan = _plan(config, read_key(_kind(config), config.api_key_file))
    generation = read_generation(config.images)
    if not config.prompts_differ:
        check_same_prompts(config.images, generation, plan.prompts)
    if config.fresh:
        archive_folder(config.run)
    with RunStore(config.run, _manifest(config, plan, generation), plan.prompts) as store:
        cache = ReplyCache(config.cache or config.run / REPLIES)
        try:
            outcome = evaluate(plan, store, cache, report)
        finally:
            cache.close()
        store.update(
            status=outcome.state,
            counts=outcome.statuses,
            requests=store.ledger.spent.requests,
            usage=vars(outcome.usage),
            uncounted_requests=outcome.uncounted,
            cost=outcome.cost,
            finished=_now(),
        )
    return outcome


def estimate_folder(config: JudgeConfig) -> Estimate:
    """What judging the folder would take; where the run folder is there, what is left of it. Sends nothing, needs no
    key.

    Raises:
        BenchError: prompts, images or prices cannot be read.
    """
    plan = _plan(config, "none")
    last = {} if config.run is None or config.fresh else last_judgements(config.run / JUDGEMENTS)
    calls = (
        (plan.expected_usage(task.prompt, task.image), plan.requests(task.prompt)) for task in pending_tasks(plan, last)
    )
    return total(calls, plan.settings.price)


def _kind(config: JudgeConfig) -> str:
    return config.judge.partition(":")[0]


def _plan(config: JudgeConfig, api_key: str | None) -> Plan:
    """Prompts, images, wording and judge."""
    prompts = select(
        read_prompts(config.data, strict=config.strict),
        limit=config.limit,
        indices=parse_indices(config.indices) if config.indices else None,
        subset=config.subset,
        theme=config.theme,
        dimension=config.dimension,
        exclude_flagged=config.exclude_flagged,
    )
    found = scan(config.images, prompts, images_per_prompt=config.images_per_prompt, pattern=config.pattern)
    if not found.found:
        example = config.pattern.format(index=prompts.prompts[0].index, image=0)
        raise InputError(f"{config.images}: no image of the chosen prompts; names look like {example}.png")
    rubric = open_rubric(config.rubric, prompts.language, config.official_checkout)
    settings = config.settings
    if config.prices is not None:
        settings = replace(settings, price=read_price(config.prices, config.judge.partition(":")[2]))
    elif settings.max_cost is not None:
        raise InputError("--max-cost: money needs prices; give --prices FILE")
    options = replace(config.options, api_key=api_key, concurrency=settings.concurrency)
    judge = open_judge(config.judge, options)
    server = judge.server if isinstance(judge, OpenAICompatible) else ""
    return Plan(prompts, found, rubric, judge, settings, server)


def _manifest(config: JudgeConfig, plan: Plan, generation: Any) -> dict[str, Any]:
    """run.json, as it is before the first call."""
    prompts, url = plan.prompts, config.options.base_url
    against = reasons_against_board(config, plan, different_prompts(generation, prompts))
    return {
        "schema_version": SCHEMA_VERSION,
        "run_id": f"{config.run.name if config.run else 'run'}-{uuid.uuid4().hex[:8]}",
        "created": _now(),
        "status": "running",
        "command": redact(shlex.join(config.command), url_secrets(url or "")),
        "versions": {name: version(name) for name in ("t2ialign", "pillow", "numpy", "openai")}
        | {"python": platform.python_version()},
        "dataset": {
            "name": prompts.name,
            "language": prompts.language,
            "path": str(prompts.path),
            "sha256": prompts.sha256,
            "version": prompts.version,
            "prompts": len(prompts.prompts),
            "repairs": [vars(repair) for repair in prompts.repairs],
        },
        "selection": prompts.selection,
        "images": {
            "root": str(config.images),
            "pattern": config.pattern,
            "per_prompt": config.images_per_prompt,
            "samples": plan.settings.samples,
            "found": len(plan.scan.found),
            "missing": len(plan.scan.missing),
            "bad": len(plan.scan.bad),
        },
        "judge": {"name": config.judge, "spec": plan.judge_spec, "id": plan.judge_id},
        "rubric": {"id": plan.rubric.id, "sha256": plan.rubric.sha256, "language": plan.rubric.language},
        "endpoint": public_url(url) if url else None,
        "generation": generation,
        "comparable": not against,
        "banner": f"Not comparable with the published board: {'; '.join(against)}." if against else None,
        "warnings": [],
        "usage": vars(Usage()),
        "cost": None,
    }


def reasons_against_board(config: JudgeConfig, plan: Plan, different: Sequence[DifferentPrompt]) -> list[str]:
    """Why the scores may not stand beside the published ones; empty if they may."""
    checks = {
        "its judge was asked in our own wording": plan.rubric.id.startswith("official"),
        f"it has {plan.settings.samples} judgements per image, not 1": plan.settings.samples == 1,
        f"its judge was asked for {plan.reply}": plan.reply == "tags",
        f"the images of {len(different)} prompts were made from other texts": not different,
    }
    of_all_runs = against_board(plan.prompts, judge=config.judge, images_per_prompt=config.images_per_prompt)
    return of_all_runs + [reason for reason, holds in checks.items() if not holds]


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
