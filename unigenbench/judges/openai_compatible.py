"""Judges behind an OpenAI-compatible server: vLLM, `transformers serve`, llama.cpp, Gemini's endpoint, OpenAI."""

from __future__ import annotations

import asyncio
import base64
import json
import math
import os
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from importlib.metadata import version
from io import BytesIO
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

from PIL import Image

from unigenbench.errors import InputError
from unigenbench.judges.base import (
    FatalFailure,
    JudgeError,
    JudgeOptions,
    JudgeRefused,
    JudgeTruncated,
    Probe,
    TransientFailure,
    judge_id,
)
from unigenbench.judges.keys import VARIABLES, public_url, redact, url_secrets
from unigenbench.judges.retry import classify, retry_after_seconds
from unigenbench.types import JudgeReply, JudgeRequest, Usage

if TYPE_CHECKING:
    import openai

ENDPOINTS = {
    "openai": "https://api.openai.com/v1",
    "gemini": "https://generativelanguage.googleapis.com/v1beta/openai",
}
RETRY_TEMPERATURE = 0.5
"""of parse retries: at temperature 0 another seed gives the same unreadable answer again"""
PROBE_TEXT = "Is there anything in this picture? Answer with one digit: 1 for yes, 0 for no."
PROBE_TOKENS = 256
DROPPABLE = ("seed", "response_format", "temperature", "top_p")
"""Fields without which a judge still judges; one that a server names in a 400 or 422 is not sent again."""
FILTER_CODES = {"content_filter", "content_policy_violation", "moderation_blocked", "data_inspection_failed"}
"""`error.code` of servers that filter by failing the request (Azure, OpenAI, DashScope)."""
QUOTA_CODES = {"insufficient_quota", "billing_not_active", "billing_hard_limit_reached"}
"""429s that no waiting ends."""
JSON_INSTRUCTION = (
    "Instead of those lines, answer with one JSON object and nothing else: "
    '{"checks": [{"id": 1, "evidence": "…", "pass": true}, …]}, one entry for each check, ids from 1 in order.'
)
LOGIT_INSTRUCTION = "Now decide check {k} alone. Answer with a single digit, 1 or 0, and nothing else."
YES, NO = {"1", "yes", "true", "是"}, {"0", "no", "false", "否"}
RESPONSE_FORMAT = {
    "type": "json_schema",
    "json_schema": {
        "name": "checks",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {
                "checks": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "properties": {
                            "id": {"type": "integer"},
                            "evidence": {"type": "string"},
                            "pass": {"type": "boolean"},
                        },
                        "required": ["id", "evidence", "pass"],
                        "additionalProperties": False,
                    },
                }
            },
            "required": ["checks"],
            "additionalProperties": False,
        },
    },
}


def open_openai(model: str, options: JudgeOptions) -> OpenAICompatible:
    """A model on any OpenAI-compatible server; without a base URL, OPENAI_BASE_URL or OpenAI's own."""
    url = options.base_url or os.environ.get("OPENAI_BASE_URL") or ENDPOINTS["openai"]
    return OpenAICompatible("openai", model, url, options)


def open_gemini(model: str, options: JudgeOptions) -> OpenAICompatible:
    """A model of Google's, through its OpenAI-compatible endpoint."""
    return OpenAICompatible("gemini", model, options.base_url or ENDPOINTS["gemini"], options)


