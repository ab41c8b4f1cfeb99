"""A vision-language model of Hugging Face with its processor. torch and transformers are imported when it is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from PIL import Image

from unigenbench.judges.base import FatalFailure
from unigenbench.types import Usage

if TYPE_CHECKING:
    from torch import Tensor


CANDIDATES = 20
"""of the first token, as many as a server is asked for"""


class Turn(NamedTuple):
    """What the user says: a text about images."""

    images: tuple[Image.Image, ...]
    text: str
    images_first: bool = True


class Generation(NamedTuple):
    """What the model generated for one turn."""

    text: str
    truncated: bool
    usage: Usage
    pieces: list[str]
    """the text of each token"""
    p_yes: list[float]
    """for each token, P("1") / (P("0") + P("1")) at its position, in [0, 1]"""
    first_token: tuple[tuple[str, float], ...] = ()
    """(token, log-probability) of the most probable first tokens"""


class VisionLanguageModel:
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

    def generate(self, turns: Sequence[Turn], max_tokens: int, temperature: float, seed: int) -> list[Generation]:
        """Answers one batch of turns, each with at most `max_tokens` new tokens.

        Args:
            temperature: 0 is greedy.
            seed: of the sampling where the temperature is not 0.
        """
        torch = self._torch
        inputs = self._processor.apply_chat_template(
            [_conversation(turn) for turn in turns],
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            add_generation_prompt=True,
            processor_kwargs={"padding": True},
        ).to(self.device)
        p_yes: list[Tensor] = []
        first: list[Tensor] = []
        sampling = {"do_sample": True, "temperature": temperature} if temperature else {"do_sample": False}
        with torch.inference_mode(), torch.random.fork_rng(enabled=bool(temperature)):
            if temperature:
                torch.manual_seed(seed)
            output = self._model.generate(
                **inputs,
                **sampling,
                max_new_tokens=max_tokens,
                top_k=None,
                top_p=None,
                logits_processor=[self._recorder(p_yes, first)],
            )
        prompt_tokens = inputs["attention_mask"].sum(1).tolist()
        new_tokens = output[:, inputs["input_ids"].shape[1] :].tolist()
        best = self._candidates(first[0])
        rows = zip(new_tokens, torch.stack(p_yes, 1).tolist(), prompt_tokens, best, strict=True)
        return [self._generation(*row) for row in rows]

    def free_memory(self) -> None:
        """Returns cached memory after a batch that did not fit."""
        if self.device.type == "cuda":
            self._torch.cuda.empty_cache()

    def _recorder(self, p_yes: list[Tensor], first: list[Tensor]) -> Any:
        """A logits processor that appends P("1") / (P("0") + P("1")) of each step [B], and the scores of the first step
        [B, V], and leaves them alone."""
        no_ids, yes_ids = self._digits

        def record(input_ids: Tensor, scores: Tensor) -> Tensor:
            no, yes = (self._torch.logsumexp(scores[:, ids].float(), 1) for ids in (no_ids, yes_ids))
            p_yes.append(self._torch.sigmoid(yes - no))
            if not first:
                first.append(scores.float())
            return scores

        return record

    def _candidates(self, scores: Tensor) -> list[tuple[tuple[str, float], ...]]:
        """The most probable tokens of each row and their log-probabilities, given scores [B, V]."""
        best = scores.log_softmax(-1).topk(min(CANDIDATES, scores.shape[-1]))
        words = [[self._tokenizer.decode([token]) for token in row] for row in best.indices.tolist()]
        return [tuple(zip(*row, strict=True)) for row in zip(words, best.values.tolist(), strict=True)]

    def _generation(
        self, tokens: list[int], p_yes: list[float], prompt_tokens: int, first_token: tuple[tuple[str, float], ...]
    ) -> Generation:
        eos = self._model.generation_config.eos_token_id
        eos = {eos} if isinstance(eos, int) else set(eos or ())
        end = next((position for position, token in enumerate(tokens) if token in eos), None)
        kept = tokens[:end]
        return Generation(
            text=self._tokenizer.decode(kept, skip_special_tokens=True),
            truncated=end is None,
            usage=Usage(input=prompt_tokens, output=len(kept)),
            pieces=[self._tokenizer.decode([token]) for token in kept],
            p_yes=p_yes[: max(1, len(kept))],
            first_token=first_token,
        )


def _ids_of(tokenizer: Any, digit: str) -> list[int]:
    """Tokens that are this digit, with or without a space before it."""
    found = {tokenizer.encode(text, add_special_tokens=False)[-1] for text in (digit, f" {digit}", f"[{digit}")}
    return sorted(token for token in found if tokenizer.decode([token]).strip() == digit)


def _conversation(turn: Turn) -> list[dict[str, Any]]:
    images, text = [{"type": "image", "image": image} for image in turn.images], {"type": "text", "text": turn.text}
    return [{"role": "user", "content": [*images, text] if turn.images_first else [text, *images]}]
