"""Judges behind an OpenAI-compatible server: vLLM, `transformers serve`, llama.cpp, Gemini's endpoint, OpenAI."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

from PIL import Image

from unigenbench.errors import InputError
from unigenbench.judges.addresses import ENDPOINTS, alternative_url, complete_url, is_http_address
from unigenbench.judges.base import (
    FatalFailure,
    JudgeError,
    JudgeOptions,
    Probe,
    TransientFailure,
    judge_id,
)
from unigenbench.judges.chat_completion import (
    Completion,
    check_complete,
    check_not_refused,
    read_completion,
)
from unigenbench.judges.http_failures import NotFound, RequestRejected, status_failure
from unigenbench.judges.keys import VARIABLES, public_url, redact, url_secrets
from unigenbench.judges.questions import Question, image_part, text_part
from unigenbench.judges.reply_modes import (
    JSON_INSTRUCTION,
    LOGPROBS,
    PROBE_TEXT,
    PROBE_TOKENS,
    RESPONSE_FORMAT,
    RETRY_TEMPERATURE,
    logit_instruction,
    yes_probability,
)
from unigenbench.judges.text import shorten
from unigenbench.types import ImageFile, JudgeReply, JudgeRequest, Prompt, Usage

if TYPE_CHECKING:
    import openai

DROPPABLE = ("seed", "response_format", "temperature", "top_p")
"""Fields without which a judge still judges; one that a server names in a 400 or 422 is not sent again."""


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
        if not is_http_address(url):
            raise InputError(f"--base-url {url!r}: no http(s) address; write for example http://127.0.0.1:8000")
        if options.api_key is None and url == ENDPOINTS.get(kind):
            raise InputError(
                f"judge {kind}:{model}: {url} needs a key; set {' or '.join(VARIABLES[kind])}, or give --api-key-file"
            )
        self.model = model
        self.url = complete_url(url)
        self.server = public_url(self.url).removesuffix("/v1")
        """without secrets, and the same whether /v1 was written or not"""
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
            other = alternative_url(self._asked_url, self.url)
            if not isinstance(error, NotFound) or self.model in str(error) or other is None:
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
        return check_complete((await self._complete(self._body(request, text, request.max_tokens) | body)).reply)

    async def ask(self, question: Question) -> Completion:
        """Answers a question of the caller's own, once.

        Raises:
            JudgeRefused, JudgeTruncated, TransientFailure, FatalFailure: as their names say.
        """
        content = [*(image_part(data) for data in question.images), text_part(question.text)]
        if question.logprobs:
            completion = await self._complete(self._fields(content, 1) | LOGPROBS)
            check_not_refused(completion.reply)
        else:
            completion = await self._complete(self._fields(content, question.max_tokens))
            check_complete(completion.reply)
        return completion

    async def aclose(self) -> None:
        """Closes the connections."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def _probe_once(self) -> JudgeReply:
        logits = self._options.reply == "logits"
        body = self._body(_probe_request(), PROBE_TEXT, 1 if logits else PROBE_TOKENS)
        if logits:
            body |= LOGPROBS
        elif self._options.reply == "json":
            body["response_format"] = RESPONSE_FORMAT
        completion = await self._complete(body)
        if logits and completion.first_token is None:
            raise FatalFailure(f"{self._shown} gives no logprobs; use --reply tags")
        return completion.reply

    async def _judge_by_logits(self, request: JudgeRequest) -> JudgeReply:
        """P(1) against P(0) of the first token, a call for each test point; the image and the long text come first in
        each of them, so that a server with a prefix cache reads them once."""
        replies: list[JudgeReply] = []
        probabilities: list[float | None] = []
        for k in range(1, len(request.prompt.points) + 1):
            text = f"{request.text}\n\n{logit_instruction(k)}"
            try:
                completion = await self._complete(self._body(request, text, 1) | LOGPROBS)
                replies.append(check_not_refused(completion.reply))
            except JudgeError as error:
                error.usage = sum((reply.usage for reply in replies), error.usage)
                error.requests += len(replies)
                raise
            probabilities.append(yes_probability(completion.first_token or ()))
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
        parts = [image_part(request.image_bytes, request.media_type), text_part(text)]
        retry = RETRY_TEMPERATURE if request.attempt else 0.0
        body = self._fields(parts if request.image_first else parts[::-1], max_tokens, retry)
        if request.seed is not None and self._options.temperature is not None:
            body["seed"] = request.seed
        return body

    def _fields(self, content: list[dict[str, Any]], max_tokens: int, least_temperature: float = 0.0) -> dict[str, Any]:
        """Of a request with one message."""
        body: dict[str, Any] = {"model": self.model, "messages": [{"role": "user", "content": content}]}
        body["max_tokens"] = max_tokens
        if self._options.temperature is not None:
            body["temperature"] = max(self._options.temperature, least_temperature)
        if self._options.top_p is not None:
            body["top_p"] = self._options.top_p
        return body

    async def _complete(self, body: dict[str, Any]) -> Completion:
        """Sends a body, without the fields that the server has refused; a 400 or 422 may name further ones."""
        while True:
            limit = self._limit_field
            sent = {limit if name == "max_tokens" else name: v for name, v in body.items() if name not in self.dropped}
            try:
                return await self._send(sent)
            except RequestRejected as error:
                if not self._adapt(str(error), sent):
                    raise

    def _adapt(self, message: str, sent: Mapping[str, Any]) -> bool:
        """Whether the server named a field that was sent and need not be; it is left out from now on."""
        if "max_tokens" in sent and "max_completion_tokens" in message:
            self._limit_field = "max_completion_tokens"
            return True
        named = [field for field in DROPPABLE if field in sent and re.search(rf"\b{field}\b", message)]
        self.dropped.update(named)
        return bool(named)

    async def _send(self, body: dict[str, Any]) -> Completion:
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
            response = error.response
            failure = status_failure(self._shown, error.status_code, response.headers, response.content, self._redact)
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
            # No proxy reaches this machine's own loopback, whatever the environment says. A redirect is not followed:
            # it would turn the request into a GET, and the page that it leads to into the answer.
            local = urlsplit(self.url).hostname in ("127.0.0.1", "localhost", "::1")
            http = openai.DefaultAsyncHttpxClient(trust_env=not local, follow_redirects=False)
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

    def _read(self, headers: Mapping[str, str], content: bytes, latency: float) -> Completion:
        """A completion from a body with status 200, without secrets."""
        try:
            completion = read_completion(content, latency, headers.get("x-request-id"))
        except TransientFailure as failure:
            raise TransientFailure(self._clean(f"{self._shown}: {failure}"), usage=failure.usage) from None
        reply = completion.reply
        model = self._redact(reply.served_model) if reply.served_model is not None else None
        return completion._replace(reply=replace(reply, text=self._redact(reply.text), served_model=model))

    @property
    def _shown(self) -> str:
        return public_url(self.url)

    def _clean(self, text: str) -> str:
        """One line, not long, without secrets."""
        return shorten(self._redact(text))

    def _redact(self, text: str) -> str:
        return redact(text, self._secrets)


def _probe_request() -> JudgeRequest:
    buffer = BytesIO()
    Image.new("RGB", (64, 64), (200, 30, 30)).save(buffer, "PNG")
    prompt = Prompt(0, "", "", "", "", "", ())
    image = ImageFile(0, 0, Path("probe.png"), "", 64, 64, "PNG")
    return JudgeRequest("probe", prompt, image, PROBE_TEXT, buffer.getvalue(), "image/png", True, seed=0)
