"""Vision-language models of Hugging Face in this process, batched: Qwen2.5-VL, Qwen3-VL and others that chat.

For a machine without a server, or without a network. torch and transformers are imported when the first image comes.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from unigenbench.errors import InputError
from unigenbench.judges.base import FatalFailure, JudgeError, JudgeOptions, JudgeTruncated, Probe, judge_id
from unigenbench.judges.batch_queue import BatchQueue
from unigenbench.judges.chat_completion import Completion, check_complete
from unigenbench.judges.hf_model import Generation, Turn, VisionLanguageModel
from unigenbench.judges.questions import Question
from unigenbench.judges.reply_modes import JSON_INSTRUCTION, PROBE_TEXT, RETRY_TEMPERATURE, logit_instruction
from unigenbench.types import JudgeReply, JudgeRequest, Usage


def open_hf(path: str, options: JudgeOptions) -> HFLocal:
    """A model folder, or a name on the hub.

    Raises:
        InputError: the path is neither, or the folder holds no model.
    """
    return HFLocal(path, options)


class HFLocal:
    """Answers greedily, in batches with left padding; parse retries are drawn at a low temperature.

    `reply="tags"` and `"json"` read the model's words, and give P(1) of each digit beside them; `reply="logits"` reads
    P(1) of the first token of one question per test point.
    """

    def __init__(self, path: str, options: JudgeOptions):
        folder = Path(path)
        if folder.exists() or path.startswith(("/", ".", "~")):
            if not (folder / "config.json").is_file():
                raise InputError(f"judge hf:{path}: no config.json there; give a model folder, or a name on the hub")
            model: dict[str, Any] = {"model": folder.resolve().name, "weights": fingerprint(folder)}
        else:
            model = {"model": path}
        self.path = path
        self.spec: dict[str, Any] = {
            "kind": "hf",
            **model,
            "dtype": options.dtype or "auto",
            "temperature": options.temperature or 0.0,
            "retry_temperature": RETRY_TEMPERATURE,
            "reply": options.reply,
        }
        self.id = judge_id(self.spec)
        self._options = options
        self._batch = max(1, options.batch_size)
        self._model: VisionLanguageModel | None = None
        self._queue = BatchQueue(self._answer, _batch_key, lambda: self._batch)

    async def probe(self) -> Probe:
        """Loads the model and lets it look at one tiny image.

        Raises:
            FatalFailure: the model cannot be loaded, or takes no images.
        """
        await asyncio.to_thread(self._probe)
        return Probe(self.path)

    async def judge(self, request: JudgeRequest) -> JudgeReply:
        """Answers once, together with the other requests that wait.

        Raises:
            JudgeTruncated: the reply reached the limit of tokens.
            FatalFailure: the model cannot be loaded, or one image alone does not fit into memory.
        """
        return await self._queue.answer(request)

    async def ask(self, question: Question) -> Completion:
        """Answers a question of the caller's own, together with the others that wait.

        Raises:
            JudgeTruncated, FatalFailure: as `judge`.
        """
        return await self._queue.answer(question)

    async def aclose(self) -> None:
        """Lets the batch in the model end and gives its memory back."""
        await self._queue.aclose()
        self._model = None

    def _load(self) -> VisionLanguageModel:
        if self._model is None:
            self._model = VisionLanguageModel(self.path, self._options.device, self._options.dtype)
        return self._model

    def _probe(self) -> None:
        model = self._load()
        try:
            model.generate([Turn((Image.new("RGB", (64, 64), (200, 30, 30)),), PROBE_TEXT)], 1, 0.0, 0)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise FatalFailure(f"hf:{self.path}: takes no image with a text ({error!r})") from error

    def _answer(self, batch: list[Any]) -> Sequence[JudgeReply | Completion | JudgeError]:
        """One entry for each of a batch of one kind. Runs in a thread."""
        answer = self._completions if isinstance(batch[0], Question) else self._replies
        return answer(self._load(), batch)

    def _completions(self, model: VisionLanguageModel, questions: list[Question]) -> list[Completion | JudgeError]:
        started = time.monotonic()
        logprobs, max_tokens = questions[0].logprobs, questions[0].max_tokens
        turns = [Turn(tuple(map(_opened, question.images)), question.text) for question in questions]
        temperature = self._options.temperature or 0.0
        generations = self._generate(model, turns, 1 if logprobs else max_tokens, temperature, 0)
        seconds = time.monotonic() - started
        return [self._completion(generation, seconds, logprobs) for generation in generations]

    def _completion(self, generation: Generation, seconds: float, logprobs: bool) -> Completion | JudgeError:
        reply = JudgeReply(
            generation.text,
            finish_reason="length" if generation.truncated and not logprobs else "stop",
            usage=generation.usage,
            latency_s=seconds,
            served_model=self.path,
        )
        try:
            return Completion(check_complete(reply), generation.first_token if logprobs else None)
        except JudgeError as error:
            return error

    def _replies(self, model: VisionLanguageModel, requests: list[JudgeRequest]) -> list[JudgeReply | JudgeError]:
        started = time.monotonic()
        turns = [self._turns(request) for request in requests]
        max_tokens = 1 if self._options.reply == "logits" else requests[0].max_tokens
        retry = RETRY_TEMPERATURE if requests[0].attempt else 0.0
        temperature = max(self._options.temperature or 0.0, retry)
        flat = [turn for own in turns for turn in own]
        generations = iter(self._generate(model, flat, max_tokens, temperature, requests[0].seed or 0))
        seconds = time.monotonic() - started
        return [
            self._reply(request, [next(generations) for _ in own], seconds)
            for request, own in zip(requests, turns, strict=True)
        ]

    def _turns(self, request: JudgeRequest) -> list[Turn]:
        image = _opened(request.image_bytes)
        texts = [request.text]
        if self._options.reply == "json":
            texts = [f"{request.text}\n\n{JSON_INSTRUCTION}"]
        elif self._options.reply == "logits":
            numbers = range(1, len(request.prompt.points) + 1)
            texts = [f"{request.text}\n\n{logit_instruction(k)}" for k in numbers]
        return [Turn((image,), text, request.image_first) for text in texts]

    def _generate(
        self, model: VisionLanguageModel, turns: list[Turn], max_tokens: int, temperature: float, seed: int
    ) -> list[Generation]:
        """All turns, in batches that fit into memory: the size of a batch that does not is halved, for good.

        Raises:
            FatalFailure: one image alone does not fit.
        """
        done: list[Generation] = []
        while len(done) < len(turns):
            batch = turns[len(done) : len(done) + self._batch]
            try:
                done += model.generate(batch, max_tokens, temperature, seed)
            except model.out_of_memory as error:
                if len(batch) == 1:
                    raise FatalFailure(f"hf:{self.path}: one image does not fit into memory ({error})") from error
                self._batch = len(batch) // 2
                model.free_memory()
        return done

    def _reply(
        self, request: JudgeRequest, generations: Sequence[Generation], seconds: float
    ) -> JudgeReply | JudgeError:
        usage = sum((generation.usage for generation in generations), Usage())
        text = " ".join(generation.text for generation in generations)
        if self._options.reply == "logits":
            p_yes = tuple(generation.p_yes[0] for generation in generations)
            verdicts = tuple(int(p >= 0.5) for p in p_yes)
            return JudgeReply(text, usage=usage, latency_s=seconds, verdicts=verdicts, probabilities=p_yes)
        generation = generations[0]
        reply = JudgeReply(
            text,
            finish_reason="length" if generation.truncated else "stop",
            usage=usage,
            latency_s=seconds,
            served_model=self.path,
            probabilities=digit_probabilities(generation.pieces, generation.p_yes, len(request.prompt.points)),
        )
        if generation.truncated:
            return JudgeTruncated(f"the reply ended at {usage.output} tokens", reply)
        return reply


def _batch_key(request: JudgeRequest | Question) -> tuple[Any, ...]:
    """Those with the same key can share a batch: one kind and limit of tokens, and one seed where they are retries."""
    if isinstance(request, Question):
        return Question, request.max_tokens, request.logprobs
    return JudgeRequest, request.max_tokens, request.seed if request.attempt else None


def _opened(data: bytes) -> Image.Image:
    with Image.open(BytesIO(data)) as opened:
        return opened.convert("RGB")


def digit_probabilities(pieces: Sequence[str], p_yes: Sequence[float], n: int) -> tuple[float, ...] | None:
    """P(1) of each digit of the last score; None where the score does not hold n digits that are tokens of their own.

    Args:
        pieces: the text of each token.
        p_yes: P("1") / (P("0") + P("1")) at each token's position.
        n: number of test points.
    """
    text = "".join(pieces)
    begin = text.lower().rfind("<score>")
    if begin < 0:
        return None
    found, end = [], 0
    for piece, probability in zip(pieces, p_yes, strict=True):
        end += len(piece)
        if end > begin + len("<score>") and piece.strip() in ("0", "1"):
            found.append(probability)
    return tuple(found) if len(found) == n else None


def fingerprint(folder: Path) -> str:
    """First 12 hex digits of SHA-256 over a model folder: its JSON files whole, its weights by size and both ends."""
    digest = hashlib.sha256()
    for path in sorted([*folder.glob("*.json"), *folder.glob("*.safetensors")]):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            if path.suffix == ".json":
                digest.update(file.read())
            else:
                digest.update(file.read(1 << 20))
                file.seek(max(0, size - (1 << 20)))
                digest.update(file.read())
    return digest.hexdigest()[:12]
