"""Runs of the judge over a real socket: what goes wrong, what is saved, what is never asked twice."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import threading
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from made_runs import prompt_set, write_images, write_noise
from odd_json import odd_completion
from stub import Answer, Call, Stub, error, fine, scene, scores, serve

from unigenbench.errors import Interrupted, ServerError, TryAgainError
from unigenbench.judges.base import Judge, JudgeOptions, Probe, open_judge
from unigenbench.judges.openai_compatible import OpenAICompatible
from unigenbench.judges.retry import RetryPolicy
from unigenbench.judging.budget import BudgetSpent
from unigenbench.judging.estimate import Price
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


def test_every_fault_has_its_status_and_none_becomes_a_number(tmp_path: Path):
    names = list(FAULTS)
    seen: dict[int, list[Call]] = {}

    def answer(call: Call) -> Answer:
        if call.is_probe:
            return Answer("1")
        seen.setdefault(scene(call), []).append(call)
        return FAULTS[names[scene(call)]][0](len(seen[scene(call)]) - 1)

    bench = Bench(tmp_path, prompts=len(names))
    with serve(answer) as stub:
        outcome = bench.run(stub.url, JudgeOptions(timeout_seconds=2.0), concurrency=20)
    log = bench.log()
    assert {name: log[k].status for k, name in enumerate(names)} == {name: FAULTS[name][1] for name in names}
    assert {name: len(seen[k]) for k, name in enumerate(names)} == {name: FAULTS[name][2] for name in names}
    for k, name in enumerate(names):
        ok = FAULTS[name][1] == "ok"
        assert log[k].verdicts == ((1, 0) if ok else None), name
        assert bool(log[k].error) != ok, name
        assert log[k].attempts == FAULTS[name][2]
    assert (outcome.state, outcome.error) == ("done", None)
    assert outcome.statuses["ok"] == 7
    assert outcome.failed_share == pytest.approx(13 / 20)
    at = names.index
    assert log[at("prose")].raw == PROSE.text
    assert log[at("refused")].error == "the judge declined: I cannot help with that."
    assert "this image is too large" in log[at("413")].error
    retries = seen[at("prose")]
    assert [call.body["seed"] for call in retries] == [0, 1, 2]  # each with its own
    assert [call.body["max_tokens"] for call in seen[at("truncated")]] == [4096, 8192]
    waited = seen[at("429, then well")]
    assert waited[1].at - waited[0].at >= 0.4  # as the server asked


def test_the_server_never_sees_more_at_once_than_asked_for(tmp_path: Path):
    bench = Bench(tmp_path, prompts=8, per_prompt=4)
    with serve(fine, latency=0.15) as stub:
        outcome = bench.run(stub.url, concurrency=6)
        assert stub.most_in_flight == 6
        assert len(stub.judged) == 32
    assert outcome.statuses == {"ok": 32}


def test_too_many_requests_slow_the_run_down_and_lose_nothing(tmp_path: Path):
    # a server that serves two at once and refuses the third
    bench = Bench(tmp_path, prompts=24)
    with serve(fine, latency=0.05) as stub:
        stub.answer = lambda call: fine(call) if stub.in_flight <= 2 else error(429, "busy", retry_after="0.05")
        outcome = bench.run(stub.url, concurrency=8)
    assert outcome.statuses == {"ok": 24}


def test_a_second_run_makes_no_request(tmp_path: Path):
    bench = Bench(tmp_path, prompts=5)
    with serve(fine) as stub:
        bench.run(stub.url)
        calls, lines = len(stub.calls), bench.lines()
        outcome = bench.run(stub.url)
        assert len(stub.calls) == calls
    assert (outcome.judged, outcome.requests, outcome.statuses) == (0, 0, {"ok": 5})
    assert bench.lines() == lines


def test_what_was_judged_is_looked_up_by_content_not_by_path(tmp_path: Path):
    bench = Bench(tmp_path, prompts=3)
    with serve(fine) as stub:
        bench.run(stub.url)
        (tmp_path / "images").rename(tmp_path / "moved")
        (tmp_path / "images").symlink_to(tmp_path / "moved")
        calls = len(stub.calls)
        bench.run(stub.url)
        assert len(stub.calls) == calls


def test_only_a_changed_image_is_judged_again(tmp_path: Path):
    bench = Bench(tmp_path, prompts=4)
    with serve(fine) as stub:
        bench.run(stub.url)
        before, first = bench.log(), (tmp_path / "images" / "2_0.png").read_bytes()
        write_noise(tmp_path / "images" / "2_0.png", seed=999)
        assert bench.run(stub.url, max_requests=4).statuses == {"ok": 3, "unjudged": 1}  # 4 were made before
        outcome = bench.run(stub.url)
        assert [scene(call) for call in stub.judged[4:]] == [2]
        assert (outcome.judged, outcome.statuses) == (1, {"ok": 4})
        assert bench.log()[2].image_sha256 != before[2].image_sha256
        assert bench.lines() == 5  # the old line is kept
        (tmp_path / "images" / "2_0.png").write_bytes(first)  # back again: the old reply is known
        assert bench.run(stub.url).judged == 1
        assert len(stub.judged) == 5
        assert bench.log()[2].verdicts == before[2].verdicts
        assert bench.log()[2].cached


def test_what_failed_is_asked_again_with_another_seed_unless_it_is_to_be_kept(tmp_path: Path):
    bench = Bench(tmp_path, prompts=3)
    healed = threading.Event()

    def answer(call: Call) -> Answer:
        return fine(call) if scene(call) != 1 or healed.is_set() else PROSE

    with serve(answer) as stub:
        assert bench.run(stub.url).statuses == {"ok": 2, "parse_failed": 1}
        healed.set()
        calls = len(stub.calls)
        assert bench.run(stub.url, keep_failed=True).statuses == {"ok": 2, "parse_failed": 1}
        assert len(stub.calls) == calls
        assert bench.run(stub.url).statuses == {"ok": 3}
        assert [call.body["seed"] for call in stub.judged if scene(call) == 1] == [0, 1, 2, 3]


def test_images_that_are_missing_or_damaged_are_in_the_log(tmp_path: Path):
    bench = Bench(tmp_path, prompts=4)
    good = (tmp_path / "images" / "1_0.png").read_bytes()
    (tmp_path / "images" / "1_0.png").unlink()
    (tmp_path / "images" / "3_0.png").write_bytes(b"")
    with serve(fine) as stub:
        outcome = bench.run(stub.url)
        assert outcome.statuses == {"ok": 2, "image_missing": 1, "image_bad": 1}
        log = bench.log()
        assert (log[1].status, log[1].verdicts, log[1].attempts) == ("image_missing", None, 0)
        assert log[3].error == "is empty"
        lines = bench.lines()
        bench.run(stub.url)
        assert bench.lines() == lines  # said once
        (tmp_path / "images" / "1_0.png").write_bytes(good)
        assert bench.run(stub.url).statuses == {"ok": 3, "image_bad": 1}


def test_a_server_that_goes_and_comes_back_costs_time_only(tmp_path: Path):
    bench = Bench(tmp_path, prompts=20)
    replaced: list[Stub] = []
    stub = Stub(fine, latency=0.02)

    def restart() -> None:
        while len(stub.judged) < 6:
            time.sleep(0.005)
        stub.close()
        time.sleep(0.5)
        replaced.append(Stub(fine, port=stub.port))

    thread = threading.Thread(target=restart)
    thread.start()
    try:
        outcome = bench.run(stub.url, retry=RetryPolicy(tries=12, base_seconds=0.2, cap_seconds=0.5))
    finally:
        thread.join()
        for each in (stub, *replaced):
            each.close()
    assert outcome.statuses == {"ok": 20}
    answered = stub.answered + replaced[0].answered
    assert len(answered) == 20
    assert replaced[0].judged  # it did go on with the new server
    assert sum(answered.values()) <= 20 + 4  # at most the calls in flight were answered twice


def test_a_run_ends_when_its_judge_is_plainly_gone(tmp_path: Path):
    bench = Bench(tmp_path, prompts=30)
    with serve(lambda call: Answer("1") if call.is_probe else error(404, "no such route")) as stub:
        outcome = bench.run(stub.url)
        assert 20 <= len(stub.judged) < 20 + 4  # those in flight may still end
    assert outcome.state == "stopped"
    assert isinstance(outcome.error, ServerError)
    assert "20 judgements in a row failed, the last with: " in str(outcome.error)
    assert "no such route" in str(outcome.error)


def test_a_wrong_model_ends_the_run_before_the_first_image(tmp_path: Path):
    bench = Bench(tmp_path, prompts=30)
    with serve(lambda _: error(404, "The model `m` does not exist.")) as stub:
        outcome = bench.run(stub.url)
        assert len(stub.calls) == 1
    assert outcome.state == "stopped"
    assert "the judge cannot be used: " in str(outcome.error)
    assert "The model `m` does not exist." in str(outcome.error)
    assert (outcome.judged, outcome.statuses) == (0, {"unjudged": 30})


def test_nobody_listening_ends_the_run_with_a_question(tmp_path: Path):
    outcome = Bench(tmp_path, prompts=3).run("http://127.0.0.1:9")
    assert isinstance(outcome.error, ServerError)
    assert "is the server up?" in str(outcome.error)


def test_a_server_that_asks_to_come_back_in_an_hour_ends_the_run_for_now(tmp_path: Path):
    bench = Bench(tmp_path, prompts=6)
    with serve(lambda call: fine(call) if call.number < 4 else error(429, "quota", retry_after="3600")) as stub:
        outcome = bench.run(stub.url)
    assert isinstance(outcome.error, TryAgainError)
    assert "come back in 3600 s" in str(outcome.error)
    assert outcome.statuses == {"ok": 3, "unjudged": 3}  # the first call was the probe


@pytest.mark.parametrize("tokens_counted", [True, False])
def test_a_budget_is_not_exceeded_and_a_higher_one_goes_on(tmp_path: Path, tokens_counted: bool):
    bench = Bench(tmp_path, prompts=12)

    def answer(call: Call) -> Answer:
        return fine(call) if tokens_counted else replace(fine(call), usage=None)

    with serve(answer) as stub:
        outcome = bench.run(stub.url, max_requests=5)
        assert len(stub.judged) == 5
        assert isinstance(outcome.error, BudgetSpent)
        assert outcome.statuses == {"ok": 5, "unjudged": 7}
        bench.run(stub.url, max_requests=5)
        assert len(stub.judged) == 5  # spent is spent
        if tokens_counted:  # 1000 tokens in at 1 a million: 0.001 each; 5 are paid, 3 more fit
            outcome = bench.run(stub.url, max_cost=0.0085, price=Price(1.0, 0.0))
            assert len(stub.judged) == 8
            assert outcome.cost == pytest.approx(0.008)
        assert bench.run(stub.url).statuses == {"ok": 12}
        assert max(stub.answered.values()) == 1


def test_the_first_interrupt_saves_what_is_in_flight(tmp_path: Path):
    bench = Bench(tmp_path, prompts=40)

    def answer(call: Call) -> Answer:
        if call.number == 10:
            os.kill(os.getpid(), signal.SIGINT)
        return replace(fine(call), seconds=0.1)

    with serve(answer) as stub:
        outcome = bench.run(stub.url)
        assert outcome.state == "interrupted"
        assert isinstance(outcome.error, Interrupted)
        assert outcome.error.exit_code == 130
        assert len(stub.judged) < 20  # the probe, about ten more, and those in flight
        assert outcome.statuses["ok"] == len(stub.judged) == sum(stub.answered.values())
        assert bench.run(stub.url).statuses == {"ok": 40}
        assert set(stub.answered.values()) == {1}  # nothing was asked twice


def test_the_second_interrupt_does_not_wait(tmp_path: Path):
    bench = Bench(tmp_path, prompts=8)

    def answer(call: Call) -> Answer:
        if call.number in (3, 4):  # two calls are in flight when the first signal comes
            threading.Timer(0.2 * call.number, os.kill, (os.getpid(), signal.SIGINT)).start()
        return Answer("1") if call.is_probe else Answer(seconds=60)

    with serve(answer) as stub:
        started = time.monotonic()
        outcome = bench.run(stub.url)
        assert time.monotonic() - started < 20
    assert outcome.statuses == {"unjudged": 8}


def test_a_reply_that_is_paid_for_is_kept_before_it_is_judged(tmp_path: Path):
    """A kill between the two costs nothing: the log's lines are rebuilt from the cache of replies."""
    bench = Bench(tmp_path, prompts=6)
    with serve(fine) as stub:
        bench.run(stub.url)
        before = {k: line.verdicts for k, line in bench.log().items()}
        log = tmp_path / "run" / JUDGEMENTS
        log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:2]))
        calls = len(stub.calls)
        outcome = bench.run(stub.url)
        assert len(stub.calls) == calls  # not even a probe
    assert {k: line.verdicts for k, line in bench.log().items()} == before
    assert (outcome.judged, outcome.requests) == (4, 0)