class OpenAICompatible:
    """One chat completion per judgement; with reply="logits", one per test point, one after another."""

    def __init__(self, kind: str, model: str, url: str, options: JudgeOptions):
        """Checks the address and the key; nothing is sent yet.

        Raises:
            InputError: the address is no http address, or a service that needs a key has none.
        """
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
            raise InputError(f"--base-url {url!r}: no http(s) address; write for example http://127.0.0.1:8000")
        if options.api_key is None and url == ENDPOINTS.get(kind):
            raise InputError(
                f"judge {kind}:{model}: {url} needs a key; set {' or '.join(VARIABLES[kind])}, or give --api-key-file"
            )
        self.model = model
        self.url = complete_url(url)
        self.spec: dict[str, Any] = {
            "kind": kind,
            "model": model,
            "temperature": options.temperature,
            "top_p": options.top_p,
            "retry_temperature": RETRY_TEMPERATURE,
            "reply": options.reply,
            "extra": options.extra,
        }
        self.id = judge_id(self.spec)
        self.dropped: set[str] = set()
        self._limit_field = "max_tokens"
        self._asked_url = url
        self._options = options
        self._secrets = [options.api_key, *url_secrets(url)]
        self._client: openai.AsyncOpenAI | None = None

    async def probe(self) -> Probe:
        """One tiny image, sent as every other; finds what the server refuses to be told, and what it calls the model.

        Raises:
            JudgeError: the server cannot judge as asked.
        """
        try:
            reply = await self._probe_once()
        except FatalFailure as error:
            other = _other_url(self._asked_url, self.url)
            if not isinstance(error, _NotFound) or self.model in str(error) or other is None:
                raise
            first, self.url = self.url, other
            await self.aclose()
            try:
                reply = await self._probe_once()
            except FatalFailure:
                self.url = first
                raise error from None
        notes = []
        if not reply.usage.input:
            notes.append("The server does not count tokens, so that costs are estimates.")
        if self.dropped:
            notes.append(f"The server refuses {', '.join(sorted(self.dropped))}: judgements may vary between runs.")
        return Probe(reply.served_model, tuple(sorted(self.dropped)), tuple(notes))

    async def judge(self, request: JudgeRequest) -> JudgeReply:
        """Answers once.

        Raises:
            JudgeRefused, JudgeTruncated, TransientFailure, FatalFailure: as their names say.
        """
        if self._options.reply == "logits":
            return await self._judge_by_logits(request)
        text = request.text
        body: dict[str, Any] = {}
        if self._options.reply == "json":
            text = f"{text}\n\n{JSON_INSTRUCTION}"
            body["response_format"] = RESPONSE_FORMAT
        return _checked((await self._ask(self._body(request, text, request.max_tokens) | body)).reply)

    async def aclose(self) -> None:
        """Closes the connections."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def _probe_once(self) -> JudgeReply:
        logits = self._options.reply == "logits"
        request = _probe_request()
        body = self._body(request, PROBE_TEXT, 1 if logits else PROBE_TOKENS)
        if logits:
            body |= {"logprobs": True, "top_logprobs": 20}
        elif self._options.reply == "json":
            body["response_format"] = RESPONSE_FORMAT
        answer = await self._ask(body)
        if logits and answer.first_token is None:
            raise FatalFailure(f"{self._shown} gives no logprobs; use --reply tags")
        return answer.reply

    async def _judge_by_logits(self, request: JudgeRequest) -> JudgeReply:
        """P(1) against P(0) of the first token, a call for each test point; the image and the long text come first in
        each of them, so that a server with a prefix cache reads them once."""
        body = {"logprobs": True, "top_logprobs": 20}
        replies: list[JudgeReply] = []
        probabilities: list[float | None] = []
        for k in range(1, len(request.prompt.points) + 1):
            text = f"{request.text}\n\n{LOGIT_INSTRUCTION.replace('{k}', str(k))}"
            answer = await self._ask(self._body(request, text, 1) | body)
            replies.append(_not_refused(answer.reply))
            probabilities.append(yes_probability(answer.first_token or ()))
        whole = replace(
            replies[-1],
            text=" ".join(reply.text for reply in replies),
            finish_reason="stop",
            usage=sum((reply.usage for reply in replies), Usage()),
            latency_s=sum(reply.latency_s for reply in replies),
            requests=len(replies),
        )
        readable = tuple(p for p in probabilities if p is not None)
        if len(readable) < len(probabilities):
            return whole  # a reply without verdicts: its text is no answer either, so that it counts as unreadable
        return replace(whole, probabilities=readable, verdicts=tuple(int(p >= 0.5) for p in readable))

    def _body(self, request: JudgeRequest, text: str, max_tokens: int) -> dict[str, Any]:
        data = base64.b64encode(request.image_bytes).decode()
        image = {"type": "image_url", "image_url": {"url": f"data:{request.media_type};base64,{data}"}}
        words = {"type": "text", "text": text}
        content = [image, words] if request.image_first else [words, image]
        body: dict[str, Any] = {"model": self.model, "messages": [{"role": "user", "content": content}]}
        body["max_tokens"] = max_tokens
        if self._options.temperature is not None:
            retry = RETRY_TEMPERATURE if request.attempt else 0.0
            body["temperature"] = max(self._options.temperature, retry)
        if self._options.top_p is not None:
            body["top_p"] = self._options.top_p
        if request.seed is not None and self._options.temperature is not None:
            body["seed"] = request.seed
        return body

    async def _ask(self, body: dict[str, Any]) -> _Answer:
        """Sends a body, without what the server has refused; learns what it refuses from a 400 or 422, once a field."""
        while True:
            limit = self._limit_field
            sent = {limit if name == "max_tokens" else name: v for name, v in body.items() if name not in self.dropped}
            try:
                return await self._send(sent)
            except _Rejected as error:
                if not self._learn(str(error), sent):
                    raise

    def _learn(self, message: str, sent: Mapping[str, Any]) -> bool:
        """Whether the server named a field that was sent and need not be."""
        if "max_tokens" in sent and "max_completion_tokens" in message:
            self._limit_field = "max_completion_tokens"
            return True
        named = [field for field in DROPPABLE if field in sent and re.search(rf"\b{field}\b", message)]
        self.dropped.update(named)
        return bool(named)

    async def _send(self, body: dict[str, Any]) -> _Answer:
        """One HTTP request within the time limit."""
        import openai

        client = self._connect()
        started = time.monotonic()
        # Not client.chat.completions.create: checking the types of a body that is known to be right takes as long as
        # sending it.
        whole = body | self._options.extra
        call = client.post("/chat/completions", cast_to=openai.HttpxBinaryResponseContent, body=whole)
        try:
            response = await asyncio.wait_for(call, self._options.timeout_seconds)
        except openai.APIStatusError as error:
            failure = self._status_failure(error)
        except (asyncio.TimeoutError, openai.APITimeoutError):
            failure = TransientFailure(f"{self._shown}: no answer within {self._options.timeout_seconds:g} s")
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            failure = TransientFailure(self._clean(f"{self._shown}: {type(cause).__name__}: {cause}"))
        else:
            return self._read(response.response.headers, response.content, time.monotonic() - started)
        raise failure  # out here, so that the client's own exception, which may quote a key, is not carried along

    def _connect(self) -> openai.AsyncOpenAI:
        """The client, made when first needed. Its own retries are off: the run decides about them."""
        import openai

        if self._client is None:
            # No proxy reaches this machine's own loopback, whatever the environment says.
            local = urlsplit(self.url).hostname in ("127.0.0.1", "localhost", "::1")
            http = openai.DefaultAsyncHttpxClient(trust_env=False) if local else None
            self._client = openai.AsyncOpenAI(
                api_key=self._options.api_key or "none",
                base_url=self.url,
                max_retries=0,
                timeout=openai.Timeout(self._options.timeout_seconds, connect=self._options.connect_seconds),
                default_query=dict(parse_qsl(urlsplit(self._asked_url).query)),
                default_headers={"User-Agent": f"unigenbench/{version('t2ialign')}"},
                http_client=http,
            )
        return self._client

    def _status_failure(self, error: openai.APIStatusError) -> JudgeError:
        """What an HTTP error means, with the server's own text."""
        status, response = error.status_code, error.response
        fields = _error_fields(response.text)
        message = self._clean(f"{self._shown}: HTTP {status}: {fields.message}")
        if fields.code in FILTER_CODES:
            return JudgeRefused(message)
        wait = retry_after_seconds(response.headers) or fields.retry_after
        fault = "fatal" if fields.code in QUOTA_CODES else classify(status)
        if fault != "fatal":
            return TransientFailure(message, retry_after=wait, rate_limited=fault == "rate")
        if status in (400, 422):
            return _Rejected(message)
        return _NotFound(message) if status == 404 else FatalFailure(message)

    def _read(self, headers: Mapping[str, str], content: bytes, latency: float) -> _Answer:
        """A reply from a body with status 200."""
        try:
            body = json.loads(content)
            choice = body["choices"][0]
            message = choice["message"]
            usage = body.get("usage") or {}
        except (ValueError, KeyError, IndexError, TypeError):
            seen = _error_fields(content.decode(errors="replace")).message
            raise TransientFailure(self._clean(f"{self._shown}: no chat completion but {seen!r}")) from None
        text = message.get("content") or ""
        refusal = message.get("refusal")
        reply = JudgeReply(
            text=self._redact(refusal or text),
            finish_reason="content_filter" if refusal else choice.get("finish_reason") or "stop",
            usage=_usage(usage),
            latency_s=latency,
            request_id=headers.get("x-request-id"),
            served_model=body.get("model"),
        )
        return _Answer(reply, _first_token(choice))

    @property
    def _shown(self) -> str:
        return public_url(self.url)

    def _clean(self, text: str) -> str:
        """One line, not long, without secrets."""
        return shorten(self._redact(text))

    def _redact(self, text: str) -> str:
        return redact(text, self._secrets)


