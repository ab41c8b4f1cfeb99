"""A second kind of training through the same core: it draws x_0 from the sampler and trains `denoising` on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path

import pytest
import torch
from toys import engine, lora_policy, state

from t2ialign.errors import Interrupted
from t2ialign.noisers.forward import ForwardNoiser
from t2ialign.objectives.denoising import Denoising
from t2ialign.policy import Policy
from t2ialign.rng import Draws
from t2ialign.sampling.guidance import Guidance
from t2ialign.sampling.sampler import Sampler
from t2ialign.schedules import sampling_timesteps
from t2ialign.training.core import Core
from t2ialign.training.loop import Hook, Loop, train_steps
from t2ialign.training.offline import compute_loss
from t2ialign.training.parallel import SingleProcess
from t2ialign.types import Batch, LossOutput


class DreamLoop:
    """Trains the policy on two of the base's own samples a step."""

    needs_encoders = False

    def prepare(self, core: Core) -> None:
        self.sampler = Sampler(sampling_timesteps(core.policy.schedule, 2, "leading", 1))

    def run(self, core: Core, hooks: Sequence[Hook]) -> None:
        train_steps(core.engine, self.losses(core), save_every=2, hooks=hooks)

    def losses(self, core: Core) -> Iterator[Callable[[], LossOutput]]:
        for first in count(core.engine.samples_seen, 2):
            batch = self._batch(core.policy, torch.tensor([first, first + 1]))
            yield lambda batch=batch: compute_loss(core.policy, batch, ForwardNoiser(), Denoising(), core.engine.seed)

    def _batch(self, policy: Policy, keys: torch.Tensor) -> Batch:
        noise, null = Draws(0, keys).normal((4, 8, 8), "x_T"), policy.null()
        cond = null.map(lambda tensor: tensor.expand(len(keys), *tensor.shape[1:]))
        x_0 = self.sampler.sample(policy, noise, cond, guidance=Guidance(1, "base", "base")).x
        return Batch(keys, keys, x_0[:, None], cond.map(lambda tensor: tensor[:, None]))


def dream(folder: Path, run_dir: Path, steps: int, hooks: Sequence[Hook] = ()) -> Core:
    policy = lora_policy(folder)
    made = engine(policy, run_dir, steps=steps)
    core = Core(policy, made, SingleProcess())
    made.start()
    loop: Loop = DreamLoop()
    loop.prepare(core)
    loop.run(core, hooks)
    return core


def test_another_loop_trains_stops_resumes_and_calls_hooks(sd15_folder: Path, tmp_path: Path):
    seen: list[int] = []
    whole = dream(sd15_folder, tmp_path / "whole", 5, [lambda engine: seen.append(engine.step)])
    assert seen == [1, 2, 3, 4, 5]
    assert whole.engine.samples_seen == 10

    def stop(found) -> None:
        found.stop_requested = found.step == 2

    with pytest.raises(Interrupted, match="stopped after step 3; saved"):
        dream(sd15_folder, tmp_path / "parts", 5, [stop])
    again = dream(sd15_folder, tmp_path / "parts", 5)
    assert all(torch.equal(tensor, state(again.policy)[name]) for name, tensor in state(whole.policy).items())


def test_a_hook_that_fails_costs_no_step(sd15_folder: Path, tmp_path: Path):
    def fail(found) -> None:
        if found.step == 3:
            raise MemoryError("a reward was too large")

    with pytest.raises(MemoryError):
        dream(sd15_folder, tmp_path, 5, [fail])
    assert (tmp_path / "checkpoints" / "step-000003").is_dir()