def test_a_model_that_is_served_under_another_name_is_a_warning(tmp_path: Path):
    bench = Bench(tmp_path, prompts=3)
    reply = '{"model": "NAME", "choices": [{"message": {"content": "<score>[1, 0]</score>"}}]}'
    for name, budget in (("a", 1), ("b", None)):
        with serve(lambda _, name=name: Answer(raw=reply.replace("NAME", name).encode())) as stub:
            bench.run(stub.url, max_requests=budget)
    manifest = open_log(tmp_path / "run").manifest
    assert manifest["served_model"] == "b"
    assert manifest["warnings"] == [
        "The server does not count tokens, so that costs are estimates.",
        "The server called its model 'a' before, and 'b' now.",
    ]


def test_only_replies_with_verdicts_are_cached(tmp_path: Path):
    names = list(FAULTS)
    counts: dict[int, int] = {}

    def answer(call: Call) -> Answer:
        if call.is_probe:
            return Answer("1")
        counts[scene(call)] = counts.get(scene(call), -1) + 1
        return FAULTS[names[scene(call)]][0](counts[scene(call)])

    bench = Bench(tmp_path, prompts=len(names))
    with serve(answer) as stub:
        bench.run(stub.url, JudgeOptions(timeout_seconds=0.5), retry=RetryPolicy(1, base_seconds=0), parse_tries=1)
    rows = sqlite3.connect(tmp_path / "run" / REPLIES).execute("SELECT reply FROM replies").fetchall()
    kept = [row[0] for row in rows]
    assert all("<score>[1, 0]</score>" in text for text in kept)
    assert len(kept) == 2 + 1 + 1  # well-formed, fenced; truncated and 429 that healed


