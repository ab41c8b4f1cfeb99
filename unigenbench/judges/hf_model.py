"""A vision-language model of Hugging Face with its processor. torch and transformers are imported when it is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from PIL import Image

from unigenbench.judges.base import FatalFailure
from unigenbench.types import Usage

if TYPE_CHECKING:
    from torch import Tensor


class Question(NamedTuple):
    """One text about one image."""

    image: Image.Image
    text: str
    image_first: bool


class Generation(NamedTuple):
    """What the model generated for one question."""

    text: str
    truncated: bool
    usage: Usage
    pieces: list[str]
    """the text of each token"""
    p_yes: list[float]
    """for each token, P("1") / (P("0") + P("1")) at its position, in [0, 1]"""


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

    def generate(
        self, questions: Sequence[Question], max_tokens: int, temperature: float, seed: int
    ) -> list[Generation]:
        """Answers one batch of questions, each with at most `max_tokens` new tokens.

        Args:
            temperature: 0 is greedy.
            seed: of the sampling where the temperature is not 0.
        """
        torch = self._torch
        inputs = self._processor.apply_chat_template(
            [_conversation(question) for question in questions],
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            add_generation_prompt=True,
            processor_kwargs={"padding": True},
        ).to(self.device)
        p_yes: list[Tensor] = []
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
                logits_processor=[self._p_yes_recorder(p_yes)],
            )
        prompt_tokens = inputs["attention_mask"].sum(1).tolist()
        new_tokens = output[:, inputs["input_ids"].shape[1] :].tolist()
        rows = zip(new_tokens, torch.stack(p_yes, 1).tolist(), prompt_tokens, strict=True)
        return [self._generation(*row) for row in rows]

    def free_memory(self) -> None:
        """Returns cached memory after a batch that did not fit."""
        if self.device.type == "cuda":
            self._torch.cuda.empty_cache()

    def _p_yes_recorder(self, p_yes: list[Tensor]) -> Any:
        """A logits processor that appends P("1") / (P("0") + P("1")) of each step [B] and leaves the scores alone."""
        no_ids, yes_ids = self._digits

        def record(input_ids: Tensor, scores: Tensor) -> Tensor:
            no, yes = (self._torch.logsumexp(scores[:, ids].float(), 1) for ids in (no_ids, yes_ids))
            p_yes.append(self._torch.sigmoid(yes - no))
            return scores

        return record

    def _generation(self, tokens: list[int], p_yes: list[float], prompt_tokens: int) -> Generation:
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
        )


def _ids_of(tokenizer: Any, digit: str) -> list[int]:
    """Tokens that are this digit, with or without a space before it."""
    found = {tokenizer.encode(text, add_special_tokens=False)[-1] for text in (digit, f" {digit}", f"[{digit}")}
    return sorted(token for token in found if tokenizer.decode([token]).strip() == digit)


def _conversation(question: Question) -> list[dict[str, Any]]:
    parts = [{"type": "image", "image": question.image}, {"type": "text", "text": question.text}]
    return [{"role": "user", "content": parts if question.image_first else parts[::-1]}]
