"""Pairs that a reward labels anew, with the label they had: AI feedback in the place of people's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from t2ialign.data.images import image_key
from t2ialign.data.kinds.pairs import PairData
from t2ialign.data.tables.source import TableSource
from t2ialign.errors import DataError, InputError
from t2ialign.feedback.adoption import adopt, check_adoptable
from t2ialign.feedback.build import IMAGES, PAIR_COLUMNS, PAIRS
from t2ialign.feedback.pictures import Picture, numbered
from t2ialign.feedback.scoring import SCORES, check_coverage, score_pictures
from t2ialign.feedback.summary import shared_value
from t2ialign.rewards.base import PointwiseReward, Score
from t2ialign.statistics import Proportion, wilson
from t2ialign.storage.atomic import write_csv
from t2ialign.storage.records import read_record, write_record

RECORD = "relabel.json"
COLUMNS = (*PAIR_COLUMNS, "label_kept")
"""`label_kept` is 1 where the reward prefers the image that was chosen before, 0 where it prefers the other."""


class RelabelCounts(NamedTuple):
    """rows = kept + overturned + tied + unscored; the first two are written."""

    rows: int
    kept: int
    overturned: int
    tied: int
    """Scores that differ by no more than the margin."""
    unscored: int
    """An image of the pair has no score."""


class Relabelled(NamedTuple):
    """A finished folder."""

    table: Path
    totals: RelabelCounts
    was_finished: bool
    """An earlier call had written it already."""
    scores: tuple[float, float] | None = None
    """The lowest and the highest; unknown of a folder that an earlier version wrote."""

    @property
    def agreement(self) -> Proportion | None:
        """Of the pairs with both labels, in how many they agree; None where there are none."""
        both = self.totals.kept + self.totals.overturned
        return wilson(self.totals.kept, both) if both else None


def relabel_pairs(
    pairs: Path, out: Path, reward: PointwiseReward, *, margin: float = 0.0, max_failed: float = 0.05
) -> Relabelled:
    """Writes `out/pairs.csv`, `out/images` and `out/relabel.json`; `t2ialign data relabel`.

    Args:
        pairs: a table or folder of pairs, as data 'pairs' reads it.
        reward: prefers the image of higher score.
        margin: scores that differ by no more are a tie, which is left out; at least 0.
        max_failed: share of images that may be without a score.

    Raises:
        InputError: the margin is below 0, or `out` was built otherwise.
        DataError: the pairs cannot be read, too many images failed, or the reward prefers none.
        TryAgainError: the disk is full.
    """
    if not margin >= 0:
        raise InputError(f"margin {margin}: give a number of at least 0")
    source = PairData.model_validate({"name": "pairs", "path": pairs}).open()
    source.account.warn()
    settings = {
        "reward": reward.name,
        "fingerprint": reward.fingerprint,
        "margin": margin,
        "data": source.fingerprint,
    }
    done = read_record(out / RECORD, settings, lambda record: _finished(out, record), whole=out / PAIRS)
    if done is not None:
        return done
    pictures, found = _pictures(source)
    check_adoptable(pictures, out / IMAGES)
    scores = score_pictures(pictures, [reward], out / IMAGES / SCORES)
    check_coverage(pictures, scores, max_failed)
    values = scores[reward.name]
    same = shared_value(values)
    if same is not None:
        raise DataError(f"reward '{reward.name}' gave {same:.6g} to all {len(values)} images, so it prefers none")
    totals = _totals(found, values, margin)
    decided = list(_decided(found, values, margin))
    adopt(
        [pictures[number] for number in sorted({n for pair in decided for n in (pair.chosen, pair.rejected)})],
        out / IMAGES,
    )
    write_csv(out / PAIRS, COLUMNS, (_row(pair, pictures, values) for pair in decided))
    known = [value for value in values if value is not None]
    span = (min(known), max(known))
    write_record(out / RECORD, settings, {"totals": totals._asdict(), "scores": span})
    return Relabelled(out / PAIRS, totals, was_finished=False, scores=span)


def _finished(out: Path, record: Mapping[str, Any]) -> Relabelled:
    span = tuple(record["scores"]) if "scores" in record else None
    return Relabelled(out / PAIRS, RelabelCounts(**record["totals"]), was_finished=True, scores=span)


_Compared = tuple[int, int]
"""Numbers of the image chosen before and of the other."""


def _pictures(source: TableSource) -> tuple[list[Picture], list[_Compared]]:
    """Each image under each of its prompts once, and which of them every pair compares."""
    numbers: dict[tuple[str, Any], int] = {}
    pictures: list[Picture] = []
    compared: list[_Compared] = []
    for example in (source[row] for row in range(len(source))):
        prompt = example.prompts[0]
        keys = [(prompt, image_key(image, example.origin)) for image in example.images]
        for key, image in zip(keys, example.images, strict=True):
            if key not in numbers:
                numbers[key] = len(pictures)
                pictures.append(numbered(image, numbers[key], prompt, example.origin))
        before, other = (numbers[key] for key in keys)
        compared.append((before, other))
    return pictures, compared


def _margin(numbers: _Compared, scores: Sequence[Score]) -> float | None:
    """Score of the image chosen before minus the other's, or None where one has none."""
    before, other = (scores[number] for number in numbers)
    return None if before is None or other is None else before - other


def _totals(rows: Sequence[_Compared], scores: Sequence[Score], margin: float) -> RelabelCounts:
    margins = [_margin(row, scores) for row in rows]
    known = [found for found in margins if found is not None]
    kept, overturned = sum(found > margin for found in known), sum(found < -margin for found in known)
    return RelabelCounts(len(rows), kept, overturned, len(known) - kept - overturned, len(rows) - len(known))


class _Decided(NamedTuple):
    """A pair with its new label."""

    chosen: int
    rejected: int
    margin: float
    kept: bool
    """Its label before was the same."""


def _decided(rows: Sequence[_Compared], scores: Sequence[Score], margin: float) -> Iterator[_Decided]:
    for before, other in rows:
        found = _margin((before, other), scores)
        if found is not None and found > margin:
            yield _Decided(before, other, found, kept=True)
        elif found is not None and found < -margin:
            yield _Decided(other, before, -found, kept=False)


def _row(pair: _Decided, pictures: Sequence[Picture], scores: Sequence[Score]) -> tuple:
    chosen, rejected = pictures[pair.chosen], pictures[pair.rejected]
    names = (f"{IMAGES}/{chosen.name}", f"{IMAGES}/{rejected.name}")
    return (chosen.prompt, *names, scores[pair.chosen], scores[pair.rejected], pair.margin, int(pair.kept))


def describe(relabelled: Relabelled) -> str:
    """The totals in words."""
    totals, agreement = relabelled.totals, relabelled.agreement
    share = ""
    if agreement is not None:
        share = f"; the labels agree in {agreement.mean:.1%} ({agreement.low:.1%} to {agreement.high:.1%})"
    return "\n".join(
        (
            f"{totals.rows} pairs: {totals.kept} labels kept, {totals.overturned} overturned, {totals.tied} tied, "
            f"{totals.unscored} without a score{share}",
            f"{totals.kept + totals.overturned} pairs in {relabelled.table}"
            + (" (written before)" if relabelled.was_finished else ""),
            *_span_words(relabelled.scores),
        )
    )


def _span_words(scores: tuple[float, float] | None) -> list[str]:
    if scores is None:
        return []
    low, high = scores
    key = f"objective.score_weight.score_range={high - low:.6g}"
    return [f"scores from {low:.6g} to {high:.6g}; for smoothed labels: {key}"]
