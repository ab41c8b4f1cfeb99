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
from typing import TYPE_CHECKING, Any, NamedTuple

from PIL import Image

from unigenbench.errors import InputError
from unigenbench.judges.base import FatalFailure, JudgeError, JudgeOptions, JudgeTruncated, Probe, judge_id
from unigenbench.judges.openai_compatible import JSON_INSTRUCTION, LOGIT_INSTRUCTION, PROBE_TEXT, RETRY_TEMPERATURE
from unigenbench.types import JudgeReply, JudgeRequest, Usage

if TYPE_CHECKING:
    from torch import Tensor

GATHER_SECONDS = 0.02
"""How long the first request of a batch waits for others."""


def open_hf(path: str, options: JudgeOptions) -> HFLocal:
    """A model folder, or a name on the hub.

    Raises:
        InputError: the path is neither, or the folder holds no model.
    """
    return HFLocal(path, options)


class _Ask(NamedTuple):
    """One text about one image."""

    image: Image.Image
    text: str
    image_first: bool


class _Written(NamedTuple):
    """What the model wrote to one ask."""

    text: str
    cut: bool
    usage: Usage
    pieces: list[str]
    """the text of each token"""
    yes: list[float]
    """for each token, P("1") against P("0") in its place, in [0, 1]"""


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
        self._engine: _Engine | None = None
        self._waiting: list[tuple[JudgeRequest, asyncio.Future[JudgeReply]]] = []
        self._worker: asyncio.Task[None] | None = None

    async def probe(self) -> Probe:
        """Loads the model and lets it look at one tiny image.

        Raises:
            FatalFailure: the model cannot be loaded, or takes no images.
        """
        await asyncio.to_thread(self._try)
        return Probe(self.path)

    async def judge(self, request: JudgeRequest) -> JudgeReply:
        """Answers once, together with the other requests that wait.

        Raises:
            JudgeTruncated: the reply reached the limit of tokens.
            FatalFailure: the model cannot be loaded, or one image alone does not fit into memory.
        """
        future: asyncio.Future[JudgeReply] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, future))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return await future

    async def aclose(self) -> None:
        """Lets the batch in the model end and gives its memory back."""
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)
        for _, future in self._waiting:
            future.cancel()
        self._waiting, self._engine = [], None

    async def _work(self) -> None:
        """Batches, until nobody waits."""
        while self._waiting:
            await asyncio.sleep(GATHER_SECONDS)
            batch, self._waiting = self._next_batch()
            try:
                replies = await asyncio.to_thread(self._answer, [request for request, _ in batch])
            except Exception as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (_, future), reply in zip(batch, replies, strict=True):
                if future.done():
                    continue
                if isinstance(reply, JudgeError):
                    future.set_exception(reply)
                else:
                    future.set_result(reply)

    def _next_batch(self) -> tuple[list[Any], list[Any]]:
        """(requests that can share one call, the rest): of one limit of tokens, and one seed where they are retries."""
        waiting = [pair for pair in self._waiting if not pair[1].done()]
        if not waiting:
            return [], []
        kind = _kind(waiting[0][0])
        together = [pair for pair in waiting if _kind(pair[0]) == kind][: self._batch]
        return together, [pair for pair in waiting if pair not in together]

    def _load(self) -> _Engine:
        if self._engine is None:
            self._engine = _Engine(self.path, self._options.device, self._options.dtype)
        return self._engine

    def _try(self) -> None:
        engine = self._load()
        try:
            engine.write([_Ask(Image.new("RGB", (64, 64), (200, 30, 30)), PROBE_TEXT, True)], 1, 0.0, 0)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise FatalFailure(f"hf:{self.path}: takes no image with a text ({error!r})") from error

    def _answer(self, requests: list[JudgeRequest]) -> list[JudgeReply | JudgeError]:
        """One entry for each request. Runs in a thread."""
        if not requests:
            return []
        engine = self._load()
        started = time.monotonic()
        asks = [ask for request in requests for ask in self._asks(request)]
        limit = 1 if self._options.reply == "logits" else requests[0].max_tokens
        retry = RETRY_TEMPERATURE if requests[0].attempt else 0.0
        temperature = max(self._options.temperature or 0.0, retry)
        written = self._write(engine, asks, limit, temperature, requests[0].seed or 0)
        seconds = time.monotonic() - started
        found: list[JudgeReply | JudgeError] = []
        for request in requests:
            own = len(self._asks(request))
            found.append(self._reply(request, written[:own], seconds))
            written = written[own:]
        return found

    def _asks(self, request: JudgeRequest) -> list[_Ask]:
        with Image.open(BytesIO(request.image_bytes)) as opened:
            image = opened.convert("RGB")
        texts = [request.text]
        if self._options.reply == "json":
            texts = [f"{request.text}\n\n{JSON_INSTRUCTION}"]
        elif self._options.reply == "logits":
            numbers = range(1, len(request.prompt.points) + 1)
            texts = [f"{request.text}\n\n{LOGIT_INSTRUCTION.replace('{k}', str(k))}" for k in numbers]
        return [_Ask(image, text, request.image_first) for text in texts]

    def _write(self, engine: _Engine, asks: list[_Ask], limit: int, temperature: float, seed: int) -> list[_Written]:
        """All asks, in batches that fit into memory: a batch that does not is halved, for good.

        Raises:
            FatalFailure: one image alone does not fit.
        """
        written: list[_Written] = []
        while len(written) < len(asks):
            part = asks[len(written) : len(written) + self._batch]
            try:
                written += engine.write(part, limit, temperature, seed)
            except engine.out_of_memory as error:
                if len(part) == 1:
                    raise FatalFailure(f"hf:{self.path}: one image does not fit into memory ({error})") from error
                self._batch = len(part) // 2
                engine.free()
        return written

    def _reply(self, request: JudgeRequest, written: Sequence[_Written], seconds: float) -> JudgeReply | JudgeError:
        usage = sum((one.usage for one in written), Usage())
        text = " ".join(one.text for one in written)
        if self._options.reply == "logits":
            yes = tuple(one.yes[0] for one in written)
            verdicts = tuple(int(p >= 0.5) for p in yes)
            return JudgeReply(text, usage=usage, latency_s=seconds, verdicts=verdicts, probabilities=yes)
        one = written[0]
        reply = JudgeReply(
            text,
            finish_reason="length" if one.cut else "stop",
            usage=usage,
            latency_s=seconds,
            served_model=self.path,
            probabilities=digit_probabilities(one.pieces, one.yes, len(request.prompt.points)),
        )
        return JudgeTruncated(f"the reply ended at {usage.output} tokens", reply) if one.cut else reply


