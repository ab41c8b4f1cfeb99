"""The HTTP judge against a real socket that misbehaves in every way that servers do."""

from __future__ import annotations

import asyncio
import base64
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_runs import POINTS
from stub import Answer, Call, error, scores, serve

from unigenbench.errors import InputError
from unigenbench.judges.addresses import complete_url
from unigenbench.judges.base import (
    FatalFailure,
    JudgeError,
    JudgeOptions,
    JudgeRefused,
    JudgeTruncated,
    Probe,
    TransientFailure,
    open_judge,
)
from unigenbench.judges.openai_compatible import OpenAICompatible
from unigenbench.judges.reply_modes import yes_probability
from unigenbench.judges.text import shorten
from unigenbench.types import ImageFile, JudgeReply, JudgeRequest, Prompt, Usage

KEY = "sk-secret-0123456789"
REQUEST = JudgeRequest(
    "en/0/0/0",
    Prompt(0, "three red dogs", "", "", "", "", POINTS),
    ImageFile(0, 0, Path("0_0.png"), "a" * 64, 8, 8, "PNG"),
    "Two checks.",
    b"\x89PNG not really",
    "image/png",
    image_first=True,
    seed=7,
    max_tokens=100,
)


def judge_for(url: str, **options: Any) -> OpenAICompatible:
    judge = open_judge("openai:my-model", JudgeOptions(base_url=url, **{"api_key": KEY} | options))
    assert isinstance(judge, OpenAICompatible)
    return judge


def ask(
    answer: Callable[[Call], Answer], request: JudgeRequest = REQUEST, **options: Any
) -> tuple[JudgeReply, list[Call]]:
    """One judgement by a server with these answers, and what the server saw."""

    async def main(url: str) -> JudgeReply:
        judge = judge_for(url, **options)
        try:
            return await judge.judge(request)
        finally:
            await judge.aclose()

    with serve(answer) as stub:
        return asyncio.run(main(stub.url)), stub.calls


def probe(answer: Callable[[Call], Answer], path: str = "", **options: Any) -> tuple[Probe, list[Call]]:
    async def main(url: str) -> Probe:
        judge = judge_for(url, **options)
        try:
            return await judge.probe()
        finally:
            await judge.aclose()

    with serve(answer) as stub:
        return asyncio.run(main(stub.url + path)), stub.calls


def test_a_request_is_what_every_server_understands():
    usage = {
        "prompt_tokens": 1200,
        "completion_tokens": 80,
        "completion_tokens_details": {"reasoning_tokens": 30},
        "prompt_tokens_details": {"cached_tokens": 1000},
    }
    reply, calls = ask(lambda _: Answer("<score>[1, 0]</score>", usage=usage, headers={"x-request-id": "r-1"}))
    (call,) = calls
    assert call.path == "/v1/chat/completions"
    assert call.headers["authorization"] == f"Bearer {KEY}"
    image = "data:image/png;base64," + base64.b64encode(REQUEST.image_bytes).decode()
    assert call.body == {
        "model": "my-model",
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "image_url", "image_url": {"url": image}},
                    {"type": "text", "text": "Two checks."},
                ],
            }
        ],
        "max_tokens": 100,
        "temperature": 0.0,
        "seed": 7,
    }
    assert (reply.text, reply.usage) == ("<score>[1, 0]</score>", Usage(1200, 80, 30, 1000))
    assert (reply.request_id, reply.served_model, reply.finish_reason) == ("r-1", "my-model@main", "stop")


def test_official_sampling_sends_neither_temperature_nor_seed_and_text_may_come_first():
    _, calls = ask(lambda _: Answer(), replace(REQUEST, image_first=False), temperature=None)
    assert set(calls[0].body) == {"model", "messages", "max_tokens"}
    assert [part["type"] for part in calls[0].body["messages"][0]["content"]] == ["text", "image_url"]


def test_a_parse_retry_samples_anew():
    _, calls = ask(lambda _: Answer(), replace(REQUEST, attempt=1, seed=8))
    assert (calls[0].body["temperature"], calls[0].body["seed"]) == (0.5, 8)


