"""Asks a judge about every image, many at once, and loses nothing that was paid for."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime

from unigenbench.errors import BenchError, DataError, Interrupted
from unigenbench.judges.base import JudgeError, JudgeRefused, JudgeTruncated
from unigenbench.judging.budget import Budget
from unigenbench.judging.caller import Caller, RunStopped
from unigenbench.judging.estimate import MEASURED_AFTER
from unigenbench.judging.images import encode
from unigenbench.judging.plan import Plan, Task, commonest_failure, count_statuses, pending_tasks
from unigenbench.judging.progress import Outcome, Progress, Wait
from unigenbench.judging.records import Assessment, CallTotals, judgement_of, read_reply, unusable_judgements
from unigenbench.runs.cache import ReplyCache, cache_key
from unigenbench.runs.store import RunStore
from unigenbench.types import Judgement, JudgeRequest

SEEDS_PER_SAMPLE = 1000
"""between the first tries of two samples of an image; parse retries count up from each"""


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
        self._judge_id, self._tasks = plan.judge_id, pending_tasks(plan, store.last)
        self._budget = Budget(
            store.ledger, max_requests=settings.max_requests, max_cost=settings.max_cost, price=settings.price
        )
        self._requests_before, self._cost_before = self._budget.requests, self._budget.cost
        self._counts: Counter[str] = Counter()
        self._halted_by: BenchError | None = None
        self._defect: Exception | None = None
        self._last_wait: Wait | None = None
        self._workers: list[asyncio.Task[None]] = []

    async def run(self) -> Outcome:
        """All of it."""
        started = time.monotonic()
        # Made here, as they belong to the running event loop.
        self._stop = asyncio.Event()
        self._caller = Caller(self._plan, self._budget, self._stop, self._halt, self._report_wait)
        self._probing: asyncio.Task[None] | None = None
        for judgement in unusable_judgements(self._plan, self._store.last):
            self._store.append(judgement)
        queue = iter(self._tasks)
        with _on_signals(self._interrupt):
            workers = min(self._plan.settings.concurrency, len(self._tasks))
            self._workers = [asyncio.create_task(self._work(queue)) for _ in range(workers)]
            try:
                await self._finish()
            finally:
                await self._plan.judge.aclose()
        return self._outcome(time.monotonic() - started)

    async def _finish(self) -> None:
        """Waits for the workers; a defect is raised when the calls in flight have landed."""
        try:
            await asyncio.gather(*self._workers)
        except asyncio.CancelledError:
            if self._halted_by is None:
                raise
        finally:
            for task in filter(None, (*self._workers, self._probing)):
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        if self._defect is not None:
            raise self._defect

    def _interrupt(self) -> None:
        """The first time: begin nothing new. The second time: drop what is in flight."""
        if self._stop.is_set():
            for worker in self._workers:
                worker.cancel()
        self._halt(Interrupted("interrupted; what is done is saved, and the same command goes on"))

    def _halt(self, reason: BenchError) -> None:
        """Ends the run: the calls in flight land and are saved, nothing new is begun."""
        self._halted_by = self._halted_by or reason
        self._stop.set()
        self._tell()

    async def _work(self, queue: Iterator[Task]) -> None:
        for task in queue:
            if self._stop.is_set():
                return
            try:
                judgement = await self._judge(task)
                self._store.append(judgement)
                self._counts[judgement.status] += 1
                self._tell()
            except RunStopped:
                return
            except BenchError as error:
                self._halt(error)
                return
            except Exception as error:
                self._defect = self._defect or error
                self._stop.set()
                return

    def _report_wait(self, wait: Wait) -> None:
        self._last_wait = wait
        self._tell()

    def _tell(self) -> None:
        done, total = sum(self._counts.values()), len(self._tasks)
        cost, before = self._budget.cost, self._cost_before
        expected_cost = None
        if cost is not None and before is not None and done >= MEASURED_AFTER:
            expected_cost = before + (cost - before) / done * total
        wait = self._last_wait
        self._report(
            Progress(
                done=done,
                total=total,
                statuses=dict(self._counts),
                usage=self._budget.usage,
                cost=cost,
                expected_cost=expected_cost,
                concurrency=self._caller.limiter.limit,
                ending=self._stop.is_set(),
                wait=wait if wait and wait.until > datetime.now().astimezone() else None,
            )
        )

    async def _judge(self, task: Task) -> Judgement:
        """One image, to its end: verdicts, or the reason why there are none."""
        totals = CallTotals()
        try:
            request = await self._request(task)
        except (OSError, DataError) as error:
            return judgement_of(task, self._judge_id, totals, Assessment("image_bad", error=str(error)))
        try:
            found = await self._assess(task, request, totals)
        except JudgeRefused as error:
            found = Assessment("refused", error=str(error))
        except JudgeTruncated as error:
            found = Assessment("truncated", error=str(error))
        except JudgeError as error:
            found = Assessment("transport_failed", error=str(error))
        return judgement_of(task, self._judge_id, totals, found)

    async def _request(self, task: Task) -> JudgeRequest:
        """Encoded away from the event loop, as that can take long."""
        rubric, settings = self._plan.rubric, self._plan.settings
        content, media_type = await asyncio.to_thread(encode, task.image, rubric.encoding, settings.max_pixels)
        return JudgeRequest(
            key=task.key,
            prompt=task.prompt,
            image=task.image,
            text=rubric.render(task.prompt),
            image_bytes=content,
            media_type=media_type,
            image_first=rubric.image_first,
            max_tokens=settings.max_tokens,
        )

    async def _assess(self, task: Task, request: JudgeRequest, totals: CallTotals) -> Assessment:
        """Asks until an answer can be read, with another seed each time; what was read when the run ends is kept."""
        settings, first = self._plan.settings, task.first_attempt
        found = Assessment("parse_failed")
        for attempt in range(first, first + settings.parse_tries):
            seed = settings.seed + SEEDS_PER_SAMPLE * task.sample + attempt
            try:
                found = await self._reply(replace(request, attempt=attempt, seed=seed), totals)
            except RunStopped:
                if attempt == first:
                    raise
                break
            totals.parse_attempts = attempt + 1
            if found.status == "ok":
                break
        return found

    async def _reply(self, request: JudgeRequest, totals: CallTotals) -> Assessment:
        """From the cache, or from the judge; an answer that can be read goes to the cache."""
        n, key = len(request.prompt.points), cache_key(self._judge_id, self._plan.server, request)
        kept = self._cache.get(key)
        if kept is not None and (found := read_reply(kept, n)).status == "ok":
            totals.text, totals.from_cache = kept.text, True
            return found
        await self._probe_once()
        totals.parse_attempts = request.attempt + 1
        reply = await self._caller.reply(request, totals)
        found = read_reply(reply, n)
        if found.status == "ok":
            try:
                await self._cache.put(key, reply)
            except BenchError as error:
                self._halt(error)
        return found

    async def _probe_once(self) -> None:
        """The judge is probed before the first call, and not at all where every answer is known."""
        if self._probing is None:
            self._probing = asyncio.create_task(self._probe())
        await asyncio.shield(self._probing)

    async def _probe(self) -> None:
        """What the probe found goes to run.json; a model with another name than at the last start is a warning."""
        found = await self._caller.probe()
        manifest, notes = self._store.manifest, list(found.notes)
        before = manifest.get("served_model")
        if before and found.served_model and before != found.served_model:
            notes.append(f"The server called its model {before!r} before, and {found.served_model!r} now.")
        warnings = list(dict.fromkeys([*manifest.get("warnings", []), *notes]))
        self._store.update(served_model=found.served_model, dropped_fields=list(found.dropped), warnings=warnings)

    def _outcome(self, seconds: float) -> Outcome:
        state = "done"
        if self._halted_by is not None:
            state = "interrupted" if isinstance(self._halted_by, Interrupted) else "stopped"
        return Outcome(
            state=state,
            statuses=count_statuses(self._plan, self._store.last),
            asked=sum(self._counts.values()),
            judged=self._counts["ok"],
            requests=self._budget.requests - self._requests_before,
            usage=self._budget.usage,
            cost=self._budget.cost,
            uncounted=self._store.ledger.spent.uncounted,
            seconds=seconds,
            error=self._halted_by,
            commonest_failure=commonest_failure(self._plan, self._store.last),
        )


@contextmanager
def _on_signals(interrupt: Callable[[], None]) -> Iterator[None]:
    """Calls `interrupt` on SIGINT and SIGTERM; outside the main thread, where no signals arrive, changes nothing."""
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