class _Rejected(FatalFailure):
    """HTTP 400 or 422."""


class _NotFound(FatalFailure):
    """HTTP 404."""


class _Answer(NamedTuple):
    reply: JudgeReply
    first_token: tuple[tuple[str, float], ...] | None
    """(token, log-probability) of the candidates for the first token, where the server gives them"""


class _ErrorFields(NamedTuple):
    message: str
    code: str | None
    retry_after: float | None


def complete_url(url: str) -> str:
    """The address below which /chat/completions lies, without query: /v1 is added to a bare host, a full one is cut.

    >>> complete_url("http://127.0.0.1:8000")
    'http://127.0.0.1:8000/v1'
    >>> complete_url("http://host/v1/chat/completions")
    'http://host/v1'
    """
    parts = urlsplit(url)
    path = parts.path.rstrip("/").removesuffix("/chat/completions").rstrip("/")
    return parts._replace(path=path or "/v1", query="", fragment="").geturl()


def _other_url(asked: str, used: str) -> str | None:
    """With /v1 where it was without, and the other way round; None for a service whose address is known."""
    if asked in ENDPOINTS.values():
        return None
    parts = urlsplit(used)
    path = parts.path.removesuffix("/v1") if parts.path.endswith("/v1") else f"{parts.path}/v1"
    return parts._replace(path=path).geturl()


