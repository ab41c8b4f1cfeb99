"""The stage `pairs`: the shipped judge learns to compare two pictures, and goes on answering about one."""

# transformers annotates configs and processors loosely:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from checkpoints import load_state
from judge_answers import Writer, answer_losses, pictures_of, see_pictures, with_pairs
from judge_examples import Example, log, sample_render
from judge_model import SEED
from judge_pairs import Pair, Pictures, sample_pair, shipped_pictures
from judge_run import Run, write_judge
from torch import Tensor, nn, optim
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

PAIRS = 0.75
"""Share of the questions that are about two pictures."""
DRAWN = 0.65
"""Share of the pictures that the diffusion model made."""
RATE = 1e-3


def start_of_pairs(judge: Path) -> tuple[Any, Any]:
    """Processor and model of a judge, with the words of the question about two pictures."""
    processor = Qwen2_5_VLProcessor.from_pretrained(judge)
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(judge, dtype=torch.float32)
    return processor, with_pairs(processor, model)


class Eyes:
    """What the vision tower, which stays as it is, makes of pictures; those of the pool are looked at once."""

    def __init__(self, model: Any, processor: Any, pool: Pictures):
        self._model, self._processor = model, processor
        self._known: dict[bytes, Tensor] = {}
        for start in range(0, len(pool.pixels), 64):
            pixels = list(pool.pixels[start : start + 64])
            self._known |= zip((one.tobytes() for one in pixels), self._look(pixels), strict=True)

    def see(self, examples: Sequence[Example | Pair]) -> Tensor:
        """Visual tokens, those of a pair after one another. [B, 16 or 32, D]"""
        pictures = [example.pixels for example in pictures_of(examples)]
        fresh = [one for one in pictures if one.tobytes() not in self._known]
        found = iter(self._look(fresh)) if fresh else iter(())
        tokens = torch.stack(
            [self._known[one.tobytes()] if one.tobytes() in self._known else next(found) for one in pictures]
        )
        return tokens.reshape(len(examples), -1, tokens.shape[-1])

    @torch.no_grad()
    def _look(self, pixels: list[np.ndarray]) -> Tensor:
        return see_pictures(self._model, self._processor, pixels)


def train_pairs(judge: Path, out: Path, pictures: Path | None, steps: int, minutes: float, batch: int) -> None:
    """Trains the language model to its steps or minutes, as `Run.train` does."""
    torch.manual_seed(SEED)
    processor, model = start_of_pairs(judge)
    model.model.visual.requires_grad_(False)
    learner = [parameter for parameter in model.parameters() if parameter.requires_grad]
    place = nn.Linear(model.config.text_config.hidden_size, 1)
    modules = nn.ModuleDict({"model": model, "place": place})
    learner += place.parameters()
    run = Run(out, modules, [optim.AdamW(learner, lr=RATE, betas=(0.9, 0.98), weight_decay=0.0)])
    pool, writer = shipped_pictures(pictures), Writer(processor)
    eyes = Eyes(model, processor, pool)
    log(f"pairs: {len(pool.captions)} pictures of {len(pool.groups)} captions")

    def losses(rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        pairs = [sample_pair(pool, DRAWN, rng) for _ in range(round(batch * PAIRS))]
        single = range(batch - len(pairs))
        examples = [pool.sample(rng) if rng.random() < DRAWN else sample_render(rng) for _ in single]
        parts, named = zip(*_answered(modules, writer, eyes, (examples, pairs)), strict=True)
        return torch.stack(parts).mean(), named[0] | named[1]

    run.train(losses, steps, minutes)


def _answered(
    modules: nn.ModuleDict, writer: Writer, eyes: Eyes, kinds: tuple[list[Example], list[Pair]]
) -> Iterator[tuple[Tensor, dict[str, float]]]:
    """Loss and shares of right tokens: of the answers about one picture, then of those about two."""
    places = (None, modules["place"])
    for kind, chosen, place in zip(("one", "two"), kinds, places, strict=True):
        loss, shares = answer_losses(modules["model"], eyes.see(chosen), chosen, writer, place)
        yield loss, {f"{kind}_{name}": share for name, share in shares.items() if not math.isnan(share)}


def export_pairs(judge: Path, trained: Path, out: Path) -> None:
    """Writes the judge that `train_pairs` made of another."""
    processor, model = start_of_pairs(judge)
    state = load_state(trained)
    nn.ModuleDict({"model": model}).load_state_dict(state["modules"], strict=False)
    before = json.loads((judge / "training.json").read_text(encoding="utf-8"))
    write_judge(out, processor, model, {"steps": before["steps"], "pair_steps": state["step"]})