def _kind(request: JudgeRequest) -> tuple[int, int | None]:
    return request.max_tokens, request.seed if request.attempt else None


def digit_probabilities(pieces: Sequence[str], yes: Sequence[float], n: int) -> tuple[float, ...] | None:
    """P(1) of each digit of the last score; None where the score does not hold n digits that are tokens of their own.

    Args:
        pieces: the text of each token.
        yes: P("1") against P("0") in each token's place.
        n: number of test points.
    """
    text = "".join(pieces)
    begin = text.lower().rfind("<score>")
    if begin < 0:
        return None
    found, place = [], 0
    for piece, probability in zip(pieces, yes, strict=True):
        place += len(piece)
        if place > begin + len("<score>") and piece.strip() in ("0", "1"):
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


class _Engine:
    """A loaded model with its processor.

    Raises:
        FatalFailure: it cannot be loaded, or cannot chat about images.
    """

    def __init__(self, path: str, device: str | None, dtype: str | None):
        try:
            import torch
            from transformers import AutoModelForImageTextToText, AutoProcessor
        except ImportError as error:
            raise FatalFailure(f"hf:{path}: needs torch, torchvision and transformers ({error})") from error
        self._torch = torch
        self.out_of_memory = torch.OutOfMemoryError
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        try:
            self._processor: Any = AutoProcessor.from_pretrained(path)
            model: Any = AutoModelForImageTextToText.from_pretrained(path, dtype=dtype or "auto")
        except (OSError, ValueError) as error:
            raise FatalFailure(f"hf:{path}: cannot be loaded ({error})") from error
        if not getattr(self._processor, "chat_template", None) or not hasattr(self._processor, "image_processor"):
            raise FatalFailure(f"hf:{path}: has no chat template for images; give an instruction-tuned model")
        self._model = model.to(self.device).eval()
        self._tokenizer = self._processor.tokenizer
        self._tokenizer.padding_side = "left"
        self._digits = [_ids_of(self._tokenizer, digit) for digit in ("0", "1")]

    def write(self, asks: Sequence[_Ask], limit: int, temperature: float, seed: int) -> list[_Written]:
        """What the model writes to each ask, at most `limit` tokens.

        Args:
            asks: one batch.
            limit: of new tokens.
            temperature: 0 is greedy.
            seed: of the draws where the temperature is not 0.
        """
        torch = self._torch
        inputs = self._processor.apply_chat_template(
            [_conversation(ask) for ask in asks],
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            add_generation_prompt=True,
            processor_kwargs={"padding": True},
        ).to(self.device)
        yes: list[Tensor] = []
        draws = {"do_sample": True, "temperature": temperature} if temperature else {"do_sample": False}
        with torch.inference_mode(), torch.random.fork_rng(enabled=bool(temperature)):
            if temperature:
                torch.manual_seed(seed)
            output = self._model.generate(
                **inputs, **draws, max_new_tokens=limit, top_k=None, top_p=None, logits_processor=[self._recorder(yes)]
            )
        asked = inputs["attention_mask"].sum(1).tolist()
        tokens = output[:, inputs["input_ids"].shape[1] :].tolist()
        chances = torch.stack(yes, 1).tolist()
        return [self._written(row, chance, count) for row, chance, count in zip(tokens, chances, asked, strict=True)]

    def free(self) -> None:
        """Returns cached memory after a batch that did not fit."""
        if self.device.type == "cuda":
            self._torch.cuda.empty_cache()

    def _recorder(self, yes: list[Tensor]) -> Any:
        """Notes P("1") / (P("0") + P("1")) at every step; leaves the scores alone."""
        no_ids, yes_ids = self._digits

        def note(input_ids: Tensor, scores: Tensor) -> Tensor:
            sums = [self._torch.logsumexp(scores[:, ids].float(), 1) for ids in (no_ids, yes_ids)]
            yes.append(self._torch.sigmoid(sums[1] - sums[0]))
            return scores

        return note

    def _written(self, row: list[int], chances: list[float], asked: int) -> _Written:
        ends = self._model.generation_config.eos_token_id
        ends = {ends} if isinstance(ends, int) else set(ends or ())
        end = next((place for place, token in enumerate(row) if token in ends), None)
        kept = row[:end]
        return _Written(
            text=self._tokenizer.decode(kept, skip_special_tokens=True),
            cut=end is None,
            usage=Usage(input=asked, output=len(kept)),
            pieces=[self._tokenizer.decode([token]) for token in kept],
            yes=chances[: max(1, len(kept))],
        )


def _ids_of(tokenizer: Any, digit: str) -> list[int]:
    """Tokens that are this digit, with or without a space before it."""
    found = {tokenizer.encode(text, add_special_tokens=False)[-1] for text in (digit, f" {digit}", f"[{digit}")}
    return sorted(token for token in found if tokenizer.decode([token]).strip() == digit)


def _conversation(ask: _Ask) -> list[dict[str, Any]]:
    parts = [{"type": "image", "image": ask.image}, {"type": "text", "text": ask.text}]
    return [{"role": "user", "content": parts if ask.image_first else parts[::-1]}]
