"""Asks a judge about every image, many at once, and loses nothing that was paid for."""

from __future__ import annotations

import asyncio
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from typing import Any, Literal

from unigenbench.errors import BenchError, DataError, Interrupted, ServerError, TryAgainError
from unigenbench.judges.base import (
    FatalFailure,
    Judge,
    JudgeError,
    JudgeRefused,
    JudgeTruncated,
    Probe,
    TransientFailure,
    judge_id,
)
from unigenbench.judges.retry import RetryPolicy
from unigenbench.judging.estimate import MEASURED_AFTER, Price, judgement_usage
from unigenbench.judging.images import Absent, Scan, encode
from unigenbench.judging.limits import Breaker, Budget, Gate, Pace
from unigenbench.prompts import prompt_sha256
from unigenbench.protocol.parsing import Parsed, ParseFailure, parse
from unigenbench.protocol.rubric import Rubric
from unigenbench.runs.cache import ReplyCache, cache_key
from unigenbench.runs.store import Past, RunStore
from unigenbench.types import ImageFile, Judgement, JudgeReply, JudgeRequest, Prompt, PromptSet, Status, Usage

SEEDS_PER_SAMPLE = 1000
"""between the first tries of two samples of an image; parse retries count up from each"""


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
    """shuffled, so that what an early stop leaves is a fair sample"""
    keep_failed: bool = False
    """leave alone what failed before, instead of asking again"""
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


@dataclass(frozen=True)
class Task:
    """One judgement to make."""

    key: str
    prompt: Prompt
    image: ImageFile
    prompt_sha256: str
    first_attempt: int
    """parse retries that earlier starts used up"""


@dataclass(frozen=True)
class Progress:
    """Where a run stands, after each judgement."""

    done: int
    total: int
    """judgements of this start"""
    statuses: dict[str, int]
    usage: Usage
    cost: float | None
    foreseen_cost: float | None
    """at the end, by the mean of the judgements so far; None before there are enough of them"""
    at_once: int
    """calls that may run at once now"""
    ending: bool = False
    """nothing new is begun; the calls in flight are waited for"""


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    state: Literal["done", "stopped", "interrupted"]
    statuses: dict[str, int]
    """of everything expected, this start and earlier ones; "unjudged" is what is left"""
    judged: int
    """by this start"""
    requests: int
    """sent to the judge by this start"""
    usage: Usage
    cost: float | None
    """of the run folder, all starts"""
    seconds: float
    error: BenchError | None = None
    """why it stopped, if not done"""

    @property
    def failed_share(self) -> float:
        """Of everything expected, how much has no verdict. In [0, 1]."""
        expected = sum(self.statuses.values())
        return 1 - self.statuses.get("ok", 0) / expected if expected else 0.0


@dataclass
class _Tally:
    """What one judgement took, over its tries."""

    usage: Usage = field(default_factory=Usage)
    requests: int = 0
    parse_attempts: int = 0
    latency_s: float = 0.0
    raw: str = ""
    probabilities: tuple[float, ...] | None = None
    recalled: int = 0
    """replies from the cache"""

    def add(self, reply: JudgeReply) -> None:
        self.usage += reply.usage
        self.latency_s += reply.latency_s
        self.raw = reply.text or self.raw


class _Stopped(Exception):
    """The run is ending; what was being done is left for the next start."""


def pending(plan: Plan, past: Mapping[tuple[str, str], Past]) -> list[Task]:
    """What has no judgement yet, or another image or prompt than then, or (unless kept) failed."""
    prompts = {prompt.index: (prompt, prompt_sha256(prompt)) for prompt in plan.prompts.prompts}
    judge, tasks = plan.judge_id, []
    for image in plan.scan.found:
        prompt, digest = prompts[image.prompt_index]
        for key in keys_of(plan, image.prompt_index, image.image_index):
            last = past.get((key, judge))
            if last is None or not last.is_about(image.sha256, digest):
                tasks.append(Task(key, prompt, image, digest, 0))
            elif last.status != "ok" and not plan.settings.keep_failed:
                first = last.parse_attempts if last.status == "parse_failed" else 0
                tasks.append(Task(key, prompt, image, digest, first))
    if plan.settings.order == "shuffled":
        random.Random(plan.settings.seed).shuffle(tasks)
    return tasks


