"""`vlm.prefers` and `vlm.scores`: the judgement of a vision-language model, on an OpenAI-compatible server or here."""

from __future__ import annotations

import logging
import os
from abc import abstractmethod
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from pydantic import Field, field_validator

from t2ialign.errors import EnvironmentProblem, InputError
from t2ialign.rewards.addresses import Addresses
from t2ialign.rewards.background import wait_for
from t2ialign.rewards.base import PairwiseReward, PointwiseReward, RewardConfig, Score
from t2ialign.rewards.checks import Kind
from t2ialign.rewards.fingerprint import fingerprint as fingerprint_of
from t2ialign.rewards.vlm.client import Files, JudgeClient, png
from t2ialign.rewards.vlm.formats import PAIR_FORMATS, SCORE_FORMATS, Format, PairFormat, ScoreFormat
from t2ialign.storage.resources import find_shipped
from unigenbench.errors import BenchError
from unigenbench.judges.addresses import ENDPOINTS
from unigenbench.judges.base import JudgeOptions
from unigenbench.judges.hf_local import HFLocal, open_hf
from unigenbench.judges.keys import VARIABLES, read_key
from unigenbench.judges.openai_compatible import OpenAICompatible
from unigenbench.judges.pool import JudgePool
from unigenbench.judges.questions import Question
from unigenbench.judges.retry import RetryPolicy
from unigenbench.judges.text import replace_surrogates

logger = logging.getLogger(__name__)
NOT_THE_ANSWER = {"url", "key_file", "concurrency", "timeout_seconds", "tries", "wait_seconds"}
"""Keys that change where and how a model is asked, but not what it says."""
RATE_TRIES = 5
"""As many times `tries` for "too many requests", which says that the server is there."""


class VLMReward(RewardConfig):
    """What both kinds have in common."""

    model: str = Field(min_length=1)
    """Its name on the server, or hf:PATH for a folder or an id of the hub, which is run in this process, `batch_size`
    questions at a time; the keys from url to wait_seconds then say nothing."""
    url: Addresses = Field(
        default_factory=lambda: [os.environ.get("OPENAI_BASE_URL") or ENDPOINTS["openai"]], validate_default=True
    )
    """Address of the server, with or without /v1, or a list of several that serve the same model; a text may name
    several, with spaces between. Default: OPENAI_BASE_URL, or OpenAI's own."""
    key_file: Path | None = None
    """File with the key; default: UNIGENBENCH_API_KEY or OPENAI_API_KEY. The key itself is written nowhere."""
    max_tokens: int | None = Field(None, ge=1)
    """Of a reply; default: as many as the format needs. A reply that is cut is no verdict."""
    extra: dict[str, Any] = Field({})
    """Further fields of a request's body, such as chat_template_kwargs."""
    concurrency: int = Field(16, ge=1)
    """Calls at once to each address; half as many after "too many requests", and back up with success."""
    timeout_seconds: float = Field(120.0, gt=0)
    """Of a call."""
    tries: int = Field(4, ge=1)
    """Of a question, at any of the addresses."""
    wait_seconds: float = Field(1.0, gt=0)
    """Up to which the first wait before another try lasts; each further one up to twice as long."""

    def fingerprint(self) -> str:
        """Changes with the model, the question and the reading of replies; the server's address has no part in it."""
        asked = {key: value for key, value in self.options().items() if key not in NOT_THE_ANSWER}
        # A served model is not a path, even if a file has its name; a folder counts by content.
        asked["model"] = ("served", self.model.encode()) if self._local is None else ("here", self._local)
        return fingerprint_of(self.name, type(self), asked)

    def check(self) -> None:
        """Asks the servers for a sign of life; one that is away now may be back when it is needed.

        Raises:
            InputError: no key where one is needed, a server that cannot judge as asked, or no model in the folder.
        """
        client = self._client()
        if self._local is not None:
            return
        try:
            wait_for(client.probe())
        except EnvironmentProblem as error:
            logger.warning("%s", error)
        finally:
            wait_for(client.aclose())

    @property
    @abstractmethod
    def _format(self) -> Format: ...

    @property
    def _local(self) -> str | None:
        """Folder or hub id of a model that is run here."""
        scheme, colon, path = self.model.partition(":")
        if scheme != "hf" or not colon:
            return None
        shipped = None if Path(path).exists() else find_shipped(path)
        return path if shipped is None else str(shipped)

    def _client(self) -> JudgeClient:
        try:
            judges = self._servers() if self._local is None else [self._in_process(self._local)]
        except BenchError as error:
            raise InputError(f"reward '{self.name}': {error}") from None
        retry = RetryPolicy(self.tries, RATE_TRIES * self.tries, base_seconds=self.wait_seconds, cap_seconds=30)
        concurrency = self.concurrency if self._local is None else self.batch_size
        advice = "look after its url, its model and the key" if self._local is None else "name another model"
        return JudgeClient(self.name, JudgePool(judges, retry, concurrency), self._format.read, advice)

    def _servers(self) -> list[OpenAICompatible]:
        key = read_key("openai", self.key_file)
        if key is None and ENDPOINTS["openai"] in self.url:
            raise InputError(
                f"reward '{self.name}': {ENDPOINTS['openai']} needs a key; set {' or '.join(VARIABLES['openai'])}, "
                "or give key_file; for another server give url, for a model in this process model=hf:PATH"
            )
        options = JudgeOptions(
            api_key=key,
            reply="logits" if self._format.logprobs else "tags",
            timeout_seconds=self.timeout_seconds,
            connect_seconds=min(10.0, self.timeout_seconds),
            extra=self.extra,
        )
        return [OpenAICompatible("openai", self.model, url, options) for url in self.url]

    def _in_process(self, path: str) -> HFLocal:
        """On the first GPU if there is one, else in float32: half precision is slow on a CPU, or fails."""
        dtype = None if torch.cuda.is_available() else "float32"
        return open_hf(path, JudgeOptions(dtype=dtype, batch_size=self.batch_size))

    def _shared(self) -> dict[str, Any]:
        """What a reward of either kind is built with."""
        return {
            "fingerprint": self.fingerprint(),
            "weight": self.weight,
            "batch_size": self.batch_size,
            "calls": self.concurrency * len(self.url) if self._local is None else 1,
        }

    def _question(self, images: tuple[bytes, ...], prompt: str) -> Question:
        form = self._format
        text = form.text(replace_surrogates(prompt))
        return Question(text, images, self.max_tokens or form.max_tokens, form.logprobs)