def test_an_absent_usage_and_null_content_are_no_crash():
    reply, _ = ask(lambda _: Answer(text=None, usage=None))
    assert (reply.text, reply.usage) == ("", Usage())


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (error(429, "slow down", retry_after="3"), TransientFailure, "HTTP 429: slow down"),
        (error(500, "boom"), TransientFailure, "HTTP 500: boom"),
        (error(503, "loading"), TransientFailure, "HTTP 503: loading"),
        (error(408, "timeout"), TransientFailure, "HTTP 408"),
        (error(400, "Server is pinned to 'other'"), FatalFailure, "HTTP 400: Server is pinned to 'other'"),
        (error(401, f"Incorrect API key provided: {KEY}"), FatalFailure, r"provided: \[key\]$"),
        (error(404, "The model `my-model` does not exist."), FatalFailure, "model `my-model` does not exist"),
        (error(413, "too large"), FatalFailure, "HTTP 413: too large"),
        (error(422, "extra field: top_q"), FatalFailure, "extra field: top_q"),
        (
            Answer(raw=b"moved", status=302, headers={"Location": "https://login.example/?next=secret"}),
            FatalFailure,
            r"HTTP 302: moved; the server points to https://login\.example/; is --base-url right\?$",
        ),
        (Answer(raw=b"", status=307), FatalFailure, "HTTP 307: an empty body; the server points elsewhere"),
        (Answer(raw=b"[" * 100_000, status=500), TransientFailure, r"HTTP 500: \[\[\["),
        (Answer(raw=json.dumps({"error": {"message": "bad \ud83d"}}).encode(), status=400), FatalFailure, "bad \ufffd"),
        (Answer(raw=b"\xff\xfe", status=200), TransientFailure, "no chat completion"),
        (Answer(cut=True), TransientFailure, "Read|Remote|Connect|disconnected"),
        (Answer(seconds=30), TransientFailure, r"no answer within 0\.5 s"),
        (Answer(raw=b"<html><body><h1>Bad gateway</h1></body></html>", status=502), TransientFailure, "Bad gateway$"),
        (Answer(raw=b"<html>Please log in</html>"), TransientFailure, "no chat completion but '.*log in"),
        (Answer(raw=b'{"error": {"message": "upstream", "code": 502}}'), TransientFailure, "upstream"),
        (Answer(raw=b'{"choices": []}'), TransientFailure, "no chat completion"),
        (Answer(raw=b"Internal Server Error", status=500), TransientFailure, "HTTP 500: Internal Server Error"),
        (Answer(raw=b"", status=500), TransientFailure, "an empty body"),
        (Answer(text=None, refusal="I cannot look at this."), JudgeRefused, "declined: I cannot look at this"),
        (Answer(text="", finish_reason="content_filter"), JudgeRefused, "declined: content filter"),
        (
            Answer(raw=b'{"error": {"message": "flagged", "code": "content_filter"}}', status=400),
            JudgeRefused,
            "HTTP 400: flagged",
        ),
        (Answer("<analysis>['a", finish_reason="length"), JudgeTruncated, "limit of tokens, after 100"),
        (
            Answer(raw=b'{"error": {"message": "pay", "code": "insufficient_quota"}}', status=429),
            FatalFailure,
            "HTTP 429: pay",
        ),
    ],
    ids=str,
)
def test_each_fault_is_named_for_what_it_is(answer: Answer, kind: type[JudgeError], words: str):
    with pytest.raises(kind, match=words) as caught:
        ask(lambda _: answer, timeout_seconds=0.5 if answer.seconds else 60.0)
    assert type(caught.value).__name__.lstrip("_") in (kind.__name__, "RequestRejected", "NotFound", "QuotaSpent")
    assert KEY not in str(caught.value)
    assert KEY not in repr(caught.value.__context__)


def test_a_cut_reply_keeps_what_there_is_and_what_it_cost():
    with pytest.raises(JudgeTruncated) as caught:
        ask(lambda _: Answer("<analysis>['a", finish_reason="length"))
    assert (caught.value.reply.text, caught.value.reply.usage) == ("<analysis>['a", Usage(1000, 100))


def test_nobody_listening_may_pass():
    async def main() -> None:
        judge = judge_for("http://127.0.0.1:9", connect_seconds=2)
        try:
            await judge.judge(REQUEST)
        finally:
            await judge.aclose()

    with pytest.raises(TransientFailure, match="Connect"):
        asyncio.run(main())