@pytest.mark.parametrize("seed", range(3))
def test_replies_of_any_shape_end_no_run_and_are_cached_only_with_verdicts(tmp_path: Path, seed: int):
    bench, rng = Bench(tmp_path, prompts=40), random.Random(seed)
    settings = {"retry": RetryPolicy(tries=2, base_seconds=0), "parse_tries": 2}
    with serve(lambda call: Answer("1") if call.is_probe else Answer(raw=odd_completion(rng))) as stub:
        outcome = bench.run(stub.url, **settings)
    assert (outcome.state, outcome.asked) == ("done", 40)
    assert outcome.judged == outcome.statuses["ok"] > 0
    assert {line.verdicts for line in bench.log().values() if line.status == "ok"} == {(1, 0)}
    assert all(line.error for line in bench.log().values() if line.status != "ok")
    count = "SELECT count(*) FROM replies"
    assert sqlite3.connect(tmp_path / "run" / REPLIES).execute(count).fetchone()[0] == outcome.judged
    with serve(fine) as stub:
        assert bench.run(stub.url, **settings).statuses == {"ok": 40}


def test_what_is_in_flight_is_saved_whatever_else_fails(tmp_path: Path):
    class Defective(InProcess):
        async def judge(self, request: JudgeRequest) -> JudgeReply:
            await asyncio.sleep(0.3 + 0.3 * (request.prompt.index > 0))
            if request.prompt.index == 0:
                raise ZeroDivisionError("a defect")
            return JudgeReply("<score>[1, 0]</score>")

    bench = Bench(tmp_path, prompts=30)
    with pytest.raises(ZeroDivisionError):
        bench.run_judge(Defective(lambda _: JudgeReply()), concurrency=8)
    assert {index: line.status for index, line in bench.log().items()} == dict.fromkeys(range(1, 8), "ok")


