"""Judges what base and aligned model drew of the same Shapes prompts, and compares the two."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from t2ialign.errors import DataError
from t2ialign.files import whole_file
from t2ialign.progress import track
from t2ialign.report import VERDICTS
from t2ialign.shapes.taste import taste
from t2ialign.shapes.verify import Unreadable, verify
from t2ialign.statistics import paired_bootstrap, wilson

MEASURES = {
    "faithfulness": ("Faithfulness", "share of the prompt's statements that hold in the picture"),
    "all_right": ("All right", "share of pictures in which every statement holds"),
    "taste": ("Taste", "what the labels also prefer where the prompt leaves it open"),
}


class Measured(NamedTuple):
    """One image, judged."""

    faithfulness: float
    """in [0, 1]"""
    all_right: float
    """0 or 1"""
    taste: float | None
    """in [0, 1]; None where the prompt leaves nothing open to it"""
    unreadable: str | None
    """Why no scene can be read in the image, where that is so; every statement then counts as wrong."""
    verdicts: list[dict[str, Any]]
    """criterion, claim, right"""


def measure(prompt: str, image: Image.Image) -> Measured:
    """The verifier's and the taste's judgement of one image."""
    judged = verify(prompt, image)
    verdicts = [
        {"criterion": verdict.criterion, "claim": str(verdict.constraint), "right": verdict.right}
        for verdict in judged.verdicts
    ]
    unreadable = judged.seen.reason if isinstance(judged.seen, Unreadable) else None
    return Measured(judged.share, float(judged.all_right), taste(judged.seen, prompt), unreadable, verdicts)


def judge(prompts: Sequence[str], run_dir: Path) -> list[dict[str, Any]]:
    """A row a prompt: its image in `base/` and in `aligned/`, judged; also written to verdicts.jsonl.

    Raises:
        DataError: an image cannot be read.
    """
    rows = []
    for index, prompt in enumerate(track(prompts, "verified prompts", len(prompts))):
        row: dict[str, Any] = {"prompt": prompt}
        for side in ("base", "aligned"):
            name = f"{side}/{index}_0.png"
            row[side] = {"image": name, **measure(prompt, _open(run_dir / name))._asdict()}
        rows.append(row)
    with whole_file(run_dir / VERDICTS) as partial:
        partial.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return rows


def _open(path: Path) -> Image.Image:
    try:
        with Image.open(path) as opened:
            return opened.convert("RGB")
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}; remove it, and the same command makes it again") from None


def compare(rows: Sequence[Mapping[str, Any]], key: str, seed: int) -> dict[str, Any]:
    """Mean of a measure on both models, and the paired difference; rows without a number on both sides are counted."""
    pairs = [(row["base"][key], row["aligned"][key]) for row in rows]
    measured = [(base, aligned) for base, aligned in pairs if base is not None and aligned is not None]
    if not measured:
        raise DataError(f"{key}: none of {len(rows)} prompts has a number on both models; nothing can be compared")
    base, aligned = zip(*measured, strict=True)
    difference = paired_bootstrap(base, aligned, seed=seed)
    return {
        "base": sum(base) / len(base),
        "aligned": sum(aligned) / len(aligned),
        "difference": {"mean": difference.mean, "low": difference.low, "high": difference.high},
        "n": len(measured),
        "not_measured": len(rows) - len(measured),
    }


def compare_criteria(rows: Sequence[Mapping[str, Any]], seed: int) -> dict[str, Any]:
    """Verified accuracy by criterion with Wilson intervals, and the paired difference resampled by prompt."""
    found: dict[str, list[tuple[int, bool, bool]]] = {}
    for index, row in enumerate(rows):
        for base, aligned in zip(row["base"]["verdicts"], row["aligned"]["verdicts"], strict=True):
            found.setdefault(base["criterion"], []).append((index, base["right"], aligned["right"]))
    criteria = {}
    for criterion in sorted(found):
        prompts, base, aligned = zip(*found[criterion], strict=True)
        difference = paired_bootstrap(base, aligned, seed=seed, clusters=prompts)
        criteria[criterion] = {
            "base": wilson(sum(base), len(base))._asdict(),
            "aligned": wilson(sum(aligned), len(aligned))._asdict(),
            "difference": difference._asdict(),
        }
    return criteria