def keys_of(plan: Plan, prompt_index: int, image_index: int) -> Iterator[str]:
    """A key for each sample."""
    for sample in range(plan.settings.samples):
        yield f"{plan.prompts.name}/{prompt_index}/{image_index}/{sample}"


def statuses(plan: Plan, store: RunStore) -> dict[str, int]:
    """How often each status, over everything that the plan expects; what is said of another image does not count."""
    digests = {prompt.index: prompt_sha256(prompt) for prompt in plan.prompts.prompts}
    judge, counts = plan.judge_id, Counter[str]()
    for place in (*plan.scan.found, *plan.scan.missing, *plan.scan.bad):
        for key in keys_of(plan, place.prompt_index, place.image_index):
            last = store.past.get((key, judge))
            about_it = last and (isinstance(place, Absent) or last.is_about(place.sha256, digests[place.prompt_index]))
            counts[last.status if last and about_it else "unjudged"] += 1
    return dict(counts)


def expected_usage(plan: Plan, task: Task) -> Usage:
    """Tokens of one judgement, as estimated."""
    text = plan.rubric.render(task.prompt)
    kind, size = str(plan.judge.spec.get("kind", "")), (task.image.width, task.image.height)
    return judgement_usage(text, plan.prompts.language, kind, size, len(task.prompt.points), plan.reply)


def evaluate(
    plan: Plan, store: RunStore, cache: ReplyCache, report: Callable[[Progress], None] = lambda _: None
) -> Outcome:
    """Judges what is left of a plan into a run folder.

    The first interrupt lets the calls in flight end and saves them, the second drops them. What stopped a run before
    its end is in `Outcome.error`, so that the caller can close the run folder first.

    Raises:
        BenchError: the run could not begin.
    """
    return asyncio.run(_Evaluation(plan, store, cache, report).run())