def test_a_disk_that_fills_up_ends_the_run_and_loses_nothing_that_it_can_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    bench = Bench(tmp_path, prompts=12)

    def full(self: ReplyCache, rows: list) -> None:
        raise TryAgainError("the disk is full")

    monkeypatch.setattr(ReplyCache, "_write", full)
    with serve(fine, latency=0.1) as stub:
        outcome = bench.run(stub.url, concurrency=4)
        assert outcome.statuses == {"ok": len(stub.judged), "unjudged": 12 - len(stub.judged)}
    assert isinstance(outcome.error, TryAgainError)
    assert 1 <= outcome.judged <= 4


def test_limits_count_calls_of_judgements_that_were_never_finished(tmp_path: Path):
    bench = Bench(tmp_path, prompts=4)
    with serve(lambda call: Answer("1") if call.is_probe else error(500, "down")) as stub:
        for _ in range(4):
            outcome = bench.run(stub.url, max_requests=10)
        assert len(stub.judged) == 10
    assert isinstance(outcome.error, BudgetSpent)


@pytest.mark.parametrize(
    "usage",
    [
        None,
        {"prompt_tokens": float("nan"), "completion_tokens": float("nan")},
        {"prompt_tokens": -1000, "completion_tokens": -1000},
        {"prompt_tokens": {}, "completion_tokens": "many"},
    ],
)
def test_a_limit_of_money_holds_across_starts_where_tokens_are_not_counted(tmp_path: Path, usage: Any):
    bench = Bench(tmp_path, prompts=12)
    price = Price(1000.0, 1000.0)  # a judgement takes some 600 tokens, as estimated: about 0.6
    with serve(lambda call: replace(fine(call), usage=usage)) as stub:
        for _ in range(3):
            outcome = bench.run(stub.url, max_cost=3.0, price=price)
        assert 2 <= len(stub.judged) <= 6
    assert outcome.uncounted == len(stub.judged)
    assert outcome.cost is not None
    assert 1.5 < outcome.cost <= 3.0


