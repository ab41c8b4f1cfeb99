"""What preflight checks of a run whose examples are the policy's own images."""

from __future__ import annotations

from t2ialign.backbones.facts import ModelFacts
from t2ialign.config.schema import OnlineConfig, RunConfig
from t2ialign.errors import InputError


def check_loop(config: RunConfig) -> None:
    """Checks that objective and noiser are of the config's kind of training.

    Raises:
        InputError: they are not.
    """
    objective = config.objective
    if isinstance(config, OnlineConfig) is not ("advantages" in objective.required_fields):
        loop, other = ("online", "offline") if isinstance(config, OnlineConfig) else ("offline", "online")
        reads = "reads" if "advantages" in objective.required_fields else "does not read"
        raise InputError(
            f"objective '{objective.name}' {reads} the advantages of rollouts, and loop is '{loop}'; set loop={other}, "
            "or use another objective"
        )
    if config.noiser.reads_transitions and not isinstance(config, OnlineConfig):
        raise InputError(f"noiser '{config.noiser.name}' reads the steps of rollouts; loop 'offline' makes none")


def check_online(config: OnlineConfig, world_size: int, facts: ModelFacts | None) -> None:
    """Checks that data, noiser, rewards and processes fit training from the policy's own images.

    Raises:
        InputError: they do not.
        EnvironmentProblem: a reward's weights or package are missing.
    """
    data, noiser, rollout = config.data, config.noiser, config.rollout
    if data.has_images:
        raise InputError(
            f"loop 'online' makes its own images; data '{data.name}' brings some. Set data.name=prompts, whose path is "
            "a text file with a prompt a line, or a table with prompts"
        )
    if not noiser.reads_images:
        raise InputError(f"loop 'online' noises the images of its rollouts; noiser '{noiser.name}' reads none")
    if noiser.draws is not None:
        raise InputError("noiser.draws is of stored examples, which are seen again; leave it out of loop 'online'")
    if config.scores_steps is not noiser.reads_transitions:
        fitting = "transitions" if config.scores_steps else "forward"
        raise InputError(
            f"objective '{config.objective.name}' does not go with noiser '{noiser.name}' in loop 'online'; set "
            f"noiser.name={fitting}"
        )
    if config.scores_steps:
        _check_scored_steps(config)
    elif rollout.window is not None:
        raise InputError(f"rollout.window is of the steps that a run trains; '{config.objective.name}' trains none")
    if noiser.follows_policy or noiser.passes(1, 1000):
        raise InputError(f"loop 'online' draws x_t from the forward process; noiser '{noiser.name}' asks the network")
    if data.prompt_dropout:
        raise InputError("data.prompt_dropout has no part in loop 'online'; leave it out")
    if facts is not None and rollout.inference_steps > facts.num_train_timesteps:
        raise InputError(
            f"rollout.inference_steps {rollout.inference_steps}: the model has {facts.num_train_timesteps} timesteps; "
            "give at most as many"
        )
    if rollout.prompts % world_size:
        raise InputError(f"rollout.prompts {rollout.prompts} is not a multiple of {world_size} processes")
    for reward in config.rewards:
        reward.check()


def _check_scored_steps(config: OnlineConfig) -> None:
    rollout, name = config.rollout, config.objective.name
    if rollout.eta == 0:
        raise InputError(f"objective '{name}' scores stochastic steps; set rollout.eta=1, or another number above 0")
    if rollout.weights != "policy":
        raise InputError(
            f"objective '{name}' compares the policy with itself when it sampled; set rollout.weights=policy"
        )
    trained = max(rollout.inference_steps - rollout.skip_last, 0)
    usual = f"of {rollout.inference_steps} steps without the last {rollout.skip_last} (rollout.skip_last) {trained} can"
    if rollout.window is not None and rollout.window > trained:
        raise InputError(f"rollout.window {rollout.window}: {usual} have noise and be trained")
    if rollout.window is not None and rollout.timesteps > rollout.window:
        raise InputError(
            f"rollout.timesteps {rollout.timesteps}: a window of {rollout.window} steps (rollout.window) has no more "
            "to train; set both to one number"
        )
    if rollout.timesteps > trained:
        raise InputError(f"rollout.timesteps {rollout.timesteps}: {usual} be trained")
