"""The answers of shapes-judge as tokens, and the loss of a batch of them."""

# transformers annotates configs and processors loosely:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from judge_examples import NEXT, SEES, Example, answer, prompt_of
from judge_model import CELLS, GRID, RUBRIC, build_model, patches_of, see
from judge_pairs import BETTER, COUNTS, FORMAT, MARKS, MOST_CHECKS, SHOWS, Pair, pair_answer, pair_texts
from tokenizers import AddedToken
from torch import Tensor, nn
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

from t2ialign.shapes.caption import constraints
from unigenbench.types import Prompt

VERDICT_WEIGHT, CHOICE_WEIGHT, DIGIT_WEIGHT = 6.0, 4.0, 2.0
"""Of the words yes and no, where each check is decided; of the sentence that says which image is better; of the digits,
which repeat or count the verdicts. Other tokens have 1."""
PLACE_WEIGHT = 0.3
"""Of telling the first from the second picture."""


class Writer:
    """Turns captions and answers into tokens, as the processor and its chat template do."""

    def __init__(self, processor: Qwen2_5_VLProcessor):
        self.tokenizer = processor.tokenizer
        self.weights = dict.fromkeys(map(self._first, "01"), DIGIT_WEIGHT)
        self.weights |= dict.fromkeys(map(self._first, COUNTS), DIGIT_WEIGHT)
        self.weights |= dict.fromkeys(map(self._first, BETTER.values()), CHOICE_WEIGHT)
        verdicts = (" yes", " no", *(f" {mark}" for mark in MARKS.values()))
        self.weights |= dict.fromkeys(map(self._first, verdicts), VERDICT_WEIGHT)

    def question(self, prompt: Prompt) -> str:
        return self._asked(1, RUBRIC.render(prompt))

    def pair_question(self, caption: str) -> str:
        return self._asked(2, FORMAT.text(caption))

    def batch(self, examples: Sequence[Example | Pair]) -> tuple[Tensor, Tensor]:
        """Token ids and loss weights, padded at the right. [B, L] each"""
        rows, weights = [], []
        for example in examples:
            question, reply = self._taught(example)
            asked, said = self.tokenizer.encode(question), self.tokenizer.encode(f"{reply}<|im_end|>")
            rows.append(asked + said)
            weights.append([0.0] * len(asked) + [self.weights.get(token, 1.0) for token in said])
        length = max(map(len, rows))
        pad = self.tokenizer.pad_token_id
        ids = torch.tensor([row + [pad] * (length - len(row)) for row in rows])
        return ids, torch.tensor([row + [0.0] * (length - len(row)) for row in weights])

    def _taught(self, example: Example | Pair) -> tuple[str, str]:
        if isinstance(example, Pair):
            return self.pair_question(example.caption), pair_answer(example)
        return self.question(prompt_of(example.caption)), answer(example.caption, example.seen)

    def _asked(self, images: int, text: str) -> str:
        image = "<|vision_start|>" + "<|image_pad|>" * CELLS**2 + "<|vision_end|>"
        return f"<|im_start|>user\n{image * images}{text}<|im_end|>\n<|im_start|>assistant\n"

    def _first(self, text: str) -> int:
        return self.tokenizer.encode(text)[0]


def with_pairs(processor: Qwen2_5_VLProcessor, model: Qwen2_5_VLForConditionalGeneration) -> Any:
    """The model with the words of the question about pairs, which the processor gets as well, where it lacks them.

    A word that stands where a known one stands in the answer about one picture starts as that one.
    """
    words = processor.tokenizer
    known = len(words)
    words.add_tokens([AddedToken(text, normalized=False) for text in pair_texts()])
    if len(words) == known:
        return model
    alike = dict.fromkeys(SHOWS, SEES) | {"1 wants": NEXT.replace("{k}", "1")}
    alike |= {f" {mark}": f" {word}" for word, mark in MARKS.items()}
    alike |= {f"\n{k} wants": NEXT.replace("{k}", str(k)) for k in range(2, MOST_CHECKS + 1)}
    larger = build_model(words)
    rows = cast(Tensor, larger.get_input_embeddings().weight)
    state = model.state_dict()
    old = state["model.language_model.embed_tokens.weight"]
    with torch.no_grad():
        rows.normal_(0, float(old.std()))
        rows[:known] = old[:known]
        for word, other in alike.items():
            new = words.convert_tokens_to_ids(word)
            if new >= known:
                rows[new] += rows[words.encode(other)[0]]
    state = {name: value for name, value in state.items() if "embed_tokens" not in name and "lm_head" not in name}
    larger.load_state_dict(state, strict=False)
    return larger