def test_a_probe_that_is_told_to_come_back_tomorrow_ends_the_run_for_now(tmp_path: Path):
    with serve(lambda _: error(429, "come back tomorrow", retry_after="86400")) as stub:
        outcome = Bench(tmp_path, prompts=2).run(stub.url)
        assert len(stub.calls) == 1
    assert isinstance(outcome.error, TryAgainError)
    assert "come back tomorrow; it asks to come back in 86400 s" in str(outcome.error)


def test_a_reply_is_not_taken_from_the_cache_of_another_server(tmp_path: Path):
    bench = Bench(tmp_path, prompts=3)
    for expected in (3, 3):  # each server is asked about all
        with serve(fine) as stub:
            bench.run(stub.url)
            (tmp_path / "run" / JUDGEMENTS).unlink()
            assert len(stub.judged) == expected
            bench.run(stub.url)
            (tmp_path / "run" / JUDGEMENTS).unlink()
            assert len(stub.judged) == expected


def test_waits_are_reported_with_their_end_and_reason(tmp_path: Path):
    seen: list[Progress] = []
    bench = Bench(tmp_path, prompts=2)
    with serve(lambda call: error(503, "loading", retry_after="2.1") if call.number == 1 else fine(call)) as stub:
        judge = open_judge("openai:m", JudgeOptions(base_url=stub.url))
        outcome = bench.run_judge(judge, report=seen.append, concurrency=1)
    assert outcome.statuses == {"ok": 2}
    waits = [now.wait for now in seen if now.wait is not None]
    assert "HTTP 503: loading" in waits[0].reason
    assert 0 < (waits[0].until - datetime.now().astimezone()).total_seconds() + 60 < 63


