"""A training of shapes-judge that survives a kill, and the judge as a folder."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from checkpoints import load_state, save_state
from judge_examples import log
from judge_model import RUBRIC, SEED
from torch import Tensor, nn, optim

Losses = Callable[[np.random.Generator], tuple[Tensor, dict[str, float]]]
"""A step's loss, and figures to be shown, from what it may draw."""


class Run:
    """Model, optimizers and counters of one stage, saved whole."""

    def __init__(self, path: Path, modules: nn.Module, optimizers: Sequence[optim.Optimizer]):
        self.path, self.modules = path, modules
        self.step, self.seconds = 0, 0.0
        self.optimizers = optimizers
        self.rates = [group["lr"] for optimizer in self.optimizers for group in optimizer.param_groups]
        if path.exists():
            state = load_state(path)
            modules.load_state_dict(state["modules"])
            for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
            self.step, self.seconds = state["step"], state["seconds"]
            log(f"{path.stem}: continues at step {self.step} after {self.seconds / 60:.1f} min")

    def train(self, losses: Losses, steps: int, minutes: float) -> None:
        """To its steps or minutes: warm-up over 50, constant, linear to zero over the last 40 %; saved each minute."""
        stage, shown, saved = self.path.stem, dict[str, list[float]](), time.monotonic()
        while (progress := max(self.step / steps, self.seconds / (60 * minutes))) < 1:
            began = time.monotonic()
            loss, figures = losses(np.random.default_rng((SEED, len(stage), self.step)))
            self.advance(loss, min(1.0, (self.step + 1) / 50, max(0.02, (1 - progress) / 0.4)))
            self.seconds += time.monotonic() - began
            for name, value in figures.items():
                shown.setdefault(name, []).append(value)
            if self.step % 25 == 0:
                means = " ".join(f"{name} {np.nanmean(values):.3f}" for name, values in shown.items())
                log(f"{stage} {self.step}/{steps} {means} {self.seconds / self.step:.2f} s/step")
                shown = {}
            if time.monotonic() - saved > 60:
                self.save()
                saved = time.monotonic()
        self.save()

    def advance(self, loss: Tensor, scale: float) -> None:
        value = loss.item()
        if not math.isfinite(value):
            raise FloatingPointError(f"{self.path.stem}: loss is {value} at step {self.step}")
        loss.backward()
        nn.utils.clip_grad_norm_(self.modules.parameters(), 1.0)
        groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
        for group, rate in zip(groups, self.rates, strict=True):
            group["lr"] = rate * scale
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1

    def save(self) -> None:
        state = {
            "modules": self.modules.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "step": self.step,
            "seconds": self.seconds,
        }
        save_state(self.path, state)


def muon_and_adamw(modules: nn.Module) -> list[optim.Optimizer]:
    """Muon for matrices, AdamW for embeddings, heads and all else: for a training from nothing."""
    matrices = [
        p for name, p in modules.named_parameters() if p.ndim == 2 and "embed" not in name and "heads" not in name
    ]
    others = [p for p in modules.parameters() if not any(p is matrix for matrix in matrices)]
    return [
        optim.Muon(matrices, lr=3e-3, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        optim.AdamW(others, lr=3e-3, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def write_judge(out: Path, processor: Any, model: Any, record: dict[str, Any]) -> None:
    """Writes a judge as an ordinary folder, weights in float16, with what is known of its training."""
    model.half().save_pretrained(out)
    processor.save_pretrained(out)
    record = {"rubric": RUBRIC.id, "rubric_sha256": RUBRIC.sha256} | record | {"seed": SEED}
    (out / "training.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    log(f"export: {sum(path.stat().st_size for path in out.rglob('*')) / 1e6:.1f} MB in {out}")