class VLMPrefers(VLMReward):
    """Which of two images the model prefers, in [0, 1]: by logits a probability, else 0 or 1."""

    kind: Kind = "pairwise"
    format: PairFormat = "logits"
    """logits reads the probability of 1 against 2 as the first token; think, flex and plain read replies of
    UnifiedReward's forms. Only plain knows a tie."""

    @field_validator("kind")
    @classmethod
    def _is_pairwise(cls, kind: Kind) -> Kind:
        return _only("pairwise", kind)

    @property
    def _format(self) -> Format:
        return PAIR_FORMATS[self.format]

    def load(self) -> PairwiseReward:
        client, files = self._client(), Files()

        def prefers(
            images_a: Sequence[Image], images_b: Sequence[Image], prompts: Sequence[str]
        ) -> Awaitable[list[Score]]:
            return client.scores(
                [
                    self._question((files.png(a), files.png(b)), prompt)
                    for a, b, prompt in zip(images_a, images_b, prompts, strict=True)
                ]
            )

        return PairwiseReward(self.name, prefers, **self._shared())


class VLMScores(VLMReward):
    """How good the model finds an image: by logits the probability of a yes, in [0, 1], else points, in [1, 5]."""

    format: ScoreFormat = "logits"
    """logits reads the probability of 1 (yes) against 0 as the first token; think and plain read the lines Alignment,
    Coherence and Style Score (1-5) of UnifiedReward, whose mean is the score."""

    @field_validator("kind")
    @classmethod
    def _is_pointwise(cls, kind: Kind) -> Kind:
        return _only("pointwise", kind)

    @property
    def _format(self) -> Format:
        return SCORE_FORMATS[self.format]

    def load(self) -> PointwiseReward:
        client = self._client()

        def scores(images: Sequence[Image], prompts: Sequence[str]) -> Awaitable[list[Score]]:
            pairs = zip(images, prompts, strict=True)
            return client.scores([self._question((png(image),), prompt) for image, prompt in pairs])

        return PointwiseReward(self.name, scores, **self._shared())


def _only(kind: Kind, given: Kind) -> Kind:
    if given != kind:
        raise ValueError(f"this reward is {kind}; leave kind out")
    return kind