def test_the_commonest_failure_is_named(tmp_path: Path):
    def answer(call: Call) -> Answer:
        if scene(call) in (-1, 0):
            return fine(call)
        return error(401, "a wrong key") if scene(call) < 4 else error(413, "too large")

    with serve(answer) as stub:
        outcome = Bench(tmp_path, prompts=6).run(stub.url)
    assert outcome.statuses == {"ok": 1, "transport_failed": 5}
    assert outcome.commonest_failure is not None
    words, times = outcome.commonest_failure
    assert words.endswith("HTTP 401: a wrong key")
    assert times == 3


def test_verdicts_that_a_judge_gives_itself_are_checked_too(tmp_path: Path):
    given = {0: (1, 0), 1: (1,), 2: (1, 2), 3: (True, False)}
    bench = Bench(tmp_path, prompts=4)
    judge = InProcess(lambda request: JudgeReply(verdicts=given[request.prompt.index], probabilities=(0.9, 0.2)))
    outcome = bench.run_judge(judge, parse_tries=1)
    log = bench.log()
    assert outcome.statuses == {"ok": 2, "parse_failed": 2}
    assert [log[k].verdicts for k in range(4)] == [(1, 0), None, None, (1, 0)]
    assert (log[0].probabilities, log[1].probabilities) == ((0.9, 0.2), None)
    assert log[1].error == "wrong_length: 1 verdicts for 2 test points"


def test_several_samples_of_an_image_are_judgements_of_their_own(tmp_path: Path):
    bench = Bench(tmp_path, prompts=3)
    judge = InProcess(lambda _: JudgeReply("<score>[1, 0]</score>"))
    outcome = bench.run_judge(judge, samples=2)
    assert outcome.statuses == {"ok": 6}
    assert sorted(request.key for request in judge.asked) == [f"en/{k}/0/{s}" for k in range(3) for s in range(2)]
    seeds = {request.key[-1]: request.seed for request in judge.asked}
    assert seeds["0"] != seeds["1"]  # the same seed would give the same answer


def test_a_defect_of_a_judge_ends_the_run_with_a_traceback(tmp_path: Path):
    def answer(_: JudgeRequest) -> JudgeReply:
        raise ZeroDivisionError("a defect")

    with pytest.raises(ZeroDivisionError, match="a defect"):
        Bench(tmp_path, prompts=9).run_judge(InProcess(answer))


def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path):
    def peak(prompts: int) -> int:
        bench = Bench(tmp_path / str(prompts), prompts)
        for path in (bench.folder / "images").iterdir():
            path.write_bytes(path.read_bytes() + b"\0" * 200_000)  # after the end of a PNG anything may follow
        judge = InProcess(lambda _: JudgeReply("<score>[1, 0]</score>"))
        judge.asked = Forgetful()
        tracemalloc.start()
        bench.run_judge(judge, concurrency=4)
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    peak(8)  # what is loaded once
    assert peak(120) - peak(20) < 100 * 20_000  # 100 images more, a tenth of their bytes at most


class Forgetful(list):
    """Keeps nothing."""

    def append(self, _: object) -> None: ...
