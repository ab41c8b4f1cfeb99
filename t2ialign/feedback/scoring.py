"""Scores of image folders, kept as they come and never asked for twice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from t2ialign.data.images import open_image
from t2ialign.errors import DataError
from t2ialign.feedback.pictures import SCORES, Picture, read_pictures
from t2ialign.feedback.summary import ScoreSummary, summarise_scores
from t2ialign.progress import track
from t2ialign.rewards.base import PointwiseReward, Score
from t2ialign.storage.atomic import atomic_write
from t2ialign.storage.journal import Journal, format_entries, read_entries


class ScoreEntry(NamedTuple):
    """A line of a table of scores."""

    image: str
    prompt: str
    reward: str
    score: Score
    fingerprint: str
    """Of the reward."""
    digest: str
    """Of the picture and its prompt."""


def score_key(entry: ScoreEntry) -> tuple[str, str]:
    """What a score depends on: the reward, and the picture with its prompt."""
    return entry.fingerprint, entry.digest


class _SavedScores:
    """Scores of earlier calls and of this one: a finished table, and a journal until the next table is written."""

    def __init__(self, table: Path):
        self.table = table
        self.earlier = read_entries(table, ScoreEntry)
        self.journal = Journal(table.parent / f".{table.name}.journal", ScoreEntry, score_key)
        self._finished = {score_key(entry): entry for entry in self.earlier if entry.score is not None}

    def get(self, fingerprint: str, digest: str) -> Score:
        """The score, or None where there is none: not asked for, or it failed and is asked for again."""
        key = (fingerprint, digest)
        entry = self.journal.get(key) or self._finished.get(key)
        return entry.score if entry else None

    def finish(self, entries: Sequence[ScoreEntry]) -> None:
        """Writes the table and removes the journal. Scores of the same pictures by other rewards are kept."""
        rewards, pictures = {entry.reward for entry in entries}, {entry.digest for entry in entries}
        saved = dict.fromkeys((*self.earlier, *self.journal))
        others = [entry for entry in saved if entry.reward not in rewards and entry.digest in pictures]
        with atomic_write(self.table) as partial:
            partial.write_text(format_entries([*others, *entries]), encoding="utf-8")
        self.journal.remove()


def score_pictures(
    pictures: Sequence[Picture], rewards: Sequence[PointwiseReward], table: Path
) -> dict[str, list[Score]]:
    """The scores of each reward by name, also written to `table` as JSON lines, a line an image and reward.

    What the table or its journal already holds for the same picture, prompt and reward is not asked for again, except
    for failures.

    Raises:
        DataError: an image cannot be read.
        TryAgainError: the disk is full.
    """
    saved = _SavedScores(table)
    digests = [picture.digest() for picture in pictures]
    for reward in rewards:
        _score_missing(reward, pictures, digests, saved)
    scores = {reward.name: [saved.get(reward.fingerprint, digest) for digest in digests] for reward in rewards}
    saved.finish(
        [
            _entry(picture, reward, score, digest)
            for reward in rewards
            for picture, score, digest in zip(pictures, scores[reward.name], digests, strict=True)
        ]
    )
    return scores


def _entry(picture: Picture, reward: PointwiseReward, score: Score, digest: str) -> ScoreEntry:
    return ScoreEntry(picture.name, picture.prompt, reward.name, score, reward.fingerprint, digest)


def _score_missing(
    reward: PointwiseReward, pictures: Sequence[Picture], digests: Sequence[str], saved: _SavedScores
) -> None:
    """Asks the reward for what is not saved."""
    # equal pictures of one prompt are scored once
    first = {digest: i for i, digest in reversed(list(enumerate(digests)))}
    missing = sorted(i for digest, i in first.items() if saved.get(reward.fingerprint, digest) is None)
    batches = [missing[start : start + reward.batch_size] for start in range(0, len(missing), reward.batch_size)]
    for batch in track(batches, f"batches scored by {reward.name}", len(batches)):
        scores = reward([open_picture(pictures[i]) for i in batch], [pictures[i].prompt for i in batch])
        scored = [(i, score) for i, score in zip(batch, scores, strict=True) if score is not None]
        saved.journal.append([_entry(pictures[i], reward, score, digests[i]) for i, score in scored])


def open_picture(picture: Picture) -> Image.Image:
    """
    Raises:
        DataError: it is not there or cannot be read.
    """
    try:
        return open_image(picture.image)
    except DataError as error:
        raise DataError(f"{picture}: {error}; mend or remove it") from None


class Scored(NamedTuple):
    """A folder's scores."""

    table: Path
    summaries: dict[str, ScoreSummary]
    """By reward."""


def score_folder(folder: Path, rewards: Sequence[PointwiseReward], *, out: Path | None = None) -> Scored:
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
    return Scored(table, {name: summarise_scores(values, prompts) for name, values in scores.items()})


def describe_scores(summaries: Mapping[str, ScoreSummary]) -> str:
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