def yes_probability(candidates: Iterable[tuple[str, float]]) -> float | None:
    """P(yes) / (P(yes) + P(no)) over the candidates for one token; None if neither is among them. In [0, 1]."""
    sums = {True: 0.0, False: 0.0}
    for token, logprob in candidates:
        word = token.strip().strip("\"'").lower()
        if word in YES or word in NO:
            sums[word in YES] += math.exp(logprob)
    total = sums[True] + sums[False]
    return sums[True] / total if total > 0 else None


def shorten(text: str, limit: int = 400) -> str:
    """One line of at most so many characters; the tags of an HTML page are left out."""
    if re.search(r"<html|<!doctype", text, re.IGNORECASE):
        text = re.sub(r"<(script|style).*?</\1>|<[^>]*>", " ", text, flags=re.DOTALL | re.IGNORECASE)
    line = " ".join(text.split())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def _checked(reply: JudgeReply) -> JudgeReply:
    """The reply, if it is a whole one."""
    if _not_refused(reply).finish_reason == "length":
        raise JudgeTruncated(f"the reply ended at the limit of tokens, after {reply.usage.output or 'some'}", reply)
    return reply


def _not_refused(reply: JudgeReply) -> JudgeReply:
    if reply.finish_reason == "content_filter":
        raise JudgeRefused(f"the judge declined: {shorten(reply.text) or 'content filter'}", reply)
    return reply


def _usage(usage: Mapping[str, Any]) -> Usage:
    """Token counts as OpenAI names them; what is absent is 0."""
    output = usage.get("completion_tokens_details") or {}
    input = usage.get("prompt_tokens_details") or {}
    return Usage(
        input=usage.get("prompt_tokens") or 0,
        output=usage.get("completion_tokens") or 0,
        reasoning=output.get("reasoning_tokens") or 0,
        cached_input=input.get("cached_tokens") or 0,
    )


def _first_token(choice: Mapping[str, Any]) -> tuple[tuple[str, float], ...] | None:
    content = (choice.get("logprobs") or {}).get("content")
    if not content:
        return None
    return tuple((item["token"], float(item["logprob"])) for item in content[0]["top_logprobs"])


def _error_fields(text: str) -> _ErrorFields:
    """Message and code of an error body, in any of the shapes in use; the text itself where it has none of them."""
    try:
        body = json.loads(text)
    except ValueError:
        return _ErrorFields(text.strip() or "an empty body", None, None)
    if isinstance(body, list) and body:
        body = body[0]  # Google wraps an error in a list
    error = body.get("error", body) if isinstance(body, dict) else body
    if not isinstance(error, dict):
        return _ErrorFields(str(error), None, None)
    message = error.get("message") or error.get("detail") or error
    words = message if isinstance(message, str) else json.dumps(message, ensure_ascii=False)
    return _ErrorFields(words, str(error.get("code") or error.get("type") or ""), _retry_delay(error))


def _retry_delay(error: Mapping[str, Any]) -> float | None:
    """Google's RetryInfo, for example {"retryDelay": "17s"}, in seconds."""
    details = error.get("details")
    for detail in details if isinstance(details, list) else ():
        delay = detail.get("retryDelay") if isinstance(detail, dict) else None
        if isinstance(delay, str) and re.fullmatch(r"\d+(\.\d+)?s", delay):
            return float(delay[:-1])
    return None


def _probe_request() -> JudgeRequest:
    from pathlib import Path

    from unigenbench.types import ImageFile, Prompt

    buffer = BytesIO()
    Image.new("RGB", (64, 64), (200, 30, 30)).save(buffer, "PNG")
    prompt = Prompt(0, "", "", "", "", "", ())
    image = ImageFile(0, 0, Path("probe.png"), "", 64, 64, "PNG")
    return JudgeRequest("probe", prompt, image, PROBE_TEXT, buffer.getvalue(), "image/png", True, seed=0)
