"""Runs of the judge over a real socket: what goes wrong, and what becomes of it."""

from __future__ import annotations

import random
import sqlite3
import tracemalloc
from pathlib import Path

import pytest
from judging_runs import FAULTS, PROSE, Bench, Forgetful, InProcess
from odd_json import odd_completion
from stub import Answer, Call, error, fine, scene, serve

from unigenbench.judges.base import JudgeOptions
from unigenbench.judges.retry import RetryPolicy
from unigenbench.runs.store import REPLIES
from unigenbench.types import JudgeReply


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
