"""One model behind several addresses: turns, an address that fails, all that fail, and requests for patience."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
from stub import Answer, Call, Stub, error, serve

from unigenbench.judges.base import FatalFailure, JudgeOptions, TransientFailure
from unigenbench.judges.openai_compatible import OpenAICompatible
from unigenbench.judges.pool import JudgePool
from unigenbench.judges.questions import Question
from unigenbench.judges.retry import RetryPolicy

QUICK = RetryPolicy(tries=3, rate_tries=4, base_seconds=0.01, cap_seconds=0.05)


def say(text: str) -> Callable[[Call], Answer]:
    return lambda _: Answer(text)


def question(number: int = 0) -> Question:
    return Question(f"question {number}", (b"first", b"second"), max_tokens=5)


def asked(answers: list[Callable[[Call], Answer]], count: int, retry: RetryPolicy = QUICK, **options: Any):
    """(what came of each question, the servers)"""

    async def main(servers: list[Stub]) -> list[Any]:
        judges = [OpenAICompatible("openai", "m", one.url, JudgeOptions(timeout_seconds=0.5)) for one in servers]
        pool = JudgePool(judges, retry, concurrency=options.get("concurrency", 2))
        try:
            if options.get("probe"):
                await pool.probe()
            return await asyncio.gather(*(pool.ask(question(k)) for k in range(count)), return_exceptions=True)
        finally:
            await pool.aclose()

    with ExitStack() as stack:
        servers = [stack.enter_context(serve(answer, latency=0.01)) for answer in answers]
        return asyncio.run(main(servers)), servers


def test_a_question_shows_its_images_in_order_before_its_text():
    _, (server,) = asked([say("yes")], 1)
    assert [part["type"] for part in server.calls[0].body["messages"][0]["content"]] == [
        "image_url",
        "image_url",
        "text",
    ]
    assert server.calls[0].body["temperature"] == 0
    assert server.calls[0].body["max_tokens"] == 5


def test_questions_are_shared_out_evenly_and_no_address_gets_more_at_once_than_allowed():
    found, servers = asked([say("yes")] * 3, 30)
    assert {completion.reply.text for completion in found} == {"yes"}
    assert [len(server.calls) for server in servers] == [10, 10, 10]
    assert max(server.most_in_flight for server in servers) == 2


@pytest.mark.parametrize("fault", [Answer(cut=True), error(503, "busy"), Answer(seconds=3)], ids=["cut", "503", "hang"])
def test_an_address_that_fails_is_left_out_and_the_others_answer_for_it(fault: Answer):
    found, (bad, good) = asked([lambda _: fault, say("yes")], 20, RetryPolicy(3, base_seconds=60))
    assert {completion.reply.text for completion in found} == {"yes"}
    assert len(good.calls) == 20
    assert len(bad.calls) <= 10  # those that were waiting for it already


def test_where_none_answers_a_question_is_tried_so_often_and_no_more():
    found, servers = asked([lambda _: error(500, "broken")] * 2, 1)
    assert isinstance(found[0], TransientFailure)
    assert sum(len(server.calls) for server in servers) == QUICK.tries


def test_too_many_requests_are_borne_for_longer_and_a_long_wait_not_at_all():
    seen: Counter[int] = Counter()

    def limited(call: Call) -> Answer:
        seen["calls"] += 1  # type: ignore[index]
        return error(429, "slower") if seen["calls"] < 4 else Answer("yes")  # type: ignore[index]

    found, _ = asked([limited], 1)
    assert found[0].reply.text == "yes"
    found, (server,) = asked([lambda _: error(429, "tomorrow", Retry_After="86400")], 1)
    assert "tomorrow" in str(found[0])
    assert len(server.calls) == 1


def test_a_probe_is_content_with_one_address_that_answers_and_not_with_a_wrong_model():
    found, _ = asked([say("yes"), lambda _: Answer(cut=True)], 1, probe=True)
    assert found[0].reply.text == "yes"
    with pytest.raises(TransientFailure):
        asked([lambda _: Answer(cut=True)] * 2, 1, probe=True)
    with pytest.raises(FatalFailure, match="no such model"):
        asked([say("yes"), lambda _: error(404, "no such model m")], 1, probe=True)
