"""What a judge is, how one is named, and how it says that it could not judge."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Literal, NamedTuple, Protocol

from unigenbench.errors import InputError
from unigenbench.types import JudgeReply, JudgeRequest, Usage


class JudgeError(Exception):
    """One call gave no answer. It is recorded as such and never becomes a number."""

    def __init__(self, message: str, *, usage: Usage | None = None, requests: int = 1):
        """`usage` and `requests` are what the call took all the same, where that is known."""
        super().__init__(message)
        self.usage = usage or Usage()
        self.requests = requests


class JudgeRefused(JudgeError):
    """The judge declined, or a content filter did; asking again would not help."""

    def __init__(self, message: str, reply: JudgeReply | None = None):
        self.reply = reply or JudgeReply(finish_reason="content_filter")
        super().__init__(message, usage=self.reply.usage, requests=self.reply.requests)


class JudgeTruncated(JudgeError):
    """The reply ended at the limit of tokens; `reply` holds what there is of it."""

    def __init__(self, message: str, reply: JudgeReply):
        super().__init__(message, usage=reply.usage, requests=reply.requests)
        self.reply = reply


class TransientFailure(JudgeError):
    """A fault that may pass: try again, not before `retry_after` seconds where the server gave a number."""

    def __init__(
        self,
        message: str,
        *,
        retry_after: float | None = None,
        rate_limited: bool = False,
        usage: Usage | None = None,
        requests: int = 1,
    ):
        super().__init__(message, usage=usage, requests=requests)
        self.retry_after = retry_after
        self.rate_limited = rate_limited


class FatalFailure(JudgeError):
    """A fault that the same request would meet again, such as a wrong model name; the message has the server's text."""


class Probe(NamedTuple):
    """What a judge found out about itself before the first image."""

    served_model: str | None = None
    """the name that the server answers with"""
    dropped: tuple[str, ...] = ()
    """fields that the server refuses and that are no longer sent, for example "seed\""""
    notes: tuple[str, ...] = ()
    """what a user should know, one sentence each"""


class Judge(Protocol):
    """Anything that looks at an image and answers for each test point.

    Calls run at the same time, as many as the run's concurrency; a judge that works in batches gathers them itself.
    """

    spec: dict[str, Any]
    """JSON values: all that changes its answers (kind, model, temperature, ...), and nothing that does not (endpoint,
    key, time limits)"""
    id: str
    """`judge_id(spec)`"""

    async def probe(self) -> Probe:
        """Makes sure that it can judge: one tiny image at most. Raises JudgeError if not."""
        ...

    async def judge(self, request: JudgeRequest) -> JudgeReply:
        """Answers once. Raises JudgeError, each kind for what it says."""
        ...

    async def aclose(self) -> None:
        """Frees connections or memory."""
        ...


@dataclass(frozen=True)
class JudgeOptions:
    """Options of a judge; each kind of judge reads those that concern it."""

    base_url: str | None = None
    """with or without /v1; None is the service's own"""
    api_key: str | None = field(default=None, repr=False)
    temperature: float | None = 0.0
    """None sends none, so that the server's own default rules, as in the official script"""
    top_p: float | None = None
    reply: Literal["tags", "json", "logits"] = "tags"
    """"json" asks the server for a JSON object; "logits" asks for one digit per test point and reads its probability"""
    timeout_seconds: float = 300.0
    """of one attempt, from connecting to the last byte"""
    connect_seconds: float = 10.0
    concurrency: int = 16
    """how many calls the run makes at once"""
    device: str | None = None
    """in-process models: "cpu", "cuda", ...; None chooses"""
    dtype: str | None = None
    batch_size: int = 8
    extra: dict[str, Any] = field(default_factory=dict)
    """further fields of the request's body"""


Opener = Callable[[str, JudgeOptions], Judge]

OPENERS = {
    "openai": "unigenbench.judges.openai_compatible:open_openai",
    "gemini": "unigenbench.judges.openai_compatible:open_gemini",
    "hf": "unigenbench.judges.hf_local:open_hf",
    "replay": "unigenbench.judges.replay:open_replay",
}
"""Scheme -> function (rest of the name, options) -> Judge."""
IMPORTED = "unigenbench.judges.imported:open_imported"
SHAPES = "t2ialign.shapes.judge:ShapesJudge"
"""The verifier of the Shapes world, by its name only: this package imports nothing of the other."""


def judge_id(spec: dict[str, Any]) -> str:
    """First 12 hex digits of SHA-256 over canonical JSON: two machines that serve one checkpoint give one id."""
    canonical = json.dumps(spec, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def open_judge(name: str, options: JudgeOptions | None = None) -> Judge:
    """The judge of a name: openai:MODEL, gemini:MODEL, hf:PATH, replay:RUN, shapes, or package.module:Class.

    Raises:
        InputError: the name is none of these.
    """
    options = options or JudgeOptions()
    scheme, colon, rest = name.partition(":")
    if name == "shapes":
        return _opener(IMPORTED)(SHAPES, options)
    if not colon or not scheme or not rest:
        known = ", ".join(f"{scheme}:…" for scheme in OPENERS)
        raise InputError(f"judge {name!r}: unknown; known are {known}, shapes, or package.module:Class")
    if scheme in OPENERS:
        return _opener(OPENERS[scheme])(rest, options)
    return _opener(IMPORTED)(name, options)


def _opener(path: str) -> Opener:
    module, _, attribute = path.partition(":")
    return getattr(import_module(module), attribute)
