"""What a server answers to a chat completion: a reply, or a failure in the server's own words.

Servers send JSON of every shape here (null messages, lists for texts, texts for numbers). Whatever is not as OpenAI
defines it is a failure or is left out; it is never guessed at.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from unigenbench.judges.base import JudgeRefused, JudgeTruncated, TransientFailure
from unigenbench.judges.text import replace_surrogates, shorten
from unigenbench.types import JudgeReply, Usage

REFUSED = frozenset({"content_filter", "safety", "recitation", "prohibited_content", "blocklist", "spii", "refusal"})
"""Words of `finish_reason` for a reply that a filter stopped, in lower case."""
TRUNCATED = frozenset({"length", "max_tokens", "model_length"})
BROKEN_OFF = frozenset({"error", "abort", "aborted", "cancelled", "canceled", "failed"})
MOST_TOKENS = 100_000_000
"""of one reply; a larger count is none"""
WORD_CHARACTERS = 60
"""of a finish_reason that is kept"""
ROUNDING = 1e-3
"""by which a log-probability, or a sum of probabilities, may exceed its bound"""


class Completion(NamedTuple):
    """A reply that came to its end, was cut, or was refused."""

    reply: JudgeReply
    """its finish_reason is "length" where it was cut and "content_filter" where it was refused"""
    first_token: tuple[tuple[str, float], ...] | None
    """(token, log-probability) of the candidates for the first token; None where the server does not state them"""


class ErrorFields(NamedTuple):
    """What an error's body says."""

    message: str
    code: str | None
    retry_after: float | None
    """seconds"""


def read_completion(content: bytes, latency: float, request_id: str | None = None) -> Completion:
    """The reply in a body that came with status 200.

    Raises:
        TransientFailure: the body is no completion, or says that it broke off.
    """
    body = _fields(_loads(content))
    choices = body.get("choices")
    choice = _fields(choices[0]) if isinstance(choices, list) and choices else {}
    usage = read_usage(body.get("usage"))
    finish, message = _word(choice.get("finish_reason")), choice.get("message")
    error = choice.get("error") or body.get("error")
    if error or finish in BROKEN_OFF:
        words = _error_fields(error).message if error else f"finish_reason is {finish!r}"
        raise TransientFailure(f"the reply broke off: {words}", usage=usage)
    text = _text(message.get("content")) if isinstance(message, dict) else None
    refusal = _refusal(_fields(message))
    if text is None and refusal is None and finish not in REFUSED:
        seen = shorten(content[:4000].decode(errors="replace")) or "an empty body"
        raise TransientFailure(f"no chat completion but {seen!r}", usage=usage)
    refused = refusal is not None or finish in REFUSED
    model = body.get("model")
    reply = JudgeReply(
        text=replace_surrogates(refusal or text or ""),
        finish_reason="content_filter" if refused else "length" if finish in TRUNCATED else finish or "stop",
        usage=usage,
        latency_s=latency,
        request_id=request_id,
        served_model=shorten(replace_surrogates(model)) if isinstance(model, str) else None,
    )
    return Completion(reply, _first_token(choice))


def check_complete(reply: JudgeReply) -> JudgeReply:
    """The reply, unless it was refused or cut.

    Raises:
        JudgeRefused, JudgeTruncated: it was.
    """
    if check_not_refused(reply).finish_reason == "length":
        raise JudgeTruncated(f"the reply ended at the limit of tokens, after {reply.usage.output or 'some'}", reply)
    return reply


def check_not_refused(reply: JudgeReply) -> JudgeReply:
    """The reply, unless it was refused.

    Raises:
        JudgeRefused: it was.
    """
    if reply.finish_reason == "content_filter":
        raise JudgeRefused(f"the judge declined: {shorten(reply.text) or 'content filter'}", reply)
    return reply


