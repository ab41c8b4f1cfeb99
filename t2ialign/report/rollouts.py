"""What the report shows of an online run: groups of images of its own with their rewards, and signs of trouble."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from t2ialign.config.online import Monitor
from t2ialign.report.charts import number
from t2ialign.report.images import data_uri
from t2ialign.report.training import Finding
from t2ialign.rollouts.record import Made, read_record
from t2ialign.training.monitors import low_preferred, signs


class Picture(NamedTuple):
    image: str
    """A data URI."""
    advantage: str
    rewards: dict[str, str]


class Group(NamedTuple):
    """Images of one prompt, the best first."""

    prompt: str
    iteration: int
    pictures: list[Picture]


def rollout_groups(run_dir: Path) -> list[Group]:
    """The groups of the first and of the last iteration whose images were kept; none of a run that made none.

    Raises:
        DataError: an image is gone, or a line is damaged.
    """
    kept = [made for made in read_record(run_dir) if made.file is not None]
    iterations = sorted({made.iteration for made in kept})
    return [
        group
        for iteration in dict.fromkeys(iterations[:1] + iterations[-1:])
        for group in _groups(run_dir, (made for made in kept if made.iteration == iteration))
    ]


def _groups(run_dir: Path, kept: Iterable[Made]) -> list[Group]:
    by_group: dict[int, list[Made]] = {}
    for made in kept:
        by_group.setdefault(made.group, []).append(made)
    return [
        Group(
            group[0].prompt,
            group[0].iteration + 1,
            [
                Picture(data_uri(run_dir / str(made.file)), _shown(made.advantage), _all_shown(made.rewards))
                for made in sorted(group, key=lambda made: made.advantage if made.advantage is not None else -1e9)[::-1]
            ],
        )
        for group in by_group.values()
    ]


def _all_shown(rewards: Mapping[str, float | None]) -> dict[str, str]:
    return {name: _shown(value) for name, value in rewards.items()}


def _shown(value: float | None) -> str:
    return "none" if value is None else number(value)


def online_findings(rows: Sequence[Mapping[str, Any]], config: Mapping[str, Any]) -> list[Finding]:
    """The signs of trouble in the record of an online run, each as a warning.

    Args:
        config: of the run; its limits are the defaults where an older version wrote the section.
    """
    try:
        monitor = Monitor.model_validate(config.get("monitor") or {})
    except ValueError:
        monitor = Monitor.model_validate({})
    low = low_preferred(*(_weights(part.get("rewards")) for part in (config, config.get("validate") or {})))
    return [Finding("warning", f"{text[0].upper()}{text[1:]}.") for text in signs(rows, monitor, low).values()]


def _weights(rewards: Any) -> list[tuple[str, float]]:
    """Names and weights of a config's rewards, which a run writes as sections."""
    return [(reward["name"], reward.get("weight", 1.0)) for reward in rewards or () if isinstance(reward, dict)]
