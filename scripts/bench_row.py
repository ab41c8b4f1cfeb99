"""Memory and speed of one config's steps, beside the passes that they make: `bench_row.py CONFIG IMAGES KEY=VALUE ...`.

IMAGES: what a step learns from. Prints a JSON list: peak memory in GB, images a second, time over that of the passes;
or why there are no figures. scripts/bench_sdxl.py makes a table of such rows.
"""

import argparse
import json
import resource
import statistics
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from bench_parts import forget_gradients, now
from torch import Tensor

from t2ialign.config.reader import load
from t2ialign.config.schema import Config, OnlineConfig
from t2ialign.errors import UserError
from t2ialign.policy import Policy
from t2ialign.runtime import configure_runtime
from t2ialign.training.core import open_processes
from t2ialign.training.train import open_run
from t2ialign.types import Conditioning, Weights


class Call(NamedTuple):
    """A pass of the UNet, or of the VAE's decoder, where there are no weights to choose."""

    inputs: tuple[Any, ...]
    weights: Weights | None
    has_gradient: bool


class Passes:
    """The passes that something made, to be made again and nothing else."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.calls: list[Call] = []

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Inside, the passes that are made take the place of those before."""
        policy, backbone, self.calls = self.policy, self.policy.backbone, []
        denoise, decode = policy.denoise, backbone.decode_latents

        def denoised(
            x_t: Tensor,
            timesteps: Tensor,
            cond: Conditioning,
            geometry: Tensor | None = None,
            weights: Weights = "policy",
        ) -> Tensor:
            has_gradient = weights == "policy" and torch.is_grad_enabled()
            self.calls.append(Call((x_t.detach(), timesteps, cond, geometry), weights, has_gradient))
            return denoise(x_t, timesteps, cond, geometry, weights)

        def decoded(latents: Tensor) -> Any:
            self.calls.append(Call((latents.detach(),), None, False))
            return decode(latents)

        policy.denoise, backbone.decode_latents = denoised, decoded
        try:
            yield
        finally:
            policy.denoise, backbone.decode_latents = denoise, decode

    def __call__(self) -> None:
        for call in self.calls:
            self._again(call)
        forget_gradients(self.policy)

    def _again(self, call: Call) -> None:
        policy, backbone = self.policy, self.policy.backbone
        if call.weights is None:
            backbone.decode_latents(*call.inputs)
            return
        autocast = torch.autocast(policy.device.type, dtype=policy.autocast, enabled=policy.autocast is not None)
        with torch.set_grad_enabled(call.has_gradient), policy.mixture(call.weights) as module, autocast:
            prediction = backbone.predict(module, *call.inputs)
        if call.has_gradient:
            prediction.float().square().mean().backward()


class Training:
    """Optimizer steps of a run; of online training an iteration with all of its updates."""

    def __init__(self, config: Config) -> None:
        _, self.core, loop = open_run(config, open_processes())
        if not loop.needs_encoders:
            self.core.policy.backbone.release_encoders()
        self._losses = loop.losses(self.core)
        self._updates = config.rollout.updates if isinstance(config, OnlineConfig) else 1

    def __call__(self) -> None:
        engine = self.core.engine
        done = engine.step + self._updates
        while engine.step < done:
            engine.update(next(self._losses))


class Measured(NamedTuple):
    """What a row shows."""

    peak: float
    """GB, of 10^9 bytes"""
    images: float
    """a second"""
    ratio: float

    def cells(self) -> list[str]:
        return [f"{self.peak:.1f}", f"{self.images:.3g}", f"{self.ratio:.3f}"]


def measure(config: Config, images: int, warmup: int, steps: int) -> Measured:
    """Steps of a config, each beside its own passes.

    Args:
        images: of a step.
    """
    training = Training(config)
    passes = Passes(training.core.policy)
    for _ in range(warmup):
        with passes.recorded():
            training()
        passes()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    seconds: list[float] = []
    ratios: list[float] = []
    for _ in range(steps):
        began = now()
        with passes.recorded():
            training()
        between = now()
        passes()
        seconds.append(between - began)
        ratios.append(seconds[-1] / (now() - between))
    return Measured(peak_gigabytes(), images / statistics.median(seconds), statistics.median(ratios))


def peak_gigabytes() -> float:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most * (1 if sys.platform == "darwin" else 1024) / 1e9


def cells(options: argparse.Namespace) -> list[str]:
    """The figures as text, or why there are none."""
    try:
        config = load(options.config, options.changes)
        return measure(config, options.images, options.warmup, options.steps).cells()
    except torch.OutOfMemoryError:
        return ["out of memory"]
    except UserError as error:
        return [str(error)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("images", type=int)
    parser.add_argument("changes", nargs="*", help="key=value")
    parser.add_argument("--warmup", type=int, default=2, help="steps that are not timed")
    parser.add_argument("--steps", type=int, default=5, help="that are timed")
    configure_runtime()
    print(json.dumps(cells(parser.parse_args())))


if __name__ == "__main__":
    main()
