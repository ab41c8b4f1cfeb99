"""Training from stored examples: one loop for every offline method."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from t2ialign.config.schema import RunConfig
from t2ialign.data.encoding.dataset import Encoded
from t2ialign.data.encoding.trajectories import Trajectories
from t2ialign.data.loading.loader import Batches, row_groups
from t2ialign.noisers.base import Noiser
from t2ialign.objectives.base import ErrorSpace, Objective
from t2ialign.policy import Policy
from t2ialign.rng import Draws, keyed_seed
from t2ialign.sampling.guidance import Guidance
from t2ialign.training.core import Core
from t2ialign.training.encoding import encode_data
from t2ialign.training.loop import Hook, train_steps
from t2ialign.training.parallel import Parallel, SingleProcess
from t2ialign.training.preflight import Plan
from t2ialign.training.reference_errors import CARRIED, ReferenceErrors
from t2ialign.training.trajectories import store_trajectories
from t2ialign.types import Batch, Conditioning, LossOutput, Noised, Prediction, Weights, flatten_views

ALONE = SingleProcess()


def compute_loss(
    policy: Policy,
    batch: Batch,
    noiser: Noiser,
    objective: Objective,
    seed: int,
    parallel: Parallel = ALONE,
    known: ReferenceErrors | None = None,
    guidance_scale: float | None = None,
) -> LossOutput:
    """The objective of one batch: x_t is reached, the frozen weights and then the policy predict.

    Args:
        known: the reference's errors of earlier visits, if rows have fixed draws; those of this one are added.
        guidance_scale: of all predictions, where guided steps are scored.
    """
    schedule = policy.schedule
    noised = noiser(batch, policy, schedule, Draws(seed, batch.keys))
    rows = (noised.x_t, noised.timesteps, batch.cond, batch.geometry)
    space = objective.space
    mismatched = _mismatched(policy, batch, noised, space) if objective.needs_mismatched else None
    # before the policy's pass, so that nothing stands between that pass and its backward
    found = None if known is None else known.find(batch)
    asked = [weights for weights in objective.required_weights if weights != "reference" or found is None]
    frozen = {weights: _predict(policy, rows, weights, guidance_scale) for weights in asked}
    if policy.dropouts:
        # torch draws dropout from its global state, which a restart would not find again
        torch.manual_seed(keyed_seed(seed, int(batch.keys[0]), "lora dropout"))  # pyright: ignore[reportUnknownMemberType]
    prediction = Prediction(
        _predict(policy, rows, "policy", guidance_scale),
        frozen.pop("reference", None),
        noised,
        schedule,
        mismatched,
        others=frozen,
        space=space,
    )
    if known is not None:
        prediction = _with_known(prediction, batch, known, found, parallel)
    sums = objective.context(prediction, batch)
    if sums is not None:
        prediction = replace(prediction, context=parallel.sum(sums))
    return objective(prediction, batch)


Rows = tuple[Tensor, Tensor, Conditioning, Tensor | None]
"""x_t, timesteps, conditioning and geometry, as `Policy.predict` takes them."""


def _predict(policy: Policy, rows: Rows, weights: Weights, guidance_scale: float | None) -> Tensor:
    """The prediction of some weights, with guidance if a scale is given. [N, V, C, H, W]"""
    if guidance_scale is None:
        return policy.predict(*rows, weights)
    x_t, timesteps, cond, geometry = rows
    guided = Guidance(guidance_scale, weights, weights).denoise(
        policy,
        x_t.flatten(0, 1),
        timesteps.flatten(),
        flatten_views(cond, *x_t.shape[:2]),
        None if geometry is None else geometry.flatten(0, 1),
    )
    return guided.view_as(x_t)


def _with_known(
    prediction: Prediction, batch: Batch, known: ReferenceErrors, found: Tensor | None, parallel: Parallel
) -> Prediction:
    """The prediction with the reference's errors as the table has them, so that every visit sees the same.

    Errors that are not finite are never known: the prediction keeps its own, and the engine says so.
    """
    known.share(batch, prediction.reference_error if found is None else None, parallel)
    return replace(prediction, known_reference_error=known.find(batch))


@torch.no_grad()
def _mismatched(policy: Policy, batch: Batch, noised: Noised, space: ErrorSpace) -> Prediction:
    """Policy and reference on the same x_t, each row under the prompt of the row before it."""
    cond = batch.cond.map(lambda tensor: tensor.roll(1, 0))
    rows = (noised.x_t, noised.timesteps, cond, batch.geometry)
    reference = policy.predict(*rows, "reference")
    return Prediction(policy.predict(*rows), reference, noised, policy.schedule, space=space)


class OfflineLoop:
    """Stored examples, in the order that the seed and the position in the data give.

    Args:
        config: of the run.
        plan: what preflight found.
    """

    def __init__(self, config: RunConfig, plan: Plan):
        self.config = config
        self._plan = plan
        self.encoded: Encoded | None = None
        self._known: ReferenceErrors | None = None
        self._trajectories: Trajectories | None = None

    def prepare(self, core: Core) -> None:
        """Encodes what the cache lacks, every process its share."""
        self.encoded = encode_data(self.config, self.config.data, self._plan.source, core, self._plan.buckets)
        self._trajectories = store_trajectories(self.config, self._plan.source, self.encoded, core)
        if self.config.noiser.draws is not None:
            saved = core.engine.carried.get(CARRIED)
            self._known = ReferenceErrors(len(self.encoded), self.config.noiser.draws, self.encoded.views, saved)
            core.engine.carried = {CARRIED: self._known.tensors}

    @property
    def needs_encoders(self) -> bool:
        """Whether VAE or text encoders run in each step, for want of a cache."""
        return self.encoded is None or self.encoded.needs_encoders

    def batches(self, core: Core) -> Batches:
        """Micro-batches of this process from the engine's position on.

        Raises:
            RuntimeError: `prepare` was not called.
        """
        if self.encoded is None:
            raise RuntimeError("OfflineLoop.prepare comes before its batches")
        config, data, source = self.config, self.config.data, self._plan.source
        return Batches(
            self.encoded,
            seed=config.seed,
            micro_batch=config.train.micro_batch,
            world_size=core.parallel.world_size,
            rank=core.parallel.rank,
            cursor=core.engine.samples_seen,
            workers=config.train.loader_workers,
            flip=data.flip,
            prompt_dropout=data.prompt_dropout,
            null=core.policy.null(),
            epoch_indices=data.epoch_indices(source),
            curriculum_scores=data.curriculum_scores(source),
            row_groups=row_groups(source) if data.shuffle == "groups" else None,
            draws=config.noiser.draws,
            trajectories=self._trajectories,
        )

    def run(self, core: Core, hooks: Sequence[Hook]) -> None:
        """Trains until all steps are done; see `Loop.run`."""
        train_steps(core.engine, self.losses(core), save_every=self.config.checkpoint.every_steps, hooks=hooks)

    def losses(self, core: Core) -> Iterator[Callable[[], LossOutput]]:
        """What gives the loss of each of the `batches`, when it is asked."""
        config = self.config
        for batch in self.batches(core):
            batch = batch.to(core.policy.device)
            yield lambda batch=batch: compute_loss(
                core.policy, batch, config.noiser, config.objective, config.seed, core.parallel, self._known
            )
