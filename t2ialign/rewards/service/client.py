"""`http`: a reward behind `POST /score`, whoever serves it."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from itertools import cycle
from typing import Any
from urllib.parse import urlsplit

from pydantic import Field

from t2ialign.errors import EnvironmentProblem, InputError
from t2ialign.rewards.addresses import Addresses
from t2ialign.rewards.background import wait_for
from t2ialign.rewards.base import REWARDS_BY_KIND, Reward, RewardConfig
from t2ialign.rewards.fingerprint import fingerprint as fingerprint_of
from t2ialign.rewards.service.protocol import REWARDS, SCORE, encoded
from unigenbench.judges.text import shorten

logger = logging.getLogger(__name__)
AWAY = (408, 425, 429, 502, 503, 504)
"""Statuses that pass: the server is busy, or something before it has no answer from it."""
HOW = {"timeout_seconds", "tries", "wait_seconds"}


class _Away(Exception):
    """No answer, or a status of AWAY."""


class HttpReward(RewardConfig):
    """A reward of `t2ialign reward serve`, or of any server with the same `POST /score`; see docs/reward-service.md."""

    url: Addresses
    """Address of the server, or of several that serve the same and are asked in turn."""
    reward: str | None = None
    """Which of the server's rewards; default: its only one."""
    timeout_seconds: float = Field(120.0, gt=0)
    """Of a call."""
    tries: int = Field(4, ge=1)
    """Of a call, before the server counts as away."""
    wait_seconds: float = Field(1.0, gt=0)
    """Before the second try; each further one waits twice as long."""

    def fingerprint(self) -> str:
        """Changes with the address, the reward's name there and its kind; what the server does is its own."""
        asked = {key: value for key, value in self.options().items() if key not in HOW}
        return fingerprint_of(self.name, type(self), asked | {"kind": self.kind})

    def check(self) -> None:
        """Asks what is served; a server that is away now may be back when it is needed.

        Raises:
            InputError: no such reward, or one of another kind.
        """
        for url in self.url:
            try:
                self._check_listed(url, wait_for(self._send(url, REWARDS, None)))
            except _Away as error:
                logger.warning("reward '%s': no answer: %s", self.name, error)

    def load(self) -> Reward:
        ask = _Client(self)

        def pointwise(images: Any, prompts: Any) -> Awaitable[Any]:
            return ask(images=[*map(encoded, images)], prompts=list(prompts))

        def pairwise(images_a: Any, images_b: Any, prompts: Any) -> Awaitable[Any]:
            return ask(images_a=[*map(encoded, images_a)], images_b=[*map(encoded, images_b)], prompts=list(prompts))

        def groupwise(images: Any, prompt: Any) -> Awaitable[Any]:
            return ask(images=[*map(encoded, images)], prompt=prompt)

        functions: dict[str, Callable[..., Any]] = {
            "pointwise": pointwise,
            "pairwise": pairwise,
            "groupwise": groupwise,
        }
        return REWARDS_BY_KIND[self.kind](
            self.name,
            functions[self.kind],
            fingerprint=self.fingerprint(),
            weight=self.weight,
            batch_size=self.batch_size,
        )

    def _check_listed(self, url: str, listed: Any) -> None:
        rows = listed.get("rewards") if isinstance(listed, dict) else None
        kinds = {row["name"]: row.get("kind") for row in rows or () if isinstance(row, dict) and "name" in row}
        name = self.reward or next(iter(kinds), None)
        if name not in kinds or (self.reward is None and len(kinds) > 1):
            raise InputError(f"reward '{self.name}': {url} serves {', '.join(kinds) or 'none'}; name one by reward=")
        if kinds[name] != self.kind:
            raise InputError(
                f"reward '{self.name}': {url} serves {name}, which is {kinds[name]}; give kind={kinds[name]}"
            )

    async def _send(self, url: str, path: str, body: Mapping[str, Any] | None) -> Any:
        """The JSON value of an answer with status 200, or None for a reward that failed there.

        Raises:
            _Away: no answer, or a status that passes.
            InputError: the server refuses the request, or answers something else than JSON.
        """
        import openai

        # as unigenbench's client: no proxy before this machine's own servers, no redirect
        local = urlsplit(url).hostname in ("127.0.0.1", "localhost", "::1")
        address = url.rstrip("/") + path
        async with openai.DefaultAsyncHttpxClient(
            trust_env=not local, follow_redirects=False, timeout=self.timeout_seconds
        ) as client:
            call = client.get(address) if body is None else client.post(address, json=body)
            try:
                response = await asyncio.wait_for(call, self.timeout_seconds)
            except asyncio.TimeoutError:
                raise _Away(f"{address}: no answer within {self.timeout_seconds:g} s") from None
            except Exception as error:  # of httpx, which is openai's dependency and not ours
                raise _Away(f"{address}: {type(error).__name__}: {error}") from None
        return self._read(address, response.status_code, response.content)

    def _read(self, address: str, status: int, content: bytes) -> Any:
        try:
            body = json.loads(content)
        except (ValueError, RecursionError):
            body = None
        error = body.get("error") if isinstance(body, dict) else None
        words = shorten(error if isinstance(error, str) else content[:4000].decode(errors="replace"))
        said = f"{address}: HTTP {status}: {words or 'an empty body'}"
        if status in AWAY:
            raise _Away(said)
        if status >= 500:
            logger.warning("reward '%s': %s", self.name, said)
            return None
        if status != 200 or body is None:
            raise InputError(f"reward '{self.name}': {said}")
        return body


class _Client:
    """Asks the addresses in turn, again while they are away."""

    def __init__(self, config: HttpReward):
        self._config = config
        self._turns = cycle(config.url)

    async def __call__(self, **arguments: Any) -> list[Any]:
        """The scores; None for each item of a call that failed on the server.

        Raises:
            EnvironmentProblem: no address answers within all tries.
            InputError: the server refuses the request, or its answer holds no scores.
        """
        config = self._config
        named = {} if config.reward is None else {"reward": config.reward}
        last = ""
        for attempt in range(config.tries):
            if attempt:
                await asyncio.sleep(min(config.wait_seconds * 2 ** (attempt - 1), 30))
            try:
                answer = await config._send(next(self._turns), SCORE, {**named, **arguments})
            except _Away as error:
                last = str(error)
                continue
            return self._scores(answer, len(arguments.get("images", arguments.get("images_a", ()))))
        raise EnvironmentProblem(f"reward '{config.name}': no server answers: {last}; is it up?")

    def _scores(self, answer: Any, count: int) -> list[Any]:
        if answer is None:
            return [None] * count
        scores = answer.get("scores") if isinstance(answer, dict) else None
        if not isinstance(scores, list):
            raise InputError(f"reward '{self._config.name}': no scores but {shorten(json.dumps(answer), 80)}")
        if isinstance(answer.get("message"), str):
            logger.warning("reward '%s': %s", self._config.name, shorten(answer["message"]))
        return scores