def read_usage(usage: Any) -> Usage:
    """Token counts as OpenAI names them; Usage() unless those of the prompt and of the completion are both counts."""
    fields = _fields(usage)
    prompt, completion = _count(fields.get("prompt_tokens")), _count(fields.get("completion_tokens"))
    if prompt is None or completion is None:
        return Usage()
    output, input = (_fields(fields.get(f"{name}_tokens_details")) for name in ("completion", "prompt"))
    return Usage(
        input=prompt,
        output=completion,
        reasoning=_count(output.get("reasoning_tokens")) or 0,
        cached_input=_count(input.get("cached_tokens")) or 0,
    )


def read_error(content: str) -> ErrorFields:
    """Message and code of an error's body, in any of the shapes in use; the text itself where it has none of them."""
    body = _loads(content)
    if body is None:
        return ErrorFields(replace_surrogates(content.strip()) or "an empty body", None, None)
    if isinstance(body, list) and body:
        body = body[0]  # Google wraps an error in a list
    return _error_fields(body.get("error", body) if isinstance(body, dict) else body)


def _error_fields(error: Any) -> ErrorFields:
    if not isinstance(error, dict):
        return ErrorFields(_words(error) or "an empty error", None, None)
    message = error.get("message") or error.get("detail") or error
    code = error.get("code") or error.get("type") or ""
    return ErrorFields(_words(message), _words(code), _retry_delay(error))


def _retry_delay(error: Mapping[str, Any]) -> float | None:
    """Google's RetryInfo, for example {"retryDelay": "17s"}, in seconds."""
    details = error.get("details")
    for detail in details if isinstance(details, list) else ():
        delay = _fields(detail).get("retryDelay")
        if isinstance(delay, str) and re.fullmatch(r"\d+(\.\d+)?s", delay):
            return float(delay[:-1])
    return None


def _loads(content: bytes | str) -> Any:
    """The value of a JSON text; None where it is none, or is nested too deeply."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def _fields(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _word(value: Any) -> str:
    return replace_surrogates(value[:WORD_CHARACTERS]).lower() if isinstance(value, str) else ""


def _words(value: Any) -> str:
    """A text as it is, another value as JSON."""
    try:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    except RecursionError:
        text = "a deeply nested value"
    return replace_surrogates(text)


def _text(content: Any) -> str | None:
    """The text of a message's content, which is a text, null, or a list of parts; None where it is something else.

    Parts with the model's reasoning are left out.
    """
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        return None
    texts = []
    for part in content:
        text = part if isinstance(part, str) else _fields(part).get("text")
        if isinstance(text, str):
            texts.append(text)
        elif _fields(part).get("type") not in ("thinking", "reasoning", "refusal"):
            return None
    return "".join(texts)


def _refusal(message: Mapping[str, Any]) -> str | None:
    """The words of a refusal, "" where it has none; None where nothing is refused."""
    parts = message.get("content")
    found = [_fields(part).get("refusal") for part in parts] if isinstance(parts, list) else []
    for refusal in (message.get("refusal"), *found):
        if isinstance(refusal, dict) and refusal:
            return _words(refusal.get("message") or refusal.get("reason") or refusal)
        if refusal:
            return "" if refusal is True else _words(refusal)
    return None


def _count(value: Any) -> int | None:
    """A count of tokens: a whole number from 0 to MOST_TOKENS; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MOST_TOKENS:
        return None
    return int(value) if value == int(value) else None


def _first_token(choice: Mapping[str, Any]) -> tuple[tuple[str, float], ...] | None:
    """The candidates for the first token; None unless all of them are a text with a log-probability."""
    content = _fields(choice.get("logprobs")).get("content")
    first = _fields(content[0]) if isinstance(content, list) and content else {}
    top = first.get("top_logprobs")
    if not isinstance(top, list) or not top:
        return None
    candidates = []
    for item in map(_fields, top):
        token, logprob = item.get("token"), item.get("logprob")
        if not isinstance(token, str) or isinstance(logprob, bool) or not isinstance(logprob, int | float):
            return None
        if not -math.inf <= logprob <= ROUNDING:  # false for NaN too
            return None
        candidates.append((token, float(max(logprob, -1e9))))
    return tuple(candidates) if sum(math.exp(logprob) for _, logprob in candidates) <= 1 + ROUNDING else None
