"""The loop that pre-trains one stage: processes, Muon, averaged weights, a state that survives a kill."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from checkpoints import load_state, save_state
from torch import Tensor, nn

SEED = 20
TEXT_LR = 4e-4
STAGES = ("vae", "text", "unet")
LossOf = Callable[[int, np.random.Generator], tuple[Tensor, dict[str, Tensor]]]


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def world() -> tuple[int, int]:
    """(rank, number of processes)."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def sum_over_ranks(tensors: Iterable[Tensor]) -> None:
    """Replaces every tensor by its sum over the processes, in one message."""
    tensors = list(tensors)
    if world()[1] == 1 or not tensors:
        return
    flat = torch.cat([tensor.reshape(-1).float() for tensor in tensors])
    dist.all_reduce(flat)
    for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))


class Muon:
    """Muon (Jordan et al. 2024) for matrices and convolutions, AdamW for everything else; lr is set at every step.

    The orthogonalisations are shared out over the processes.
    """

    def __init__(self, named: list[tuple[str, nn.Parameter]], muon_lr: float, adam_lr: float) -> None:
        ends = ("conv_in", "conv_out", "embedding", "quant_conv", "text.", "text_2.", "heads.")
        self.matrices = [p for name, p in named if p.ndim >= 2 and not any(end in name for end in ends)]
        others = [p for name, p in named if not any(p is matrix for matrix in self.matrices)]
        texts = [p for name, p in named if name.startswith(("text.", "text_2."))]
        self.muon_lr = muon_lr
        self.momentum = [torch.zeros_like(p) for p in self.matrices]
        groups = [
            {"params": [p for p in others if not any(p is text for text in texts)], "base": adam_lr},
            {"params": texts, "base": TEXT_LR},
        ]
        groups = [group for group in groups if group["params"]]
        self.adam = torch.optim.AdamW(groups, lr=adam_lr, betas=(0.9, 0.98), weight_decay=0.0)
        self.parameters = [p for _, p in named]

    @torch.no_grad()
    def step(self, scale: float) -> None:
        """One update with both learning rates times `scale`; gradients are averaged first and cleared at the end."""
        rank, processes = world()
        for parameter in self.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        sum_over_ranks(p.grad for p in self.parameters if p.grad is not None)
        for parameter in self.parameters:
            if parameter.grad is not None:
                parameter.grad /= processes
        updates = []
        for i, (parameter, momentum) in enumerate(zip(self.matrices, self.momentum, strict=True)):
            assert parameter.grad is not None
            momentum.lerp_(parameter.grad, 0.05)
            if i % processes == rank:
                update = orthogonal(torch.lerp(parameter.grad, momentum, 0.95).flatten(1))
                updates.append(update.view_as(parameter))
            else:
                updates.append(torch.zeros_like(parameter))
        sum_over_ranks(updates)
        for parameter, update in zip(self.matrices, updates, strict=True):
            rows, columns = update.flatten(1).shape
            parameter.mul_(1 - 0.01 * self.muon_lr * scale)
            parameter.add_(update, alpha=-self.muon_lr * scale * max(1.0, rows / columns) ** 0.5)
        for group in self.adam.param_groups:
            group["lr"] = group["base"] * scale
        self.adam.step()
        for parameter in self.parameters:
            parameter.grad = None

    def state_dict(self) -> dict[str, object]:
        return {"momentum": self.momentum, "adam": self.adam.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        for mine, saved in zip(self.momentum, state["momentum"], strict=True):
            mine.copy_(saved)
        self.adam.load_state_dict(state["adam"])


def orthogonal(matrix: Tensor) -> Tensor:
    """The nearest semi-orthogonal matrix, by five quintic Newton-Schulz steps in bfloat16. [R, C]"""
    wide = matrix.shape[0] <= matrix.shape[1]
    x = matrix if wide else matrix.T
    x = (x / (x.norm() + 1e-7)).bfloat16()
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return (x if wide else x.T).to(matrix.dtype)


def schedule(step: int, progress: float, warmup: int = 30, cooldown: float = 0.3) -> float:
    """Warm-up, constant, then linear to zero over the last `cooldown` of the run; progress is in [0, 1]."""
    return min(1.0, (step + 1) / warmup, max(0.02, (1 - progress) / cooldown))


def progress_of(run: Run, steps: int, minutes: float) -> float:
    """Share of the stage that is done, by steps or by training time, whichever is further; agreed by all processes."""
    done = torch.tensor(max(run.step / steps, run.seconds / (60 * minutes) if minutes else 0.0))
    if world()[1] > 1:
        dist.broadcast(done, 0)
    return min(1.0, float(done))


class Run:
    """One stage's loop state: models, optimizer, EMA, step."""

    def __init__(self, path: Path, stage: str, modules: nn.ModuleDict, optimizer: Muon, ema_decay: float) -> None:
        self.path, self.modules, self.optimizer = path, modules, optimizer
        self.stage, self.ema_decay = stage, ema_decay
        self.step, self.seconds = 0, 0.0
        self.ema = {name: p.detach().clone() for name, p in modules.named_parameters()}
        if self.path.exists():
            state = load_state(self.path, str(device()))
            modules.load_state_dict(state["modules"])
            optimizer.load_state_dict(state["optimizer"])
            self.step, self.seconds, self.ema = state["step"], state["seconds"], state["ema"]
            log(f"{stage}: resumed at step {self.step} after {self.seconds / 60:.1f} min")

    @torch.no_grad()
    def advance(self, scale: float) -> None:
        self.optimizer.step(scale)
        self.step += 1
        decay = min(self.ema_decay, (1 + self.step) / (10 + self.step))
        for name, parameter in self.modules.named_parameters():
            self.ema[name].lerp_(parameter, 1 - decay)

    def save(self) -> None:
        if world()[0] == 0:
            state = {"modules": self.modules.state_dict(), "optimizer": self.optimizer.state_dict()}
            save_state(self.path, {**state, "step": self.step, "seconds": self.seconds, "ema": self.ema})


def log(line: str) -> None:
    if world()[0] == 0:
        print(time.strftime("%H:%M:%S", time.gmtime()), line, flush=True)


def generator(stage: str, step: int) -> np.random.Generator:
    """The randomness of one step of one process; the same after a resume."""
    return np.random.default_rng((SEED, STAGES.index(stage), step, world()[0]))


def train(run: Run, steps: int, minutes: float, loss_of: LossOf, save_seconds: float = 60.0) -> None:
    """Runs `loss_of(step, rng) -> (loss, metrics)` until `steps` or `minutes` (0: no limit), logging and saving."""
    totals: dict[str, float] = {}
    began = saved = time.time()
    resumed, resumed_at, last = run.seconds, began, run.step
    while (progress := progress_of(run, steps, minutes)) < 1:
        rng = generator(run.stage, run.step)
        torch.manual_seed(int(rng.integers(2**62)))
        loss, metrics = loss_of(run.step, rng)
        if not math.isfinite(float(loss.detach())):
            raise FloatingPointError(
                f"{run.stage}: loss is {float(loss.detach())} at step {run.step}; lower the learning rate"
            )
        loss.backward()
        run.advance(schedule(run.step, progress))
        run.seconds = resumed + time.time() - resumed_at
        for name, value in metrics.items():
            totals[name] = totals.get(name, 0.0) + float(value)
        if (run.step < 50 and run.step % 10 == 0) or run.step % 50 == 0 or run.step == steps:
            n = run.step - last
            pace = (time.time() - began) / max(1, run.step - last) if n else 0.0
            left = min((steps - run.step) * pace, 60 * minutes - run.seconds if minutes else math.inf)
            shown = " ".join(f"{name} {value / max(1, n):.5f}" for name, value in totals.items())
            log(f"{run.stage} {run.step}/{steps} {shown} {pace:.3f} s/step ETA {left / 60:.1f} min")
            totals, last, began = {}, run.step, time.time()
        if time.time() - saved > save_seconds:
            run.save()
            saved = time.time()
    run.save()
