"""Chat completions as no server should send them: a sound one with parts replaced by any JSON."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

from unigenbench.judges.base import TransientFailure
from unigenbench.judges.chat_completion import MOST_TOKENS, read_completion
from unigenbench.judges.reply_modes import yes_probability
from unigenbench.judging.records import counted_usage, read_reply

TEXT = '<analysis>["seen", "seen"]</analysis><score>[1, 0]</score>'
"""The one thing in these bodies that can be read as verdicts."""
LEAVES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 0.5, 10**30, -(10**400), float("nan"), float("inf"), float("-inf"), 1e308, "", " ",
    "1", "0", "yes", "null", "error", "length", "content_filter", "stop", "\ud83d", "\udc00 half", "[red]:smile:",
    "\x00", "<score>", "</score>", "<think>", "```json", "{", "[" * 2000, "x" * 100_000, "Ā" * 300,
)  # fmt: skip
KEYS = (
    "choices", "message", "content", "refusal", "finish_reason", "usage", "prompt_tokens", "completion_tokens", "error",
    "code", "logprobs", "top_logprobs", "token", "logprob", "model", "text", "type", "details", "retryDelay", "\ud83d",
)  # fmt: skip


def sound() -> dict[str, Any]:
    """A completion with everything that a server may state."""
    top = [{"token": "1", "logprob": -0.1, "bytes": [49]}, {"token": "0", "logprob": -2.4, "bytes": [48]}]
    return {
        "id": "c",
        "object": "chat.completion",
        "model": "m",
        "choices": [
            {
                "index": 0,
                "finish_reason": "stop",
                "message": {"role": "assistant", "content": TEXT, "refusal": None},
                "logprobs": {"content": [{"token": "1", "logprob": -0.1, "top_logprobs": top}]},
            }
        ],
        "usage": {
            "prompt_tokens": 1000,
            "completion_tokens": 50,
            "prompt_tokens_details": {"cached_tokens": 10},
            "completion_tokens_details": {"reasoning_tokens": 5},
        },
    }


def any_json(rng: random.Random, depth: int = 0) -> Any:
    """Any value, nested a little."""
    kind = rng.random()
    if depth > 3 or kind < 0.6:
        return rng.choice(LEAVES)
    items = [any_json(rng, depth + 1) for _ in range(rng.randrange(4))]
    return items if kind < 0.8 else {rng.choice(KEYS): item for item in items}


def odd_completion(rng: random.Random) -> bytes:
    """A body: a sound completion with one to three parts replaced or left out, now and then nested or cut."""
    body: Any = sound()
    for _ in range(rng.randint(1, 3)):
        holders = list(_holders(body))
        holder, key = rng.choice(holders) if holders else ({}, "x")
        if rng.random() < 0.2:
            del holder[key]
        elif rng.random() < 0.1 and holder:
            holder[key] = [copy.deepcopy(holder[key])] * 2
        else:
            holder[key] = any_json(rng)
    content = json.dumps(body).encode()
    damage: tuple[Callable[[bytes], bytes], ...] = (
        lambda text: text[: rng.randrange(len(text))],
        lambda text: b"[" * 100_000 + text,
        lambda text: text + b"}",
        lambda text: text.replace(b"stop", bytes([rng.randrange(256)])),
        lambda text: json.dumps(any_json(rng)).encode(),
    )
    return rng.choice(damage)(content) if rng.random() < 0.15 else content


def _holders(value: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) of each part of a value."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in list(pairs):
        yield value, key
        yield from _holders(part)


def check_reading(content: bytes) -> None:
    """The property: a completion whose verdicts, tokens and probabilities are those stated, or a failure with words."""
    try:
        reply, first_token = read_completion(content, 0.5)
    except TransientFailure as failure:
        words = str(failure)
        assert words.encode()
        return
    for text in (reply.text, reply.finish_reason, reply.served_model or ""):
        text.encode()
    usage = counted_usage(reply.usage)
    assert usage is None or max(vars(usage).values()) <= MOST_TOKENS
    found = read_reply(reply, 2)
    assert found.status == "parse_failed" or (found.verdicts == (1, 0) and TEXT in reply.text)
    probability = yes_probability(first_token or ())
    assert probability is None or 0 <= probability <= 1
