"""Training from stored examples: one loop for every offline method."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch

from t2ialign.errors import Interrupted
from t2ialign.noisers.base import Noiser
from t2ialign.objectives.base import Objective
from t2ialign.policy import Policy
from t2ialign.rng import Draws, keyed_seed
from t2ialign.training.engine import Engine
from t2ialign.types import Batch, LossOutput, Noised, Prediction

Hook = Callable[[Engine], None]


def evaluate(policy: Policy, batch: Batch, noiser: Noiser, objective: Objective, seed: int) -> LossOutput:
    """The objective of one batch: x_t is reached, the reference and then the policy predict."""
    schedule = policy.backbone.schedule
    noised = noiser(batch, policy, schedule, Draws(seed, batch.keys))
    mismatched = _mismatched(policy, batch, noised) if objective.needs_mismatched else None
    reference = None
    if objective.needs_reference:
        # before the policy's pass, so that nothing stands between that pass and its backward
        reference = policy.predict(noised.x_t, noised.timesteps, batch.cond, batch.geometry, "reference")
    if policy.dropouts:
        # torch draws dropout from its global state, which a restart would not find again
        torch.manual_seed(keyed_seed(seed, int(batch.keys[0]), "lora dropout"))
    prediction = policy.predict(noised.x_t, noised.timesteps, batch.cond, batch.geometry)
    return objective(Prediction(prediction, reference, noised, schedule, mismatched), batch)


@torch.no_grad()
def _mismatched(policy: Policy, batch: Batch, noised: Noised) -> Prediction:
    """Policy and reference on the same x_t, each row under the prompt of the row before it."""
    cond = batch.cond.map(lambda tensor: tensor.roll(1, 0))
    rows = (noised.x_t, noised.timesteps, cond, batch.geometry)
    reference = policy.predict(*rows, "reference")
    return Prediction(policy.predict(*rows), reference, noised, policy.backbone.schedule)


def train_offline(
    *,
    engine: Engine,
    policy: Policy,
    batches: Iterable[Batch],
    noiser: Noiser,
    objective: Objective,
    steps: int,
    save_every: int,
    hooks: Sequence[Hook] = (),
) -> None:
    """Trains until `steps` optimizer steps are done in all.

    Raises:
        Interrupted: the engine was asked to stop; the state is saved.
    """
    if engine.step >= steps:
        return
    for batch in batches:
        batch = batch.to(policy.device)
        if engine.update(lambda batch=batch: evaluate(policy, batch, noiser, objective, engine.seed)) is None:
            continue
        for hook in hooks:
            hook(engine)
        finished = engine.step >= steps
        if finished or engine.should_stop or engine.step % save_every == 0:
            engine.save()
        if finished:
            return
        if engine.should_stop:
            raise Interrupted(f"stopped after step {engine.step}; saved. The same command goes on from there.")