def see_pictures(model: Qwen2_5_VLForConditionalGeneration, processor: Any, pixels: Sequence[np.ndarray]) -> Tensor:
    """Visual tokens of pictures, uint8 [64, 64, 3] each. [N, 16, D]"""
    return see(model.model.visual, patches_of(np.stack(pixels), processor))


def pictures_of(examples: Sequence[Example | Pair]) -> list[Example]:
    """All pictures, those of a pair after one another."""
    return [one for example in examples for one in (example if isinstance(example, Pair) else (example,))]


def answer_losses(
    model: Qwen2_5_VLForConditionalGeneration,
    tokens: Tensor,
    examples: Sequence[Example | Pair],
    writer: Writer,
    place: nn.Linear | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """`answer_loss` of the shorter and of the longer half of a batch, which saves padding.

    Args:
        tokens: what is seen of each example, one picture or two. [B, 16 or 32, D]
        examples: all of one kind.
    """
    order = sorted(range(len(examples)), key=lambda at: len(constraints(examples[at].caption)))
    halves = [order[: len(order) // 2], order[len(order) // 2 :]]
    found = [answer_loss(model, tokens[half], *writer.batch([examples[at] for at in half]), place) for half in halves]
    means = {name: (found[0][1][name] + found[1][1][name]) / 2 for name in found[0][1]}
    return (found[0][0] + found[1][0]) / 2, means


def answer_loss(
    model: Qwen2_5_VLForConditionalGeneration,
    tokens: Tensor,
    ids: Tensor,
    weights: Tensor,
    place: nn.Linear | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """Weighted cross-entropy of the answers.

    Args:
        tokens: visual tokens. [B, 16 or 32, D]
        place: reads from the first layer whether a visual token is of the first or of the second picture, which is
            learnt as well; without it the two are told apart late.
    """
    inner = model.model
    embedded = inner.get_input_embeddings()(ids)
    image = ids == model.config.image_token_id
    embedded = embedded.masked_scatter(image[..., None], tokens.to(embedded.dtype))
    longest = int((ids != ids[0, -1]).sum(1).argmax())
    row = ids[longest : longest + 1]
    grid = torch.tensor([[1, GRID, GRID]]).expand(tokens.shape[1] // CELLS**2, -1)
    positions, _ = inner.get_rope_index(row, (row == model.config.image_token_id).int(), image_grid_thw=grid)
    passed = inner.language_model(
        inputs_embeds=embedded,
        position_ids=positions.expand(-1, len(ids), -1),
        use_cache=False,
        output_hidden_states=place is not None,
    )
    hidden = passed.last_hidden_state
    asked = weights[:, 1:] > 0
    wanted, weight = ids[:, 1:][asked], weights[:, 1:][asked]
    logits = model.lm_head(hidden[:, :-1][asked])
    losses = F.cross_entropy(logits.float(), wanted, reduction="none")
    right = (logits.argmax(-1) == wanted).float()
    named = {"verdicts": VERDICT_WEIGHT, "choice": CHOICE_WEIGHT, "digits": DIGIT_WEIGHT, "evidence": 1.0}
    shares = {name: float(right[weight == value].mean()) for name, value in named.items()}
    loss = (losses * weight).sum() / weight.sum()
    if place is not None:
        told = place(passed.hidden_states[1][image]).view(len(ids), tokens.shape[1])
        second = (torch.arange(tokens.shape[1]) >= CELLS**2).float().expand_as(told)
        loss = loss + PLACE_WEIGHT * F.binary_cross_entropy_with_logits(told, second)
        shares["place"] = float(((told > 0) == (second > 0)).float().mean())
    return loss, shares
