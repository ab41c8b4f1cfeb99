"""What comes of judging one image, as a line of the run folder."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone

from unigenbench.judges.text import replace_surrogates
from unigenbench.judging.images import UnusableImage
from unigenbench.judging.plan import Plan, Task, sample_keys
from unigenbench.prompts import prompt_sha256
from unigenbench.protocol.parsing import ParseFailure, parse
from unigenbench.runs.judgements import LastJudgement
from unigenbench.types import Judgement, JudgeReply, Status, Usage


@dataclass
class CallTotals:
    """What the calls for one judgement took, and the last text that came of them."""

    usage: Usage = field(default_factory=Usage)
    requests: int = 0
    latency_s: float = 0.0
    text: str = ""
    parse_attempts: int = 0
    from_cache: bool = False

    def add(self, reply: JudgeReply) -> None:
        """Counts an answer of any kind."""
        self.usage += counted_usage(reply.usage) or Usage()
        self.latency_s += reply.latency_s
        self.text = reply.text or self.text


@dataclass(frozen=True)
class Assessment:
    """What came of judging one image: verdicts, or the reason why there are none."""

    status: Status
    verdicts: tuple[int, ...] | None = None
    """0 or 1 for each test point, in order"""
    analyses: tuple[str, ...] = ()
    note: str = ""
    probabilities: tuple[float, ...] | None = None
    error: str = ""


def counted_usage(usage: Usage) -> Usage | None:
    """The usage, if its tokens were counted: whole numbers, none negative, and some of them in the input."""
    counts = (usage.input, usage.output, usage.reasoning, usage.cached_input)
    return usage if usage.input and all(isinstance(count, int) and count >= 0 for count in counts) else None


def read_reply(reply: JudgeReply, n: int) -> Assessment:
    """The verdicts that a judge gave as such, or those in its words; never fewer or more than n."""
    probabilities = reply.probabilities
    if probabilities is None or len(probabilities) != n or not all(_is_probability(p) for p in probabilities):
        probabilities = None
    if reply.verdicts is None:
        found = parse(reply.text, n)
        if isinstance(found, ParseFailure):
            return _unreadable(f"{found.reason}: {found.detail}")
        return Assessment("ok", found.verdicts, found.analyses, found.note, probabilities)
    if len(reply.verdicts) != n:
        return _unreadable(f"wrong_length: {len(reply.verdicts)} verdicts for {n} test points")
    if not all(isinstance(verdict, int | float) and verdict in (0, 1) for verdict in reply.verdicts):
        return _unreadable(f"bad_value: verdicts {reply.verdicts}")
    return Assessment("ok", tuple(int(verdict) for verdict in reply.verdicts), probabilities=probabilities)


def _unreadable(error: str) -> Assessment:
    return Assessment("parse_failed", error=error)


def _is_probability(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and 0 <= value <= 1


def judgement_of(task: Task, judge_id: str, totals: CallTotals, found: Assessment) -> Judgement:
    """The line for a task that was brought to its end; its texts can be written to any file."""
    return Judgement(
        key=task.key,
        judge_id=judge_id,
        prompt_index=task.prompt.index,
        image_index=task.image.image_index,
        image_sha256=task.image.sha256,
        prompt_sha256=task.prompt_sha256,
        status=found.status,
        verdicts=found.verdicts,
        analyses=tuple(replace_surrogates(analysis) for analysis in found.analyses),
        probabilities=found.probabilities,
        raw=replace_surrogates(totals.text),
        parse_note=found.note,
        error=replace_surrogates(found.error),
        usage=totals.usage,
        attempts=totals.requests,
        parse_attempts=totals.parse_attempts,
        latency_s=round(totals.latency_s, 4),
        cached=totals.from_cache and totals.requests == 0,
        created=_now(),
    )


def unusable_judgements(plan: Plan, last: Mapping[tuple[str, str], LastJudgement]) -> Iterator[Judgement]:
    """A line for each image that is missing or damaged, unless it is said already or a verdict is kept from before."""
    digests = {prompt.index: prompt_sha256(prompt) for prompt in plan.prompts.prompts}
    for image in plan.scan.missing:
        yield from _unusable(plan, last, image, digests[image.prompt_index], "image_missing")
    for image in plan.scan.bad:
        yield from _unusable(plan, last, image, digests[image.prompt_index], "image_bad")


def _unusable(
    plan: Plan, last: Mapping[tuple[str, str], LastJudgement], image: UnusableImage, digest: str, status: Status
) -> Iterator[Judgement]:
    for key in sample_keys(plan, image.prompt_index, image.image_index):
        before = last.get((key, plan.judge_id))
        if before is None or before.status not in ("ok", status):
            yield Judgement(
                key=key,
                judge_id=plan.judge_id,
                prompt_index=image.prompt_index,
                image_index=image.image_index,
                image_sha256="",
                prompt_sha256=digest,
                status=status,
                error=replace_surrogates(image.reason),
                attempts=0,
                parse_attempts=0,
                created=_now(),
            )


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")
