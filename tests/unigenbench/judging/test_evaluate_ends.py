"""How runs end early or wait: servers that go, limits, interrupts, full disks; and what is saved."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from judging_runs import Bench, InProcess
from stub import Answer, Call, Stub, error, fine, serve

from unigenbench.errors import Interrupted, ServerError, TryAgainError
from unigenbench.judges.base import JudgeOptions, open_judge
from unigenbench.judges.retry import RetryPolicy
from unigenbench.judging.budget import BudgetSpent
from unigenbench.judging.estimate import Price
from unigenbench.judging.progress import Progress
from unigenbench.runs.cache import ReplyCache
from unigenbench.types import JudgeReply, JudgeRequest


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


def test_a_defect_of_a_judge_ends_the_run_with_a_traceback(tmp_path: Path):
    def answer(_: JudgeRequest) -> JudgeReply:
        raise ZeroDivisionError("a defect")

    with pytest.raises(ZeroDivisionError, match="a defect"):
        Bench(tmp_path, prompts=9).run_judge(InProcess(answer))