class _Evaluation:
    """One start of a run."""

    def __init__(self, plan: Plan, store: RunStore, cache: ReplyCache, report: Callable[[Progress], None]):
        settings = plan.settings
        self._plan, self._store, self._cache, self._report = plan, store, cache, report
        self._judge_id = plan.judge_id
        self._tasks = pending(plan, store.past)
        self._budget = Budget(
            max_requests=settings.max_requests,
            max_cost=settings.max_cost,
            price=settings.price,
            expected_cost=self._expected_cost(),
        )
        self._budget.begin(store.usage, store.requests)
        self._begun_requests, self._begun_cost = store.requests, self._budget.cost
        self._breaker = Breaker()
        self._rng = random.Random()
        self._counts: Counter[str] = Counter()
        self._halted_by: BenchError | None = None
        self._workers: list[asyncio.Task[None]] = []

    async def run(self) -> Outcome:
        """All of it."""
        settings = self._plan.settings
        started = time.monotonic()
        # Made here, as they belong to the running event loop.
        self._stop = asyncio.Event()
        self._gate = Gate(settings.concurrency)
        self._pace_requests, self._pace_tokens = Pace(settings.requests_per_minute), Pace(settings.tokens_per_minute)
        self._probing: asyncio.Task[None] | None = None
        self._record_absent()
        queue = iter(self._tasks)
        with _signals(self._interrupt):
            workers = min(settings.concurrency, len(self._tasks))
            self._workers = [asyncio.create_task(self._work(queue)) for _ in range(workers)]
            try:
                await self._finish()
            finally:
                await self._plan.judge.aclose()
        return self._outcome(time.monotonic() - started)

    async def _finish(self) -> None:
        """Waits for the workers; a defect in one of them ends the others."""
        try:
            await asyncio.gather(*self._workers)
        except asyncio.CancelledError:
            if self._halted_by is None:
                raise
        finally:
            for worker in self._workers:
                worker.cancel()
            await asyncio.gather(*self._workers, return_exceptions=True)
            if self._probing is not None:
                self._probing.cancel()
                await asyncio.gather(self._probing, return_exceptions=True)

    def _interrupt(self) -> None:
        """The first time: take nothing new. The second time: drop what is in flight."""
        if self._stop.is_set():
            for worker in self._workers:
                worker.cancel()
        self._halt(Interrupted("interrupted; what is done is saved, and the same command goes on"))

    def _halt(self, reason: BenchError) -> None:
        self._halted_by = self._halted_by or reason
        self._stop.set()
        self._tell()

    async def _work(self, queue: Iterator[Task]) -> None:
        for task in queue:
            if self._stop.is_set():
                return
            try:
                judgement = await self._judge(task)
            except _Stopped:
                return
            except (ServerError, TryAgainError) as error:
                self._halt(error)
                return
            self._store.append(judgement)
            self._note(judgement)

    def _note(self, judgement: Judgement) -> None:
        self._counts[judgement.status] += 1
        self._tell()

    def _tell(self) -> None:
        done, total, cost, before = sum(self._counts.values()), len(self._tasks), self._budget.cost, self._begun_cost
        foreseen = None
        if cost is not None and before is not None and done >= MEASURED_AFTER:
            foreseen = before + (cost - before) / done * total
        self._report(
            Progress(
                done=done,
                total=total,
                statuses=dict(self._counts),
                usage=self._budget.usage,
                cost=cost,
                foreseen_cost=foreseen,
                at_once=self._gate.ceiling,
                ending=self._stop.is_set(),
            )
        )

    async def _judge(self, task: Task) -> Judgement:
        """One image, to its end: verdicts, or the reason why there are none."""
        tally = _Tally()
        try:
            request = await self._request(task)
        except (OSError, DataError) as error:
            return self._judgement(task, tally, "image_bad", error=str(error))
        try:
            parsed = await self._answer(task, request, tally)
        except JudgeRefused as error:
            return self._judgement(task, tally, "refused", error=str(error))
        except JudgeTruncated as error:
            return self._judgement(task, tally, "truncated", error=str(error))
        except (TransientFailure, FatalFailure) as error:
            return self._judgement(task, tally, "transport_failed", error=str(error))
        if isinstance(parsed, ParseFailure):
            return self._judgement(task, tally, "parse_failed", error=f"{parsed.reason}: {parsed.detail}")
        return self._judgement(task, tally, "ok", parsed=parsed)

    async def _request(self, task: Task) -> JudgeRequest:
        """Encoded away from the event loop, as that can take long."""
        plan = self._plan
        content, media_type = await asyncio.to_thread(
            encode, task.image, plan.rubric.encoding, plan.settings.max_pixels
        )
        return JudgeRequest(
            key=task.key,
            prompt=task.prompt,
            image=task.image,
            text=plan.rubric.render(task.prompt),
            image_bytes=content,
            media_type=media_type,
            image_first=plan.rubric.image_first,
            max_tokens=plan.settings.max_tokens,
        )

    async def _answer(self, task: Task, request: JudgeRequest, tally: _Tally) -> Parsed | ParseFailure:
        """Asks until an answer can be read, with another seed each time."""
        outcome: Parsed | ParseFailure = ParseFailure("empty")
        for attempt in range(task.first_attempt, task.first_attempt + self._plan.settings.parse_tries):
            tally.parse_attempts = attempt + 1
            seed = self._plan.settings.seed + SEEDS_PER_SAMPLE * int(task.key.rpartition("/")[2]) + attempt
            reply = await self._reply(replace(request, attempt=attempt, seed=seed), tally)
            outcome = read_reply(reply, len(task.prompt.points))
            if isinstance(outcome, Parsed):
                tally.probabilities = reply.probabilities
                break
        return outcome

    async def _reply(self, request: JudgeRequest, tally: _Tally) -> JudgeReply:
        """From the cache, or from the judge and then in the cache."""
        key = cache_key(self._judge_id, request)
        kept = self._cache.get(key)
        if kept is not None:
            tally.recalled += 1
            tally.raw = kept.text
            return kept
        await self._ready()
        reply = await self._whole_reply(request, tally)
        await self._cache.put(key, reply)
        return reply

    async def _whole_reply(self, request: JudgeRequest, tally: _Tally) -> JudgeReply:
        """Where a reply was cut, it is asked for once more with room for twice as much."""
        try:
            return await self._call(request, tally)
        except JudgeTruncated as cut:
            try:
                return await self._call(replace(request, max_tokens=2 * request.max_tokens), tally)
            except FatalFailure:
                raise cut from None  # so much is not allowed

    async def _call(self, request: JudgeRequest, tally: _Tally) -> JudgeReply:
        """One call, tried again while the fault may pass.

        Raises:
            JudgeError: it came to nothing.
            ServerError, TryAgainError: there is no use in going on.
        """
        policy = self._plan.settings.retry
        failures = rate_limits = 0
        while True:
            try:
                return await self._try(request, tally)
            except TransientFailure as error:
                if (error.retry_after or 0) > policy.patience_seconds:
                    raise TryAgainError(f"{error}; it asks to come back in {error.retry_after:.0f} s") from error
                failures += not error.rate_limited
                rate_limits += error.rate_limited
                if failures >= policy.tries or rate_limits >= policy.rate_tries:
                    self._breaker.failed(error, fatal=False)
                    raise
                count = rate_limits if error.rate_limited else failures
                await self._pause(policy.wait_seconds(count, error.retry_after, self._rng))
            except FatalFailure as error:
                self._breaker.failed(error, fatal=True)
                raise

    async def _try(self, request: JudgeRequest, tally: _Tally) -> JudgeReply:
        """One attempt, within all limits."""
        await self._wait_for_turn()
        async with self._gate.place():
            self._go_on()
            expected = len(request.prompt.points) if self._plan.reply == "logits" else 1
            self._budget.reserve(expected)
            usage: Usage | None = Usage()
            requests, began = 1, time.monotonic()
            try:
                reply = await self._plan.judge.judge(request)
                usage, requests = self._settled(reply, tally), reply.requests
            except (JudgeTruncated, JudgeRefused) as error:
                usage = self._settled(error.reply, tally)
                raise
            except TransientFailure as error:
                if error.rate_limited:
                    self._gate.slow_down(began, error.retry_after or 0.0)
                raise
            finally:
                tally.requests += requests
                self._budget.settle(expected, usage, requests)
                self._pace_requests.spend(requests)
            return reply

    def _settled(self, reply: JudgeReply, tally: _Tally) -> Usage | None:
        """After an answer of any kind: what it used, None if the server does not say."""
        tally.add(reply)
        self._gate.answered()
        self._breaker.answered()
        self._pace_tokens.spend(reply.usage.input + reply.usage.output)
        return reply.usage if reply.usage.input else None

    async def _wait_for_turn(self) -> None:
        while True:
            opens = self._gate.opens_at - time.monotonic()
            wait = max(opens, self._pace_requests.wait_seconds(), self._pace_tokens.wait_seconds())
            if wait <= 0:
                return
            await self._pause(wait)

    async def _pause(self, seconds: float) -> None:
        """Waits, unless the run ends before."""
        try:
            await asyncio.wait_for(self._stop.wait(), seconds)
        except asyncio.TimeoutError:
            return
        raise _Stopped

    def _go_on(self) -> None:
        if self._stop.is_set():
            raise _Stopped

    async def _ready(self) -> None:
        """The judge is probed before the first call, once, and not at all where every answer is known."""
        if self._probing is None:
            self._probing = asyncio.create_task(self._probe())
        await asyncio.shield(self._probing)

    async def _probe(self) -> None:
        policy = self._plan.settings.retry
        failures = 0
        while True:
            try:
                found = await self._plan.judge.probe()
                break
            except TransientFailure as error:
                failures += 1
                if failures >= policy.tries:
                    raise ServerError(f"the judge does not answer: {error}; is the server up?") from error
                await self._pause(policy.wait_seconds(failures, error.retry_after, self._rng))
            except JudgeError as error:
                raise ServerError(f"the judge cannot be used: {error}") from error
        self._record_probe(found)

    def _record_probe(self, found: Probe) -> None:
        """What the probe found goes to run.json; a model with another name than at the last start is a warning."""
        manifest, notes = self._store.manifest, list(found.notes)
        before = manifest.get("served_model")
        if before and found.served_model and before != found.served_model:
            notes.append(f"The server called its model {before!r} before, and {found.served_model!r} now.")
        warnings = list(dict.fromkeys([*manifest.get("warnings", []), *notes]))
        self._store.update(served_model=found.served_model, dropped_fields=list(found.dropped), warnings=warnings)

    def _record_absent(self) -> None:
        """A line for each image that is not there or cannot be read, unless a judgement of it is kept from before."""
        digests = {prompt.index: prompt_sha256(prompt) for prompt in self._plan.prompts.prompts}
        kinds: tuple[tuple[Status, Any], ...] = (
            ("image_missing", self._plan.scan.missing),
            ("image_bad", self._plan.scan.bad),
        )
        for status, absents in kinds:
            for absent in absents:
                for key in keys_of(self._plan, absent.prompt_index, absent.image_index):
                    past = self._store.past.get((key, self._judge_id))
                    if past is None or past.status not in ("ok", status):
                        digest = digests[absent.prompt_index]
                        self._store.append(
                            Judgement(
                                key,
                                self._judge_id,
                                absent.prompt_index,
                                absent.image_index,
                                image_sha256="",
                                prompt_sha256=digest,
                                status=status,
                                error=str(absent.reason),
                                attempts=0,
                                parse_attempts=0,
                                created=_now(),
                            )
                        )

    def _judgement(
        self, task: Task, tally: _Tally, status: Status, parsed: Parsed | None = None, error: str = ""
    ) -> Judgement:
        return Judgement(
            key=task.key,
            judge_id=self._judge_id,
            prompt_index=task.prompt.index,
            image_index=task.image.image_index,
            image_sha256=task.image.sha256,
            prompt_sha256=task.prompt_sha256,
            status=status,
            verdicts=parsed.verdicts if parsed else None,
            analyses=parsed.analyses if parsed else (),
            probabilities=tally.probabilities,
            raw=tally.raw,
            parse_note=parsed.note if parsed else "",
            error=error,
            usage=tally.usage,
            attempts=tally.requests,
            parse_attempts=tally.parse_attempts,
            latency_s=round(tally.latency_s, 4),
            cached=tally.recalled > 0 and tally.requests == 0,
            created=_now(),
        )

    def _expected_cost(self) -> float:
        """Of one call, for the first judgement that is left."""
        price = self._plan.settings.price
        return price.cost(expected_usage(self._plan, self._tasks[0])) if price and self._tasks else 0.0

    def _outcome(self, seconds: float) -> Outcome:
        state = "done"
        if self._halted_by is not None:
            state = "interrupted" if isinstance(self._halted_by, Interrupted) else "stopped"
        return Outcome(
            state=state,
            statuses=statuses(self._plan, self._store),
            judged=sum(self._counts.values()),
            requests=self._budget.requests - self._begun_requests,
            usage=self._budget.usage,
            cost=self._budget.cost,
            seconds=seconds,
            error=self._halted_by,
        )


def read_reply(reply: JudgeReply, n: int) -> Parsed | ParseFailure:
    """The verdicts that a judge gave as such, or those in its words; never fewer or more than n."""
    if reply.verdicts is None:
        return parse(reply.text, n)
    if len(reply.verdicts) != n:
        return ParseFailure("wrong_length", f"{len(reply.verdicts)} verdicts for {n} test points")
    if not set(reply.verdicts) <= {0, 1}:
        return ParseFailure("bad_value", f"verdicts {reply.verdicts}")
    return Parsed(tuple(int(verdict) for verdict in reply.verdicts))


@contextmanager
def _signals(interrupt: Callable[[], None]) -> Iterator[None]:
    """Interrupt and termination ask the run to end; outside the main thread, where there are none, nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    caught = (signal.SIGINT, signal.SIGTERM)
    for number in caught:
        loop.add_signal_handler(number, interrupt)
    try:
        yield
    finally:
        for number in caught:
            loop.remove_signal_handler(number)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")
