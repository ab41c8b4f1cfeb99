"""Training from rewards of the policy's own images: one loop for every method on the forward process."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from time import sleep

import torch
from torch import Tensor

from t2ialign.config.schema import OnlineConfig
from t2ialign.data.encoding.dataset import Encoded
from t2ialign.data.loading.sampler import permutation
from t2ialign.errors import DataError, EnvironmentProblem, Interrupted, TryAgainError
from t2ialign.rollouts.batches import to_batch
from t2ialign.rollouts.estimation import Judged, estimate
from t2ialign.rollouts.judging import Group, Judge, open_journal
from t2ialign.rollouts.record import Record, drift
from t2ialign.rollouts.rollout import Prompts, RolledOut, roll_out, trainable_steps
from t2ialign.training.core import Core
from t2ialign.training.encoding import encode_data
from t2ialign.training.loop import Hook, train_steps
from t2ialign.training.offline import compute_loss
from t2ialign.training.preflight import Plan
from t2ialign.types import Batch, LossOutput

logger = logging.getLogger(__name__)
CARRIED = "online"
"""Name of the loop's own numbers in a checkpoint."""
PAUSES = (10, 60, 300)
"""Seconds after which a reward whose server is away is asked again."""
MOST_IDLE = 10
"""Iterations in a row in which no image is better than another, after which the run stops."""


