"""What an HTTP status other than 200 means to a judge."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from unigenbench.judges.base import FatalFailure, JudgeError, JudgeRefused, TransientFailure
from unigenbench.judges.chat_completion import read_error
from unigenbench.judges.keys import public_url
from unigenbench.judges.retry import classify, retry_after_seconds
from unigenbench.judges.text import shorten

FILTER_CODES = {"content_filter", "content_policy_violation", "moderation_blocked", "data_inspection_failed"}
"""`error.code` of servers that filter by failing the request (Azure, OpenAI, DashScope)."""
QUOTA_CODES = {"insufficient_quota", "billing_not_active", "billing_hard_limit_reached"}
"""429s that no waiting ends."""


class RequestRejected(FatalFailure):
    """HTTP 400 or 422: the server does not take the request as it is."""


class NotFound(FatalFailure):
    """HTTP 404."""


class QuotaSpent(FatalFailure):
    """The account may ask no more."""


def status_failure(
    server: str, status: int, headers: Mapping[str, str], content: bytes, redact: Callable[[str], str]
) -> JudgeError:
    """The failure that a status stands for, with the server's own text.

    Args:
        server: how the message names it.
        headers: case-insensitive, or in lower case.
        redact: takes secrets out of a text.
    """
    fields = read_error(content.decode(errors="replace"))
    message = shorten(redact(f"{server}: HTTP {status}: {fields.message}"))
    if 300 <= status < 400:
        target = headers.get("location")
        where = f"points to {shorten(redact(public_url(target)))}" if target else "points elsewhere"
        return FatalFailure(f"{message}; the server {where}; is --base-url right?")
    if fields.code in FILTER_CODES:
        return JudgeRefused(message)
    if fields.code in QUOTA_CODES:
        return QuotaSpent(message)
    fault = classify(status)
    if fault != "fatal":
        wait = retry_after_seconds(headers)
        wait = fields.retry_after if wait is None else wait
        return TransientFailure(message, retry_after=wait, rate_limited=fault == "rate")
    if status in (400, 422):
        return RequestRejected(message)
    return NotFound(message) if status == 404 else FatalFailure(message)
