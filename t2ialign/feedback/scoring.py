"""Scores of image folders, kept as they come and never asked for twice."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from t2ialign.data.images import open_image
from t2ialign.errors import DataError
from t2ialign.feedback.pictures import SCORES, Picture, read_pictures
from t2ialign.progress import track
from t2ialign.rewards.base import Reward, Score, Summary, summarise
from t2ialign.storage.atomic import atomic_write
from t2ialign.storage.journal import append_lines, truncate_partial_line

SCORE_COLUMNS = ("image", "prompt", "reward", "score", "fingerprint", "digest")
Row = dict[str, Any]
"""A line of a table of scores: image, prompt, reward, score, and the fingerprints of reward and picture."""


class _Journal:
    """Scores of pictures, kept on disk as they come. A line torn by a kill is cut off."""

    def __init__(self, table: Path):
        self.table = table
        self.path = table.parent / f".{table.name}.journal"
        truncate_partial_line(self.path)
        self.rows = _rows(table) + _rows(self.path)
        self.known: dict[tuple[str, str], float] = {}
        """(reward, picture) -> score; failures are left out, so that they are tried again."""
        self._learn(self.rows)

    def _learn(self, rows: Sequence[Row]) -> None:
        self.known |= {(row["fingerprint"], row["digest"]): row["score"] for row in rows if row["score"] is not None}

    def add(self, rows: Sequence[Row]) -> None:
        """Appends rows and waits until they are on disk.

        Raises:
            TryAgainError: the disk is full.
        """
        append_lines(self.path, _lines(rows))
        self._learn(rows)

    def finish(self, rows: Sequence[Row]) -> None:
        """Writes the table and drops the journal. Scores of the same pictures by other rewards stay."""
        rewards, pictures = {row["reward"] for row in rows}, {row["digest"] for row in rows}
        others = [row for row in self.rows if row["reward"] not in rewards and row["digest"] in pictures]
        with atomic_write(self.table) as partial:
            partial.write_text(_lines([*others, *rows]), encoding="utf-8")
        self.path.unlink(missing_ok=True)


def _lines(rows: Sequence[Row]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _rows(path: Path) -> list[Row]:
    """The lines of a table or journal."""
    if not path.is_file():
        return []
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
        return [{key: row[key] for key in SCORE_COLUMNS} for row in rows]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not a table of scores ({error!r}); remove it and score again") from None


def score_pictures(pictures: Sequence[Picture], rewards: Sequence[Reward], table: Path) -> dict[str, list[Score]]:
    """The scores of each reward by name, also written to `table` as JSON lines, a line an image and reward.

    What the table or its journal already holds for the same picture, prompt and reward is not asked for again, except
    for failures.

    Raises:
        DataError: an image cannot be read.
        TryAgainError: the disk is full.
    """
    journal = _Journal(table)
    digests = [picture.digest() for picture in pictures]
    found: dict[str, list[Score]] = {}
    rows: list[Row] = []
    for reward in rewards:
        _score_missing(reward, pictures, digests, journal)
        scores: list[Score] = [journal.known.get((reward.fingerprint, digest)) for digest in digests]
        rows += [_row(p, reward, s, d) for p, s, d in zip(pictures, scores, digests, strict=True)]
        found[reward.name] = scores
    journal.finish(rows)
    return found


def _row(picture: Picture, reward: Reward, score: Score, digest: str) -> Row:
    values = (picture.name, picture.prompt, reward.name, score, reward.fingerprint, digest)
    return dict(zip(SCORE_COLUMNS, values, strict=True))


def _score_missing(reward: Reward, pictures: Sequence[Picture], digests: Sequence[str], journal: _Journal) -> None:
    """Asks the reward for what the journal does not know."""
    # equal pictures of one prompt are scored once
    first = {digest: i for i, digest in reversed(list(enumerate(digests)))}
    missing = sorted(i for digest, i in first.items() if (reward.fingerprint, digest) not in journal.known)
    batches = [missing[start : start + reward.batch_size] for start in range(0, len(missing), reward.batch_size)]
    for batch in track(batches, f"batches scored by {reward.name}", len(batches)):
        scores = reward([_open(pictures[i]) for i in batch], [pictures[i].prompt for i in batch])
        journal.add([_row(pictures[i], reward, score, digests[i]) for i, score in zip(batch, scores, strict=True)])


def _open(picture: Picture) -> Image.Image:
    try:
        return open_image(picture.path)
    except DataError as error:
        raise DataError(f"{picture.path}: {error}; mend or remove it") from None


class Scored(NamedTuple):
    """A folder's scores."""

    table: Path
    summaries: dict[str, Summary]
    """By reward."""


def score_folder(folder: Path, rewards: Sequence[Reward], *, out: Path | None = None) -> Scored:
    """Scores every image of a folder; `t2ialign score`.

    Args:
        folder: images with prompts, as `read_pictures` reads them.
        out: the table to write, `scores.jsonl` in the folder if not said.

    Raises:
        InputError, DataError: the folder cannot be read; see `read_pictures`.
    """
    pictures = read_pictures(folder)
    table = out or folder / SCORES
    scores = score_pictures(pictures, rewards, table)
    prompts = [picture.prompt for picture in pictures]
    return Scored(table, {name: summarise(values, prompts) for name, values in scores.items()})


def describe_scores(summaries: Mapping[str, Summary]) -> str:
    """A line a reward: mean, standard error, range, and how many images have no score."""
    lines = []
    for name, summary in summaries.items():
        if summary.mean is None:
            lines.append(f"{name}: none of {summary.images} images could be scored")
            continue
        error = "" if summary.standard_error is None else f" ± {summary.standard_error:.4g} (standard error)"
        lines.append(
            f"{name}: {summary.mean:.4g}{error}, {summary.low:.4g} to {summary.high:.4g}; "
            f"{summary.scored} of {summary.images} images scored, {summary.failed} failed"
        )
    return "\n".join(lines)


def check_coverage(pictures: Sequence[Picture], scores: Mapping[str, Sequence[Score]], max_failed: float) -> None:
    """Lets pass rewards that scored nearly all images.

    Raises:
        DataError: one left out more than the share `max_failed`.
    """
    for name, values in scores.items():
        failed = [picture.name for picture, value in zip(pictures, values, strict=True) if value is None]
        if len(failed) > max_failed * len(values):
            raise DataError(
                f"reward '{name}' could not score {len(failed)} of {len(values)} images "
                f"({len(failed) / len(values):.0%}, first {failed[0]}); at most {max_failed:.0%} may fail. Nothing was "
                "paired; the same call asks for the failed ones again"
            )