@pytest.mark.parametrize(
    ("answer", "seconds"),
    [
        (error(429, "slow", retry_after="3"), 3.0),
        (error(503, "slow", retry_after_ms="250"), 0.25),
        (
            Answer(status=429, raw=b'[{"error": {"message": "quota", "details": [{"retryDelay": "17s"}]}}]'),
            17.0,
        ),
        (error(429, "slow"), None),
    ],
    ids=["header", "milliseconds", "google", "none"],
)
def test_the_wait_that_a_server_asks_for_is_passed_on(answer: Answer, seconds: float | None):
    with pytest.raises(TransientFailure) as caught:
        ask(lambda _: answer)
    assert caught.value.retry_after == seconds
    assert caught.value.rate_limited == (answer.status == 429)


def test_a_field_that_the_server_refuses_is_dropped_and_not_sent_again():
    def answer(call: Call) -> Answer:
        for field in ("seed", "temperature", "response_format"):
            if field in call.body:
                return error(422, f"body.{field}: extra inputs are not permitted")
        return scores([1, 0])

    async def main(url: str) -> set[str]:
        judge = judge_for(url, reply="json")
        await judge.judge(REQUEST)
        await judge.judge(REQUEST)
        await judge.aclose()
        return judge.dropped

    with serve(answer) as stub:
        assert asyncio.run(main(stub.url)) == {"seed", "temperature", "response_format"}
        assert len(stub.calls) == 3 + 1 + 1  # a refusal for each field, once; then two answers
    found, _ = probe(answer, reply="json")
    assert found.dropped == ("response_format", "seed", "temperature")
    assert "refuses response_format, seed, temperature" in found.notes[0]


