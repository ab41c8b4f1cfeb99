"""Further starts of a run: what is never asked twice, and what is asked again."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

from judging_runs import FAULTS, PROSE, Bench
from made_runs import write_noise
from stub import Answer, Call, fine, scene, serve

from unigenbench.judges.base import JudgeOptions
from unigenbench.judges.retry import RetryPolicy
from unigenbench.runs.store import JUDGEMENTS, REPLIES, open_log


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
