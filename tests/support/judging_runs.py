"""A folder of images with prompts, runs of a judge over it, and what a server does wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from made_runs import prompt_set, write_images
from stub import Answer, error, scores

from unigenbench.judges.base import Judge, JudgeOptions, Probe, open_judge
from unigenbench.judges.openai_compatible import OpenAICompatible
from unigenbench.judges.retry import RetryPolicy
from unigenbench.judging.evaluate import evaluate
from unigenbench.judging.images import scan
from unigenbench.judging.plan import Plan, Settings
from unigenbench.judging.progress import Outcome, Progress
from unigenbench.protocol.rubric import open_rubric
from unigenbench.runs.cache import ReplyCache
from unigenbench.runs.store import JUDGEMENTS, REPLIES, RunStore, open_log
from unigenbench.types import Judgement, JudgeReply, JudgeRequest

QUICK = RetryPolicy(tries=3, base_seconds=0.01, cap_seconds=0.05)
N = 2
"""test points of each prompt here"""


@dataclass
class Bench:
    """A folder of images, a prompt each, and runs over it."""

    folder: Path
    prompts: int
    per_prompt: int = 1
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        write_images(self.folder / "images", self.prompts, self.per_prompt)

    def plan(self, judge: Judge, **settings: Any) -> Plan:
        prompts = prompt_set(self.prompts, self.folder)
        server = judge.server if isinstance(judge, OpenAICompatible) else ""
        found = scan(self.folder / "images", prompts, images_per_prompt=self.per_prompt)
        given = {"retry": QUICK, "concurrency": 4, "order": "index"} | self.settings | settings
        return Plan(prompts, found, open_rubric("native-v1", "en"), judge, Settings(**given), server)

    def run(self, url: str, options: JudgeOptions | None = None, **settings: Any) -> Outcome:
        """One start, into the same run folder."""
        options = options or JudgeOptions()
        return self.run_judge(open_judge("openai:m", replace(options, base_url=url)), **settings)

    def run_judge(self, judge: Judge, report: Callable[[Progress], None] = lambda _: None, **settings: Any) -> Outcome:
        plan = self.plan(judge, **settings)
        manifest = {
            "schema_version": 1,
            "run_id": "r",
            "created": "2026-11-21T00:00:00+00:00",
            "dataset": {"sha256": plan.prompts.sha256},
            "rubric": {"id": plan.rubric.id},
            "judge": {"id": plan.judge_id, "spec": plan.judge_spec},
            "images": {"per_prompt": self.per_prompt},
        }
        with RunStore(self.folder / "run", manifest, plan.prompts) as store:
            cache = ReplyCache(self.folder / "run" / REPLIES)
            try:
                return evaluate(plan, store, cache, report)
            finally:
                cache.close()

    def log(self) -> dict[int, Judgement]:
        """The newest judgement of each prompt's first image."""
        judgements = open_log(self.folder / "run").judgements
        return {judgement.prompt_index: judgement for judgement in judgements if judgement.image_index == 0}

    def lines(self) -> int:
        return len((self.folder / "run" / JUDGEMENTS).read_text().splitlines())


class InProcess:
    """A judge without a server."""

    def __init__(self, answer: Callable[[JudgeRequest], JudgeReply], **spec: Any):
        self.spec = {"kind": "made-up"} | spec
        self.id = "made-up"
        self._answer = answer
        self.asked: list[JudgeRequest] = []

    async def probe(self) -> Probe:
        return Probe()

    async def judge(self, request: JudgeRequest) -> JudgeReply:
        self.asked.append(replace(request, image_bytes=b""))
        return self._answer(request)

    async def aclose(self) -> None: ...


def nth_time(then: Answer, *first: Answer) -> Callable[[int], Answer]:
    """These answers, one a call, and from then on the other."""
    return lambda count: first[count] if count < len(first) else then


GOOD = scores([1, 0])
PROSE = Answer("The picture shows three dogs, and I like it.")
CUT = Answer("<analysis>['three d", finish_reason="length")
FAULTS: dict[str, tuple[Callable[[int], Answer], str, int]] = {
    "well-formed": (nth_time(GOOD), "ok", 1),
    "fenced": (nth_time(Answer("```\n<analysis>['a','b']</analysis><score>[1, 0]</score>\n```")), "ok", 1),
    "prose": (nth_time(PROSE), "parse_failed", 3),
    "scalar score": (nth_time(Answer("<analysis>['a','b']</analysis><score>1</score>")), "parse_failed", 3),
    "too few scores": (nth_time(Answer("<analysis>['a']</analysis><score>[1]</score>")), "parse_failed", 3),
    "half points": (nth_time(Answer("<analysis>['a','b']</analysis><score>[0.5, 2]</score>")), "parse_failed", 3),
    "empty": (nth_time(Answer("")), "parse_failed", 3),
    "truncated": (nth_time(CUT), "truncated", 2),
    "refused": (nth_time(Answer(text=None, refusal="I cannot help with that.")), "refused", 1),
    "filtered": (nth_time(Answer("", finish_reason="content_filter")), "refused", 1),
    "500": (nth_time(error(500, "boom")), "transport_failed", 3),
    "cut connection": (nth_time(Answer(cut=True)), "transport_failed", 3),
    "hang": (nth_time(Answer(seconds=60)), "transport_failed", 3),
    "html": (nth_time(Answer(raw=b"<html>Bad gateway</html>", status=502)), "transport_failed", 3),
    "413": (nth_time(error(413, "this image is too large")), "transport_failed", 1),
    "500, then well": (nth_time(GOOD, error(500, "boom")), "ok", 2),
    "cut connection, then well": (nth_time(GOOD, Answer(cut=True)), "ok", 2),
    "prose, then well": (nth_time(GOOD, PROSE), "ok", 2),
    "truncated, then well": (nth_time(GOOD, CUT), "ok", 2),
    "429, then well": (nth_time(GOOD, error(429, "slow", retry_after="0.4")), "ok", 2),
}


class Forgetful(list):
    """Keeps nothing."""

    def append(self, _: object) -> None: ...
