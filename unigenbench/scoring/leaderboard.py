"""The published scores, and whether a run of ours may stand beside them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from unigenbench.errors import InputError
from unigenbench.scoring.manifest import image_folder
from unigenbench.types import PromptSet, RunLog

FILE = Path(__file__).parents[1] / "data" / "leaderboard.json"
BOARD_JUDGES = ("gemini-2.5-pro", "unigenbench-evalmodel")
"""Parts of the names of the judges whose scores may stand beside the published ones."""
BOARD_IMAGES_PER_PROMPT = 4
OPEN_JUDGE = "CodeGoat24/UniGenBench-EvalModel-qwen3vl-32b-v1"
"""The benchmark's own open judge, the one that can still be run."""
BOARD_JUDGE = (
    "gemini-2.5-pro (reported shut down: on 2026-12-01 by Google's list of deprecations, as read on 2026-11-10)"
)
"""The judge of the published rows, and what was reported of it, with the date of the report."""
OPEN_JUDGE_NOTE = (
    "its judge imitates gemini-2.5-pro, by which the published rows were judged: the one of 72 B parameters agrees "
    "with it on about 91 % of verdicts (read off a chart of arXiv:2510.18701), for that of 32 B nothing is published. "
    "A few points between this run and published rows may come from the judge; compare runs of one judge instead"
)
BOARD_JUDGE_NOTE = (
    f"the board's judge is {BOARD_JUDGE}; later another model may have answered under its name: look at the model that "
    "the server named"
)
LEAST_COVERAGE = 0.99
"""Share of images with verdicts that a row needs."""


class BoardRow(NamedTuple):
    """One published model. Figures are percentages, as printed."""

    category: str
    model: str
    access: str | None
    """"open" or "closed", where the board says"""
    coverage: str | None
    """what the printed figures fit: "v0", "v1", "v0|v1", "512" (prompts 0-511 only) or "part"; None if not checked"""
    overall: float
    dimensions: dict[str, float]
    criteria: dict[str, float] | None


class Board(NamedTuple):
    """All published tables."""

    attribution: str
    judge: str
    categories: dict[str, str]
    """{id: what it is}"""
    notes: list[str]
    rows: list[BoardRow]


def read_board() -> Board:
    """The published tables, as they are shipped."""
    content = json.loads(FILE.read_text(encoding="utf-8"))
    rows = [
        BoardRow(
            *row[:5],
            dimensions=dict(zip(content["dimensions"], row[5], strict=True)),
            criteria=None if row[6] is None else dict(zip(content["criteria"], row[6], strict=True)),
        )
        for row in content["rows"]
    ]
    return Board(content["attribution"], content["judge"], content["categories"], content["notes"], rows)


def against_board(prompts: PromptSet, *, judge: str, images_per_prompt: int) -> list[str]:
    """Why a run judged in the official wording may not stand beside the published rows; empty if it may."""
    checks = {
        f"its prompts are {prompts.version!r}, not an official file": prompts.version.startswith("official"),
        f"it has a part of the prompts ({prompts.selection})": prompts.selection is None,
        f"its judge is {judge}, not {BOARD_JUDGE}, nor {OPEN_JUDGE} behind vLLM": (
            any(name in judge.lower() for name in BOARD_JUDGES)
        ),
        f"it has {images_per_prompt} images per prompt, not {BOARD_IMAGES_PER_PROMPT}": (
            images_per_prompt == BOARD_IMAGES_PER_PROMPT
        ),
    }
    return [reason for reason, holds in checks.items() if not holds]


def why_not(log: RunLog, summary: Mapping[str, Any]) -> list[str]:
    """Why a run may not stand beside the published rows; empty if it may.

    What the run says of itself is believed only where it is to its disadvantage.
    """
    manifest = log.manifest
    own_words = str(manifest.get("banner") or "the run says so") if not manifest.get("comparable") else None
    reasons = against_board(
        log.prompts,
        judge=_judge_name(log),
        images_per_prompt=manifest["images"]["per_prompt"],
    )
    wording = manifest["rubric"]["id"]
    if not wording.startswith("official"):
        reasons.append(f"its judge was asked in the wording {wording!r}, not the official one")
    share = summary["coverage"]["share"]
    if share < LEAST_COVERAGE:
        reasons.append(f"{share:.1%} of its images have verdicts, fewer than {LEAST_COVERAGE:.0%}")
    if summary["policy"]["missing"] != "exclude":
        reasons.append(f"it counts what is missing as {summary['policy']['missing']}")
    return reasons or ([own_words] if own_words else [])


class Standing(NamedTuple):
    """A published table, and a run beside it or apart from it."""

    category: str
    rows: list[BoardRow]
    """best first; empty where a run was asked for that may not stand beside them"""
    own: BoardRow | None
    """the run as a row"""
    rank: int | None
    """where it would come in, from 1"""
    reasons: list[str]
    """why it may not stand beside them"""
    notes: tuple[str, ...] = ()
    """what to know of a run that may"""


def standing(
    category: str | None = None, log: RunLog | None = None, summary: Mapping[str, Any] | None = None
) -> Standing:
    """One published table, best first, with a run in it if that is fair; else the run alone, with the reasons.

    Args:
        category: "en", "en_long", ...; None is the run's own, else "en".
        log, summary: the run, and what `summarise` made of it.

    Raises:
        InputError: there is no such table.
    """
    board = read_board()
    name = category or (log.prompts.name if log else "en")
    rows = sorted((row for row in board.rows if row.category == name), key=lambda row: -row.overall)
    if log is None or summary is None:
        if not rows:
            raise InputError(f"--category {name}: no such table; there are {', '.join(board.categories)}")
        return Standing(name, rows, None, None, [])
    own = _own(name, log, summary)
    reasons = why_not(log, summary)
    if log.prompts.name != name:
        reasons.append(f"its prompts are {log.prompts.name!r}, the table is of {name!r}")
    if reasons:
        return Standing(name, [], own, None, reasons)
    rank = 1 + sum(row.overall > own.overall for row in rows)
    return Standing(name, rows, own, rank, [], (note_on(_judge_name(log)),))


def note_on(judge: str) -> str:
    """What to know of scores by a judge of the board before they are set beside it."""
    return OPEN_JUDGE_NOTE if "evalmodel" in judge.lower() else BOARD_JUDGE_NOTE


def _judge_name(log: RunLog) -> str:
    judge = log.manifest["judge"]
    return str(judge.get("name") or judge["spec"].get("model"))


def _own(category: str, log: RunLog, summary: Mapping[str, Any]) -> BoardRow:
    """A run as a row, in percent; a dimension without test points is left out."""
    overall = summary["overall"]["macro"]
    if overall is None:
        raise InputError(f"{log.path}: no image has a verdict")
    sections = (
        {id: 100 * entry["score"] for id, entry in summary[section].items() if entry["score"] is not None}
        for section in ("dimensions", "criteria")
    )
    share = f"{summary['coverage']['share']:.1%}"
    return BoardRow(category, f"{image_folder(log)} (this run)", None, share, 100 * overall, *sections)
