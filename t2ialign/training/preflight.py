"""Everything that a user can get wrong, checked before any weight is loaded and anything is written."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from t2ialign.backbones.facts import ModelFacts, Parameters, count_parameters, read_facts
from t2ialign.backbones.lora_checks import check_lora
from t2ialign.config.schema import OnlineConfig, RunConfig
from t2ialign.data.account import DataAccount
from t2ialign.data.base import DataConfig, Source
from t2ialign.data.buckets import Buckets
from t2ialign.data.kinds.prompts import read_prompts
from t2ialign.errors import InputError
from t2ialign.objectives.base import Passes
from t2ialign.training.boards import check_trackers
from t2ialign.training.buckets import check_company, run_buckets
from t2ialign.training.core import check_attention, check_quantize, check_shard
from t2ialign.training.disk import Disk, check_disk, estimate_disk
from t2ialign.training.image_checks import check_images
from t2ialign.training.negative import check_validation_negative
from t2ialign.training.online_checks import check_loop, check_online
from t2ialign.training.online_cost import IterationCost, iteration_cost, online_passes
from t2ialign.training.optimization import check_optimizer
from t2ialign.training.reference_errors import check_fixed_draws, visits_per_row
from t2ialign.training.trajectories import TrajectoryCost, trajectory_cost


class Plan(NamedTuple):
    """What preflight found."""

    accumulation: int
    """Micro-batches of one process in an optimizer step."""
    source: Source
    """The examples, their table read and checked."""
    held_out: Source | None
    """The held-out pairs, if the config names some."""
    prompts: list[str] | None
    """The validation prompts, if the config names some."""
    passes: Passes
    """UNet passes of one example, those of the noiser or the rollouts counted among those without gradient."""
    facts: ModelFacts | None
    """The model's configuration; None where only its weights would tell."""
    parameters: Parameters | None
    """None where the model's configuration is not at hand."""
    disk: Disk | None
    """None where the model's configuration is not at hand."""
    visits: float
    """How often the run sees each example, on average."""
    trajectories: TrajectoryCost | None = None
    """Of inverting the data once, if the noiser asks for it."""
    iteration: IterationCost | None = None
    """Of training online."""
    buckets: Buckets | None = None
    """Of the examples, if `data.crop` asks for them."""
    held_out_buckets: Buckets | None = None
    """Of the held-out pairs, likewise."""

    @property
    def identity(self) -> dict[str, Callable[[], str]]:
        """What must be equal for a checkpoint to be continued; asked late, as encoding reads all images anyway."""
        return {"data": lambda: self.source.fingerprint}

    @property
    def accounts(self) -> dict[str, DataAccount]:
        """Which rows and files of each data set are used, and which are not and why."""
        held_out = {} if self.held_out is None else {"validate.pairs": self.held_out.account}
        return {"data": self.source.account, **held_out}


def check(config: RunConfig, world_size: int) -> Plan:
    """Checks a run without loading weights or writing anything; takes as long as its tables take to read.

    Raises:
        InputError: parts that do not fit each other, a file or a name that does not exist.
        EnvironmentProblem: an optional package is missing.
        DataError: a table cannot be used.
        TryAgainError: the disk is too full for what the run writes.
    """
    check_views(config)
    per_step = accumulation(config, world_size)
    check_shard(config)
    check_quantize(config)
    check_optimizer(config.optim)
    check_attention(config.train.attention)
    check_trackers(config.trackers)
    facts = read_facts(config.backbone.pretrained, config.backbone.revision, config.backbone.unet)
    if isinstance(config, OnlineConfig):
        check_online(config, world_size, facts)
    if facts is not None:
        config.noiser.check(facts.num_train_timesteps)
    check_images(config, facts)
    if config.lora is not None and config.lora.init is not None:
        width = None if facts is None else facts.text_width
        check_lora(config.lora.init, family=config.backbone.family, text_width=width)
    check_validation_negative(config, facts)
    prompts = _check_validation(config)
    check_made(config.data)
    source = config.data.open()
    check_required_fields(config, source)
    visits = visits_per_row(config, source)
    if not isinstance(config, OnlineConfig):
        check_fixed_draws(config, visits)
    held_out = None if config.validation.pairs is None else config.validation.pairs.open()
    trajectories = trajectory_cost(config, facts, len(source))
    parameters = None if facts is None else count_parameters(facts, config.lora)
    buckets = run_buckets(config.data, source, facts)
    check_company(config, buckets)
    disk = _disk(config, facts, parameters, source, trajectories, buckets)
    passes = example_passes(config) if facts is None else example_passes(config, facts.num_train_timesteps)
    return Plan(
        per_step,
        source,
        held_out,
        prompts,
        passes,
        facts,
        parameters,
        disk,
        visits,
        trajectories,
        iteration=iteration_cost(config) if isinstance(config, OnlineConfig) else None,
        buckets=buckets,
        held_out_buckets=run_buckets(config.validation.pairs, held_out, facts),
    )


