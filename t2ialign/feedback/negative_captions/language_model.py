"""Negative captions by any language model behind an OpenAI-compatible server."""

from __future__ import annotations

import os
import re
from hashlib import blake2b
from threading import Lock
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from t2ialign.errors import EnvironmentProblem, InputError
from t2ialign.feedback.negative_captions.base import KINDS, Answer, Kind, judged
from unigenbench.judges.base import TransientFailure
from unigenbench.judges.chat_completion import read_completion

if TYPE_CHECKING:
    import openai

INSTRUCTION = """\
Below is a caption that fits a picture. Rewrite it so that it no longer fits, by changing exactly one thing: {what}.
Keep every other word. The change must be visible and must contradict the caption: a synonym, an added detail, or
something that the caption leaves open does not. Answer with the changed caption alone, on one line, without quotes. If
the caption states nothing that could be changed in this way, answer NONE.

Caption: {prompt}"""
NONE = "NONE"
OPENAI = "https://api.openai.com/v1"
KEY = "OPENAI_API_KEY"
SEEDS = 2**31
"""Servers take seeds of 31 bits."""
_THOUGHTS = re.compile(r"<think>.*?</think>", re.DOTALL)


class ModelEditor:
    """Asks a model; transient failures are tried again, and what stays without an answer is `failed`.

    Args:
        model: its name on the server.
        base_url: default: OPENAI_BASE_URL, or OpenAI's own.
        concurrency: requests at once.
        temperature: of sampling.
        max_tokens: of an answer, thoughts included.
        tries: of a request, the waiting between them doubling; a server's own Retry-After is obeyed.
        timeout_seconds: of a request.

    Raises:
        InputError: no http address, or OpenAI's without a key.
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        concurrency: int = 8,
        temperature: float = 0.7,
        max_tokens: int = 1024,
        tries: int = 6,
        timeout_seconds: float = 60.0,
    ):
        self.url = base_url or os.environ.get("OPENAI_BASE_URL") or OPENAI
        if urlsplit(self.url).scheme not in ("http", "https") or not urlsplit(self.url).hostname:
            raise InputError(f"--base-url {self.url!r}: no http(s) address; write for example http://127.0.0.1:8000/v1")
        if self.url == OPENAI and not os.environ.get(KEY):
            raise InputError(f"--by openai:{model}: {OPENAI} needs a key; set {KEY}, or give --base-url")
        self.model = model
        self.concurrency = concurrency
        self.temperature = temperature
        self.max_tokens = max_tokens
        self.tries = tries
        self.timeout_seconds = timeout_seconds
        asked = repr((INSTRUCTION, dict(KINDS), model, temperature))
        self.fingerprint = f"openai {model} {blake2b(asked.encode(), digest_size=8).hexdigest()}"
        self._client: openai.OpenAI | None = None
        self._lock = Lock()

    def __call__(self, prompt: str, kind: Kind, seed: int) -> Answer:
        """
        Raises:
            EnvironmentProblem: the server refuses the key, the model or the request itself: no other will fare better.
        """
        import openai

        try:
            reply = self._connected().chat.completions.with_raw_response.create(
                model=self.model,
                messages=[{"role": "user", "content": INSTRUCTION.format(what=KINDS[kind], prompt=prompt)}],
                temperature=self.temperature,
                max_tokens=self.max_tokens,
                seed=seed % SEEDS,
            )
        except openai.APIStatusError as error:
            if error.status_code in (400, 401, 403, 404, 422) and not _is_filtered(error):
                raise EnvironmentProblem(
                    f"{self.url}: HTTP {error.status_code} for model '{self.model}': {_one_line(error.message)}; "
                    f"look after the address, the model's name and {KEY}"
                ) from None
            return Answer("failed", f"HTTP {error.status_code}: {_one_line(error.message)}")
        except openai.APIError as error:  # no connection, or no answer in time
            return Answer("failed", _one_line(str(error.__cause__ or error)))
        return _read(prompt, reply.content)

    def _connected(self) -> openai.OpenAI:
        import openai

        with self._lock:
            if self._client is None:
                # no proxy reaches this machine's own loopback, whatever the environment says
                local = urlsplit(self.url).hostname in ("127.0.0.1", "localhost", "::1")
                self._client = openai.OpenAI(
                    api_key=os.environ.get(KEY) or "none",
                    base_url=self.url,
                    max_retries=self.tries - 1,
                    timeout=self.timeout_seconds,
                    http_client=openai.DefaultHttpxClient(trust_env=False) if local else None,
                )
            return self._client


def _read(prompt: str, body: bytes) -> Answer:
    """What a completion says, whatever JSON the server sends."""
    try:
        reply = read_completion(body, latency=0.0).reply
    except TransientFailure as failure:
        return Answer("failed", _one_line(str(failure)))
    if reply.finish_reason != "stop":
        return Answer("failed", f"the answer ended by '{reply.finish_reason}'")
    text = _THOUGHTS.sub("", reply.text).strip().removeprefix("Caption:").strip()
    if len(text) >= 2 and text[0] in "\"“'" and text[-1] in "\"”'" and prompt[:1] != text[0]:
        text = text[1:-1].strip()
    if text.rstrip(".").upper() == NONE:
        return Answer("inapplicable", "")
    return judged(prompt, text)


def _is_filtered(error: openai.APIStatusError) -> bool:
    """Whether the request failed for what this one caption says."""
    return error.code in ("content_filter", "content_policy_violation")


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300]
