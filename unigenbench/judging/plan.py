"""What is to be judged, by whom and how; and which judgements of it are left."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from unigenbench.judges.base import Judge, judge_id
from unigenbench.judges.retry import RetryPolicy
from unigenbench.judging.estimate import Price, judgement_usage
from unigenbench.judging.images import Scan, UnusableImage
from unigenbench.prompts import prompt_sha256
from unigenbench.protocol.rubric import Rubric
from unigenbench.runs.judgements import LastJudgement
from unigenbench.types import ImageFile, Prompt, PromptSet, Usage


@dataclass(frozen=True)
class Settings:
    """How to ask. What changes answers is part of the judge's id; the rest is not."""

    concurrency: int = 16
    """calls at once, at most"""
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    parse_tries: int = 3
    """replies asked for before an unreadable one is final; each has a seed of its own"""
    max_tokens: int = 4096
    """of a reply; doubled once where it was cut"""
    max_pixels: int | None = 4_000_000
    """a larger image is scaled down before it is sent; None: no image is"""
    samples: int = 1
    """judgements of each image"""
    seed: int = 0
    order: Literal["shuffled", "index"] = "shuffled"
    """shuffled, so that an early stop leaves a fair sample"""
    keep_failed: bool = False
    """do not ask again about what failed before"""
    max_requests: int | None = None
    max_cost: float | None = None
    price: Price | None = None
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None


@dataclass(frozen=True)
class Plan:
    """What to judge, by whom, and how."""

    prompts: PromptSet
    scan: Scan
    rubric: Rubric
    judge: Judge
    settings: Settings
    server: str = ""
    """address of the judge's server without secrets; empty for a judge in this process"""

    @property
    def judge_spec(self) -> dict[str, Any]:
        """All that a judgement depends on beside image and prompt."""
        return {
            **self.judge.spec,
            "rubric": self.rubric.id,
            "rubric_sha256": self.rubric.sha256,
            "image_first": self.rubric.image_first,
            "encoding": self.rubric.encoding,
            "max_pixels": self.settings.max_pixels,
            "max_tokens": self.settings.max_tokens,
            "seed": self.settings.seed,
        }

    @property
    def judge_id(self) -> str:
        return judge_id(self.judge_spec)

    @property
    def reply(self) -> str:
        """ "tags", "json" or "logits\""""
        return str(self.judge.spec.get("reply", "tags"))

    def requests(self, prompt: Prompt) -> int:
        """To a server, for one judgement."""
        return len(prompt.points) if self.reply == "logits" else 1

    def expected_usage(self, prompt: Prompt, image: ImageFile) -> Usage:
        """Tokens of one judgement, as estimated."""
        text, kind = self.rubric.render(prompt), str(self.judge.spec.get("kind", ""))
        size, points = (image.width, image.height), len(prompt.points)
        return judgement_usage(text, self.prompts.language, kind, size, points, self.reply)


@dataclass(frozen=True)
class Task:
    """One judgement to make."""

    key: str
    prompt: Prompt
    image: ImageFile
    prompt_sha256: str
    first_attempt: int
    """parse retries that earlier starts used up"""

    @property
    def sample(self) -> int:
        """Number of the judgement among those of the image."""
        return int(self.key.rpartition("/")[2])


def pending_tasks(plan: Plan, last: Mapping[tuple[str, str], LastJudgement]) -> list[Task]:
    """What has no judgement yet, or one of another image or prompt, or (unless failures are kept) one that failed."""
    prompts = {prompt.index: (prompt, prompt_sha256(prompt)) for prompt in plan.prompts.prompts}
    judge, tasks = plan.judge_id, []
    for image in plan.scan.found:
        prompt, digest = prompts[image.prompt_index]
        for key in sample_keys(plan, image.prompt_index, image.image_index):
            before = last.get((key, judge))
            if before is None or not before.matches(image.sha256, digest):
                tasks.append(Task(key, prompt, image, digest, 0))
            elif before.status != "ok" and not plan.settings.keep_failed:
                first = before.parse_attempts if before.status == "parse_failed" else 0
                tasks.append(Task(key, prompt, image, digest, first))
    if plan.settings.order == "shuffled":
        random.Random(plan.settings.seed).shuffle(tasks)
    return tasks


def sample_keys(plan: Plan, prompt_index: int, image_index: int) -> Iterator[str]:
    """The key of each sample of an image."""
    for sample in range(plan.settings.samples):
        yield f"{plan.prompts.name}/{prompt_index}/{image_index}/{sample}"


def count_statuses(plan: Plan, last: Mapping[tuple[str, str], LastJudgement]) -> dict[str, int]:
    """How often each status occurs among the judgements that the plan expects; "unjudged" is what is left."""
    return dict(Counter("unjudged" if now is None else now.status for now in _current(plan, last)))


def commonest_failure(plan: Plan, last: Mapping[tuple[str, str], LastJudgement]) -> tuple[str, int] | None:
    """(error, how often) of the most frequent failure among the judgements that the plan expects; None without one."""
    errors = Counter(now.error or now.status for now in _current(plan, last) if now and now.status != "ok")
    return errors.most_common(1)[0] if errors else None


def _current(plan: Plan, last: Mapping[tuple[str, str], LastJudgement]) -> Iterator[LastJudgement | None]:
    """The last judgement of each key that the plan expects; None where it is of another image, or there is none."""
    digests = {prompt.index: prompt_sha256(prompt) for prompt in plan.prompts.prompts}
    judge = plan.judge_id
    for image in (*plan.scan.found, *plan.scan.missing, *plan.scan.bad):
        for key in sample_keys(plan, image.prompt_index, image.image_index):
            now = last.get((key, judge))
            unusable = isinstance(image, UnusableImage)
            yield now if now and (unusable or now.matches(image.sha256, digests[image.prompt_index])) else None