def _disk(
    config: RunConfig,
    facts: ModelFacts | None,
    parameters: Parameters | None,
    source: Source,
    trajectories: TrajectoryCost | None,
    buckets: Buckets | None,
) -> Disk | None:
    """What the run writes, for which there has to be room."""
    if facts is None or parameters is None:
        return None
    disk = estimate_disk(config, facts, parameters.trained, source, buckets)
    if trajectories is not None:
        disk = disk._replace(cache=disk.cache + trajectories.size)
    check_disk(config.run_dir, disk)
    return disk


def example_passes(config: RunConfig, num_train_timesteps: int = 1000) -> Passes:
    """UNet passes of one example on average, the noiser's or the rollouts' counted among those without gradient."""
    if isinstance(config, OnlineConfig):
        return online_passes(config)
    passes = config.objective.passes(config.data.views)
    return passes._replace(reference=passes.reference + config.noiser.passes(config.data.views, num_train_timesteps))


def accumulation(config: RunConfig, world_size: int) -> int:
    """Micro-batches of one process in an optimizer step.

    Raises:
        InputError: the effective batch cannot be made of them.
    """
    at_once = config.train.micro_batch * world_size
    if config.train.effective_batch % at_once:
        raise InputError(
            f"train.effective_batch {config.train.effective_batch} is not a multiple of {world_size} processes x "
            f"train.micro_batch {config.train.micro_batch} = {at_once}"
        )
    return config.train.effective_batch // at_once


def check_views(config: RunConfig) -> None:
    """Checks that data, noiser, objective and micro-batch are compatible.

    Raises:
        InputError: they are not.
    """
    objective, data = config.objective, config.data
    check_loop(config)
    if objective.views is not None and objective.views != data.views:
        raise InputError(
            f"objective '{objective.name}' compares {objective.views} views per example; data '{data.name}' yields "
            f"{data.views}. Use other data, or another objective."
        )
    if not isinstance(config, OnlineConfig) and config.noiser.reads_images and not data.has_images:
        raise InputError(
            f"data '{data.name}' has no images, and noiser '{config.noiser.name}' starts from them; set "
            "noiser.name=self_rollout and noiser.start=noise, or use data with images, as data.name=singles"
        )
    if objective.needs_mismatched and config.train.micro_batch < 2:
        raise InputError(
            f"objective '{objective.name}' compares with other examples' prompts, so train.micro_batch must be at "
            f"least 2 (it is {config.train.micro_batch})"
        )
    for part in (objective, config.noiser):
        if "ema" in part.required_weights and config.optim.ema_decay is None:
            raise InputError(f"{part.slot} '{part.name}' reads the average of the weights; set optim.ema_decay")


def check_made(data: DataConfig) -> None:
    """Checks that data are there whose config says how they are made.

    Raises:
        InputError: they are not; says the command.
    """
    if data.made_by is not None and not data.path.exists():
        raise InputError(
            f"{data.path}: no such file or folder (data.path); the data of this config are made by: {data.made_by}"
        )


def check_required_fields(config: RunConfig, source: Source) -> None:
    """Checks that the data has the scores or labels that the objective reads.

    Raises:
        InputError: they are missing, or no labels.
    """
    objective, data = config.objective, config.data
    if not objective.required_fields or isinstance(config, OnlineConfig):
        return
    fields = " and ".join(objective.required_fields)
    for row in range(len(source)):
        example = source[row]
        if example.scores is None:
            remedy = "; `t2ialign data relabel` writes scores" if data.name == "pairs" else ""
            raise InputError(f"objective '{objective.name}' reads {fields}; data '{data.name}' has none{remedy}")
        if "labels" in objective.required_fields and not {*example.scores} <= {0, 1}:
            raise InputError(
                f"{example.origin}: objective '{objective.name}' reads labels 1 and 0; data '{data.name}' has "
                f"{example.scores[0]:g}. Use data 'labelled'."
            )


def _check_validation(config: RunConfig) -> list[str] | None:
    """The validation prompts. Rewards of unknown names were refused where the config was read."""
    validate = config.validation
    if validate.rewards and validate.prompts is None:
        names = ", ".join(reward.name for reward in validate.rewards)
        raise InputError(
            f"validate.rewards names {names}, but there are no images to score; "
            "give validate.prompts, a file with one prompt a line"
        )
    for reward in validate.rewards:
        reward.check()
    return None if validate.prompts is None else read_prompts(validate.prompts)[: validate.max_prompts]