class OnlineLoop:
    """Prompts, images of them, rewards, advantages, updates; the iteration is what is repeated after a stop.

    Args:
        config: of the run.
        plan: what preflight found.
    """

    needs_encoders = True

    def __init__(self, config: OnlineConfig, plan: Plan):
        self.config = config
        self._plan = plan
        self._encoded: Encoded | None = None
        self._judges: list[Judge] = []

    def prepare(self, core: Core) -> None:
        """Encodes the prompts that the cache lacks, and loads the rewards."""
        config = self.config
        self._encoded = encode_data(config, config.data, self._plan.source, core)
        journal = open_journal(config.run_dir, core.parallel.rank)
        partners = config.advantage.pairs
        self._judges = [
            Judge(reward.load(), journal, config.seed, partners=partners, order=reward.order)
            for reward in config.rewards
        ]
        self._record = Record(config.run_dir, core.parallel.rank, config.rollout.kept_groups)
        fresh = {name: torch.zeros((), dtype=torch.int64) for name in ("iteration", "old_step")}
        core.engine.carried = {CARRIED: core.engine.carried.get(CARRIED, fresh)}

    def run(self, core: Core, hooks: Sequence[Hook]) -> None:
        """Trains until all steps are done; see `Loop.run`."""
        updates = self.config.rollout.updates
        every = self.config.checkpoint.every_steps
        train_steps(core.engine, self.losses(core), save_every=every, hooks=hooks, whole=updates)

    def losses(self, core: Core) -> Iterator[Callable[[], LossOutput]]:
        """What gives the loss of each micro-batch; asking for the first of an iteration makes its images."""
        config, engine = self.config, core.engine
        iteration = engine.carried[CARRIED]["iteration"]
        idle = 0
        while engine.step < engine.steps:
            self._advance_old(core)
            batches = self._iteration(core, int(iteration))
            iteration += 1  # with the last update of these batches it is saved as done
            idle = 0 if batches else idle + 1
            if idle == MOST_IDLE:
                raise DataError(
                    f"{idle} iterations in a row had no image better than another of its prompt; nothing can be learnt "
                    f"from {', '.join(reward.name for reward in config.rewards)}. Look at {config.run_dir}"
                )
            for batch in batches:
                yield lambda batch=batch: compute_loss(
                    core.policy,
                    batch,
                    config.noiser,
                    config.objective,
                    config.seed,
                    core.parallel,
                    # a step is scored as it was sampled
                    guidance_scale=config.rollout.guidance_scale if config.scores_steps else None,
                )

    def _advance_old(self, core: Core) -> None:
        """Moves the old weights once after the updates of an iteration, whether or not the run was stopped between."""
        done, rollout = core.engine.carried[CARRIED]["old_step"], self.config.rollout
        if core.policy.old_parameters() and int(done) < core.engine.step:
            core.policy.advance_old(min(rollout.old_decay_rate * core.engine.step, rollout.old_decay_max))
            done.fill_(core.engine.step)

    def _iteration(self, core: Core, number: int) -> list[Batch]:
        """The batches of an iteration on this process; none if no image of any process is better than another."""
        config = self.config
        prompts = self._prompts(core, number)

        def tick() -> None:
            self._stop_if_asked(core, number)

        # while images are made, those of whole groups are judged; verdicts meet in the journal
        with ThreadPoolExecutor(1) as judging:
            pending: list[Future[None]] = []
            rolled = roll_out(
                core.policy,
                config.rollout,
                prompts,
                seed=config.seed,
                batch=config.rollout.batch or config.train.micro_batch,
                steps=trainable_steps(config.rollout, config.seed, number) if config.scores_steps else None,
                tick=tick,
                ready=lambda group: pending.extend(judging.submit(judge.ask, [group]) for judge in self._judges),
            )
        judged = self._judged(core, number, prompts, rolled, pending)
        metrics = judged.metrics | drift(rolled, self._add_up(core))
        core.engine.log({"step": core.engine.step + 1, "iteration": number, **metrics})
        self._record.keep(number, prompts, rolled, judged)
        if judged.metrics["rollout/spread"] == 0:
            if core.parallel.is_main:
                logger.warning(
                    "iteration %d: no image is better than another of its prompt; no optimizer step", number + 1
                )
            return []
        rank = core.parallel.rank
        batch = to_batch(config, prompts, rolled, judged.advantages, iteration=number, rank=rank)
        return [part.to(core.policy.device) for part in batch.split(config.train.micro_batch)]

    def _prompts(self, core: Core, number: int) -> Prompts:
        """This process's share of an iteration's prompts, in blocks, each of the data once before any comes again."""
        if self._encoded is None:
            raise RuntimeError("OnlineLoop.prepare comes before its iterations")
        config, parallel = self.config, core.parallel
        share = config.rollout.prompts // parallel.world_size
        first = number * config.rollout.prompts + parallel.rank * share
        groups = range(first, first + share)
        size = len(self._encoded)
        rows = [int(permutation(config.seed, 0, group // size, size)[group % size]) for group in groups]
        loaded = self._encoded[rows]
        geometry = None if loaded.geometry is None else loaded.geometry[:, 0]
        texts = [self._plan.source[row].prompts[0] for row in rows]
        cond = loaded.cond.map(lambda tensor: tensor[:, 0])
        return Prompts(texts, cond, geometry, tuple(loaded.posterior.mean.shape[2:]), torch.tensor(list(groups)))

    def _stop_if_asked(self, core: Core, number: int) -> None:
        if core.engine.stop_requested and core.parallel.world_size == 1:
            core.engine.save_alone()
            raise Interrupted(
                f"stopped in iteration {number + 1}, after step {core.engine.step}; saved. The same command goes on "
                "from there."
            )

    def _judged(
        self, core: Core, number: int, prompts: Prompts, rolled: RolledOut, pending: Sequence[Future[None]]
    ) -> Judged:
        """Advantages of this process's images, and what all processes measured.

        Args:
            pending: what was asked while the images were made; what failed is asked once more.

        Raises:
            TryAgainError: a reward's server is away for longer than all of `PAUSES`; the state is saved.
            DataError: more than `max_failed` of the images of all processes have no reward.
        """
        numbers = [int(group) for group in prompts.groups]
        groups = [Group(*one) for one in zip(numbers, prompts.texts, rolled.images, strict=True)]
        self._ask_patiently(core, number, pending, groups)
        judged = estimate(self._judges, groups, self.config.advantage, self._add_up(core))
        images = self.config.rollout.prompts * self.config.rollout.images
        missing = round(judged.metrics["rollout/failed"] * images)
        if missing > self.config.max_failed * images:
            raise DataError(
                f"{missing} of {images} images of an iteration have no reward ({missing / images:.0%}); at most "
                f"{self.config.max_failed:.0%} may be without (max_failed). Nothing was learnt of them; verdicts that "
                "came are kept, and the same command asks for the others again"
            )
        return judged

    def _add_up(self, core: Core) -> Callable[[Tensor], Tensor]:
        """The sum of a tensor over all processes."""
        return lambda sums: core.parallel.sum(sums.to(core.policy.device)).cpu()

    def _ask_patiently(self, core: Core, number: int, pending: Sequence[Future[None]], groups: Sequence[Group]) -> None:
        """Has every verdict asked for, waiting for a server that is away."""
        for pause in (*PAUSES, None):
            try:
                for asked in pending:
                    asked.result()
                for judge in self._judges:
                    judge.ask(groups)
                return
            except EnvironmentProblem as error:
                if pause is None:
                    core.engine.save_alone()
                    raise TryAgainError(f"{error}; verdicts that came are kept, and the same command goes on") from None
                logger.warning("%s; asking again in %d s", error, pause)
                pending = []
                for _ in range(pause):
                    self._stop_if_asked(core, number)
                    sleep(1)
