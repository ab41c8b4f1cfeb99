"""What a body with status 200 says: a reply, or a failure in the server's words; never more than it states."""

from __future__ import annotations

import json
import math
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from odd_json import TEXT, check_reading, odd_completion, sound

from unigenbench.judges.base import TransientFailure
from unigenbench.judges.chat_completion import read_completion, read_error, read_usage
from unigenbench.judges.reply_modes import yes_probability
from unigenbench.judging.records import counted_usage
from unigenbench.types import Usage


def read(change: dict[str, Any], message: dict[str, Any] | None = None):
    """A sound body with these fields in its choice, and these in its message."""
    body = sound()
    choice = body["choices"][0]
    choice["message"].update(message or {})
    choice.update(change)
    return read_completion(json.dumps(body).encode(), 0.5)


@given(st.randoms(use_true_random=False))
def test_a_body_of_any_shape_is_a_reply_or_a_failure(rng: random.Random):
    check_reading(odd_completion(rng))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
)


@given(JSON)
def test_any_json_is_an_error_with_words(value: Any):
    fields = read_error(json.dumps(value))
    fields.message.encode()
    assert fields.message
    assert fields.retry_after is None or fields.retry_after >= 0


@given(JSON, JSON)
def test_a_usage_of_any_shape_is_counted_or_not(prompt: Any, completion: Any):
    for usage in (prompt, {"prompt_tokens": prompt, "completion_tokens": completion}):
        found = read_usage(json.loads(json.dumps(usage)))
        assert found == Usage() or counted_usage(found) == found or found.input == 0


@pytest.mark.parametrize(
    "usage",
    [
        None, [], "many", {"prompt_tokens": 10}, {"prompt_tokens": float("nan"), "completion_tokens": 1},
        {"prompt_tokens": -1, "completion_tokens": 1}, {"prompt_tokens": "10", "completion_tokens": 1},
        {"prompt_tokens": True, "completion_tokens": 1}, {"prompt_tokens": 1.5, "completion_tokens": 1},
        {"prompt_tokens": 10**12, "completion_tokens": 1},
    ],
    ids=str,
)  # fmt: skip
def test_tokens_that_are_no_counts_are_not_counted(usage: Any):
    assert read_usage(usage) == Usage()


def test_a_whole_float_is_a_count():
    usage = {"prompt_tokens": 10.0, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": float("nan")}}
    assert read_usage(usage) == Usage(10, 1)


@pytest.mark.parametrize(
    ("change", "message", "words"),
    [
        ({"message": None}, None, "no chat completion but"),
        ({"message": "text"}, None, "no chat completion but"),
        ({}, {"content": 1}, "no chat completion but"),
        ({}, {"content": {"score": [1, 0]}}, "no chat completion but"),
        ({}, {"content": [{"type": "image"}]}, "no chat completion but"),
        ({"finish_reason": "error"}, None, "broke off: finish_reason is 'error'"),
        ({"finish_reason": "abort"}, None, "broke off: finish_reason is 'abort'"),
        ({"finish_reason": "error", "error": {"code": 502, "message": "upstream died"}}, None, "off: upstream died"),
        ({"error": "half \ud83d"}, None, "broke off: half \ufffd"),
    ],
    ids=str,
)
def test_what_is_no_whole_reply_is_a_failure_with_the_servers_words(change: Any, message: Any, words: str):
    with pytest.raises(TransientFailure, match=words) as caught:
        read(change, message)
    assert caught.value.usage == Usage(1000, 50, 5, 10)  # paid for all the same


def test_a_content_of_parts_is_their_text():
    parts = [{"type": "thinking", "thinking": "hm <score>[0, 0]</score>"}, {"type": "text", "text": TEXT[:9]}, TEXT[9:]]
    assert read({}, {"content": parts}).reply.text == TEXT


@pytest.mark.parametrize(
    ("change", "message", "text"),
    [
        ({}, {"refusal": "I cannot."}, "I cannot."),
        ({}, {"refusal": {"reason": "unsafe", "code": 1}}, "unsafe"),
        ({}, {"refusal": True, "content": None}, ""),
        ({}, {"content": [{"type": "refusal", "refusal": "No."}]}, "No."),
        ({"finish_reason": "SAFETY", "message": None}, None, ""),
    ],
    ids=str,
)
def test_a_refusal_of_any_shape_is_a_refusal(change: Any, message: Any, text: str):
    reply = read(change, message).reply
    assert (reply.finish_reason, reply.text) == ("content_filter", text)


@pytest.mark.parametrize(
    "top",
    [
        None, [], "1", [None], [{"token": "1"}], [{"token": 1, "logprob": -1.0}], [{"token": "1", "logprob": "-1"}],
        [{"token": "1", "logprob": math.nan}, {"token": "0", "logprob": -0.1}],
        [{"token": "1", "logprob": math.inf}], [{"token": "1", "logprob": 3.0}],
        [{"token": "1", "logprob": 0.0}, {"token": "0", "logprob": 0.0}],
    ],
    ids=str,
)  # fmt: skip
def test_log_probabilities_that_are_none_give_no_probability(top: Any):
    logprobs = {"content": [{"token": "1", "logprob": -0.1, "top_logprobs": top}]}
    assert read({"logprobs": logprobs}).first_token is None


def test_a_token_without_any_probability_counts_as_none():
    top = [{"token": "1", "logprob": -math.inf}, {"token": "0", "logprob": -9999.0}, {"token": "yes", "logprob": -0.1}]
    first = read({"logprobs": {"content": [{"top_logprobs": top}]}}).first_token
    assert yes_probability(first or ()) == pytest.approx(1.0)


def test_five_megabytes_and_deep_nesting_are_read_or_refused():
    long = "x" * 5_000_000 + TEXT
    assert read({}, {"content": long}).reply.text == long
    with pytest.raises(TransientFailure) as caught:
        read_completion(b"[" * 5_000_000, 0.5)
    assert len(str(caught.value)) < 500
