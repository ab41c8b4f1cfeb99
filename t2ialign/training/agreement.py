"""Preflight of several processes: all find the same, or all stop, and say which one differs and in what."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterable
from importlib.metadata import version
from typing import cast

import yaml

from t2ialign.config.reader import dump
from t2ialign.config.schema import RunConfig
from t2ialign.data.base import Source
from t2ialign.errors import EnvironmentProblem, InputError, UserError
from t2ialign.training.parallel import Parallel
from t2ialign.training.preflight import Plan, check
from t2ialign.training.run_folder import PACKAGES, flat_keys

PROBLEM = "problem"
"""What a process says that cannot run: its exit code and message."""
SHOWN = 5
"""Differences that a message names."""


def check_together(config: RunConfig, parallel: Parallel) -> Plan:
    """`preflight.check` on every process; what one of them finds wrong stops all.

    Raises:
        UserError: what `check` raises here or on another process.
        InputError: another process has another config or other data.
        EnvironmentProblem: another process has other versions.
    """
    if parallel.world_size == 1:
        return check(config, 1)
    try:
        plan = check(config, parallel.world_size)
    except UserError as error:
        parallel.gather(json.dumps({PROBLEM: [error.exit_code, str(error)]}))
        raise
    found = [json.loads(text) for text in parallel.gather(json.dumps(_facts(config, plan)))]
    for rank, facts in enumerate(found):
        if PROBLEM in facts:
            raise _of_another(rank, *facts[PROBLEM])
    compare(found)
    return plan


def _of_another(rank: int, exit_code: int, message: str) -> UserError:
    kinds = {kind.exit_code: kind for kind in UserError.__subclasses__()}
    return kinds.get(exit_code, InputError)(f"process {rank} cannot run: {message}")


def _facts(config: RunConfig, plan: Plan) -> dict[str, str]:
    """What must be the same: each key of the config, the data, and versions. name -> value"""
    keys = {f"config {key}": str(value) for key, value in flat_keys(yaml.safe_load(dump(config))).items()}
    versions = {f"version {name}": version(name) for name in PACKAGES} | {"version python": platform.python_version()}
    data = {"data rows": str(len(plan.source)), "data fingerprint": _digest(plan.source)}
    if plan.buckets is not None:
        data["data buckets"] = plan.buckets.digest
    return {**keys, **data, **versions}


def _digest(source: Source) -> str:
    """A digest of prompts and scores in their order; images are compared where they are encoded."""
    digest = hashlib.sha256()
    for row in range(len(source)):
        example = source[row]
        digest.update(repr((example.prompts, example.scores, len(example.images))).encode())
    return digest.hexdigest()[:16]


def compare(found: Iterable[dict[str, str]]) -> None:
    """Compares what each process found with what the first did.

    Raises:
        InputError: a config or the data differ.
        EnvironmentProblem: versions differ.
    """
    first, *others = found
    for rank, facts in enumerate(others, 1):
        differing = [key for key in {**first, **facts} if first.get(key) != facts.get(key)]
        if not differing:
            continue
        told = "; ".join(f"{key}: {first.get(key)} there, {facts.get(key)} here" for key in differing[:SHOWN])
        more = f" and {len(differing) - SHOWN} more" if len(differing) > SHOWN else ""
        only_versions = all(key.startswith("version ") for key in differing)
        kind = cast(type[UserError], EnvironmentProblem if only_versions else InputError)
        raise kind(f"process {rank} differs from process 0 ({told}{more}); give all processes the same")