def test_max_tokens_becomes_max_completion_tokens_where_the_server_says_so():
    def answer(call: Call) -> Answer:
        if "max_tokens" in call.body:
            return error(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")
        return scores([1, 0])

    _, calls = ask(answer)
    assert [call.body.get("max_completion_tokens") for call in calls] == [None, 100]
    with pytest.raises(FatalFailure, match="max_completion_tokens is too large"):
        ask(lambda _: error(400, "max_tokens or max_completion_tokens is too large: 100"))


@pytest.mark.parametrize("served_below", ["/v1", ""])
@pytest.mark.parametrize("path", ["", "/", "/v1", "/v1/", "/v1/chat/completions"])
def test_a_base_url_may_be_written_with_or_without_v1(path: str, served_below: str):
    def answer(call: Call) -> Answer:
        return Answer() if call.path == f"{served_below}/chat/completions" else error(404, "Not Found")

    found, calls = probe(answer, path)
    assert found.served_model == "my-model@main"
    assert len(calls) == (1 if served_below == "/v1" else 2)


def test_a_path_of_a_proxy_is_left_as_it_is():
    assert complete_url("https://host/openai/deployments/x/") == "https://host/openai/deployments/x"
    assert complete_url("https://generativelanguage.googleapis.com/v1beta/openai") == (
        "https://generativelanguage.googleapis.com/v1beta/openai"
    )


def test_a_query_is_sent_along_and_never_shown():
    _, calls = probe(lambda _: Answer("1"), "?key=AIza0123456789&api-version=2")
    assert calls[0].path == "/v1/chat/completions?key=AIza0123456789&api-version=2"
    with pytest.raises(FatalFailure) as caught:
        probe(lambda call: error(403, f"{call.path} is not for you"), "?key=AIza0123456789")
    assert "AIza" not in str(caught.value)


def test_a_wrong_model_is_asked_for_once_and_answered_in_the_servers_words():
    with serve(lambda _: error(404, "The model `my-model` does not exist.")) as stub:

        async def main() -> None:
            judge = judge_for(stub.url)
            try:
                await judge.probe()
            finally:
                await judge.aclose()

        with pytest.raises(FatalFailure, match=r"HTTP 404: The model `my-model` does not exist\."):
            asyncio.run(main())
        assert len(stub.calls) == 1


def test_a_probe_is_one_tiny_image_with_what_every_request_has():
    found, calls = probe(lambda _: Answer("1", usage=None))
    assert len(calls) == 1
    assert calls[0].is_probe
    assert {"seed", "temperature", "max_tokens"} <= set(calls[0].body)
    assert len(json.dumps(calls[0].body)) < 2000
    assert found == Probe("my-model@main", (), ("The server does not count tokens, so that costs are estimates.",))


def test_logits_give_a_probability_for_each_test_point():
    # P(1) : P(0) = 0.6 : 0.2 for check 1 and 0.1 : 0.3 for check 2; " yes" counts with "1"
    tops = {
        "check 1": [("1", math.log(0.4)), (" yes", math.log(0.2)), ("0", math.log(0.2)), ("?", math.log(0.1))],
        "check 2": [("0", math.log(0.3)), ("1", math.log(0.1))],
    }

    def answer(call: Call) -> Answer:
        return Answer("1", top_logprobs=next(top for check, top in tops.items() if check in call.text))

    reply, calls = ask(answer, reply="logits")
    assert reply.probabilities == pytest.approx((0.75, 0.25))
    assert (reply.verdicts, reply.requests, reply.usage) == ((1, 0), 2, Usage(2000, 200))
    for call in calls:
        assert (call.body["max_tokens"], call.body["logprobs"], call.body["top_logprobs"]) == (1, True, 20)
        assert call.text.startswith("Two checks.")


def test_logits_without_a_yes_or_no_are_no_verdict():
    reply, _ = ask(lambda _: Answer("The", top_logprobs=[("The", -0.1), ("A", -2.0)]), reply="logits")
    assert (reply.verdicts, reply.probabilities) == (None, None)
    assert yes_probability([("The", -0.1)]) is None


def test_a_failure_between_digits_keeps_what_the_others_took():
    top = [("1", -0.1), ("0", -2.4)]

    def answer(call: Call) -> Answer:
        return error(500, "down") if "check 2" in call.text else Answer("1", top_logprobs=top)

    with pytest.raises(TransientFailure) as caught:
        ask(answer, reply="logits")
    assert (caught.value.requests, caught.value.usage) == (2, Usage(1000, 100))


def test_a_refusal_of_one_digit_is_a_refusal():
    with pytest.raises(JudgeRefused, match="declined: no"):
        ask(lambda _: Answer(text=None, refusal="no", top_logprobs=[("no", -0.1)]), reply="logits")


def test_logits_from_a_server_that_has_none_are_refused_at_once():
    with pytest.raises(FatalFailure, match="gives no logprobs; use --reply tags"):
        probe(lambda _: Answer("1"), reply="logits")


def test_an_address_and_a_key_are_checked_before_anything_is_sent(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    for url in (
        "localhost:8000",
        "http://",
        "http://[",
        "http://host:99999",
        "http://a b",
        "http://a\n",
        "http://\udcff",
    ):
        with pytest.raises(InputError, match="no http\\(s\\) address"):
            open_judge("openai:m", JudgeOptions(base_url=url))
    for name, variable in (("openai:m", "OPENAI_API_KEY"), ("gemini:m", "GEMINI_API_KEY")):
        with pytest.raises(InputError, match=f"needs a key; set UNIGENBENCH_API_KEY or {variable}"):
            open_judge(name)
    with pytest.raises(InputError, match="judge 'gpt': unknown; known are openai:…"):
        open_judge("gpt")


def test_what_a_judge_is_does_not_depend_on_where_it_is():
    one = open_judge("openai:m", JudgeOptions(base_url="http://a", api_key="k", timeout_seconds=1, concurrency=2))
    two = open_judge("openai:m", JudgeOptions(base_url="http://b:9/v1"))
    assert one.id == two.id
    assert len({one.id, open_judge("openai:n", JudgeOptions(base_url="http://a")).id}) == 2
    assert "k" not in json.dumps(list(one.spec.values()))
    assert "api_key" not in repr(JudgeOptions(api_key="hush"))


def test_a_page_is_shown_as_one_short_line():
    assert shorten("<html><style>x{}</style><body>Bad\n\n <b>gateway</b></body></html>") == "Bad gateway"
    assert shorten("x" * 500) == "x" * 399 + "…"
