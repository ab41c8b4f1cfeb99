"""Preference pairs built from a model or a folder of images, and rewards."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from t2ialign.config.generation import GenerationConfig
from t2ialign.errors import DataError, InputError
from t2ialign.feedback.adoption import adopt, check_adoptable
from t2ialign.feedback.pairing import Pair, Pairing, PairingCounts, combine, pair_up
from t2ialign.feedback.pictures import Picture, read_pictures
from t2ialign.feedback.scoring import SCORES, check_coverage, score_pictures
from t2ialign.feedback.summary import ScoreSummary, summarise_scores
from t2ialign.generation.folder import generate_folder
from t2ialign.policy import Policy
from t2ialign.rewards.base import PointwiseReward, Score, require_distinct
from t2ialign.storage.atomic import write_csv
from t2ialign.storage.records import read_record, write_record
from t2ialign.types import Weights

PAIRS = "pairs.csv"
IMAGES = "images"
BUILD = "build.json"
RANKED = Path("ranked") / "ranked.csv"
"""Beside the pairs, in a folder of its own: a folder with two tables would not say which is meant."""
RANKED_COLUMNS = ("image", "prompt", "score", "rank")
PAIR_COLUMNS = ("prompt", "chosen", "rejected", "score_chosen", "score_rejected", "margin")


class Built(NamedTuple):
    """A folder of pairs."""

    table: Path
    totals: PairingCounts
    summaries: dict[str, ScoreSummary]
    """By reward."""
    was_finished: bool
    """An earlier call had built it already."""


def build_pairs(
    out: Path,
    rewards: Sequence[PointwiseReward],
    pairing: Pairing,
    *,
    images: Path,
    seed: int = 0,
    max_failed: float = 0.05,
    not_made: Collection[str] = (),
) -> Built:
    """Writes `out/images`, `out/pairs.csv` and `out/build.json` from a folder of images with prompts.

    Args:
        rewards: what scores the images; several are combined as `combine` says.
        images: several images a prompt, as `read_pictures` reads them; `out/images` itself, or any other folder, whose
            images are linked or copied.
        seed: orders images of equal score.
        max_failed: share of images that may be without a score.
        not_made: names of images that the folder's record lists and that could not be made: failures without a score.

    Raises:
        InputError: `out` was built otherwise or holds other images, or the rewards are not distinct.
        DataError: images cannot be read, too many failed, or no pair is left.
        TryAgainError: the disk is full.
    """
    require_distinct(rewards)
    pictures = read_pictures(images, not_made=not_made)
    made = [picture for picture in pictures if picture.name not in not_made]
    settings = _settings(rewards, pairing, seed, made)
    done = _finished(out, settings)
    if done is not None:
        return done
    elsewhere = images.resolve() != (out / IMAGES).resolve()
    if elsewhere:
        check_adoptable(made, out / IMAGES)
    scored = score_pictures(made, rewards, out / IMAGES / SCORES)
    scores = {name: _with_failures(values, pictures, not_made) for name, values in scored.items()}
    prompts = [picture.prompt for picture in pictures]
    summaries = {name: summarise_scores(values, prompts) for name, values in scores.items()}
    check_coverage(pictures, scores, max_failed)
    combined = combine(scores, {reward.name: reward.weight for reward in rewards})
    pairs, totals = pair_up(prompts, combined, pairing, seed)
    _check_pairs(totals, pairing, prompts)
    if elsewhere:
        adopt(made, out / IMAGES)
    _write_pairs(out / PAIRS, pairs, pictures, combined, flips=pairing.flip > 0)
    if pairing.keep == "all":
        _write_ranked(out / RANKED, pictures, combined)
    rewards_found = {name: summary._asdict() for name, summary in summaries.items()}
    failures = {"not_made": sorted(not_made)} if not_made else {}
    write_record(out / BUILD, settings, {"totals": totals._asdict(), "rewards": rewards_found, **failures})
    return Built(out / PAIRS, totals, summaries, was_finished=False)


def generate_pairs(
    out: Path,
    policy: Policy,
    prompts: Sequence[str],
    rewards: Sequence[PointwiseReward],
    pairing: Pairing,
    settings: GenerationConfig,
    *,
    weights: Weights = "policy",
    negative: Weights | None = None,
    description: Mapping[str, Any],
    max_failed: float = 0.05,
) -> Built:
    """Makes several images a prompt in `out/images` and builds pairs of them; `t2ialign data build`.

    A prompt that is given twice counts once. The arguments are those of `generate_folder` and `build_pairs`.

    Raises:
        InputError: fewer than two images a prompt; else see the two functions.
    """
    if settings.images_per_prompt < 2:
        raise InputError(f"images_per_prompt {settings.images_per_prompt}: a pair needs at least 2 images of a prompt")
    made = generate_folder(
        policy,
        list(dict.fromkeys(prompts)),
        out / IMAGES,
        settings,
        weights=weights,
        negative=negative,
        description=description,
        max_failed=max_failed,
    )
    return build_pairs(
        out,
        rewards,
        pairing,
        images=out / IMAGES,
        seed=settings.seed,
        max_failed=max_failed,
        not_made=made.not_made,
    )


def describe_build(built: Built) -> str:
    """The totals in words."""
    totals = built.totals
    return "\n".join(
        (
            f"{totals.images} images: {totals.scored} scored, {totals.failed} failed",
            f"{totals.prompts} prompts: {totals.paired} with pairs, {totals.tied} only tied, "
            f"{totals.unscored} with fewer than two scored images",
            f"{totals.comparisons} comparisons: {totals.decided} decided, {totals.ties} tied",
            f"{totals.pairs} pairs in {built.table}"
            + (f", {totals.flipped} with their label flipped" if totals.flipped else "")
            + (" (built before)" if built.was_finished else ""),
        )
    )


def _settings(
    rewards: Sequence[PointwiseReward], pairing: Pairing, seed: int, pictures: Sequence[Picture]
) -> dict[str, Any]:
    """Everything that decides the pairs; equal settings give equal files."""
    inputs = hashlib.blake2b("".join(picture.digest() for picture in pictures).encode(), digest_size=16)
    return {
        "rewards": [
            {"name": reward.name, "weight": reward.weight, "fingerprint": reward.fingerprint} for reward in rewards
        ],
        **{key: value for key, value in asdict(pairing).items() if key != "flip" or value},
        "seed": seed,
        "images": inputs.hexdigest(),
    }


def _finished(out: Path, settings: Mapping[str, Any]) -> Built | None:
    """What an earlier call built here with the same settings, if it came to its end."""

    def read(record: Mapping[str, Any]) -> Built:
        summaries = {name: ScoreSummary(**summary) for name, summary in record["rewards"].items()}
        return Built(out / PAIRS, PairingCounts(**record["totals"]), summaries, was_finished=True)

    return read_record(out / BUILD, settings, read, whole=out / PAIRS)


def _with_failures(scores: Sequence[Score], pictures: Sequence[Picture], not_made: Collection[str]) -> list[Score]:
    """Scores of all pictures, where `scores` are those of the ones that were made."""
    known = iter(scores)
    return [None if picture.name in not_made else next(known) for picture in pictures]


def _check_pairs(totals: PairingCounts, pairing: Pairing, prompts: Sequence[str]) -> None:
    if totals.pairs:
        return
    if len(set(prompts)) == len(prompts):
        raise DataError(f"no pairs: each of {totals.prompts} prompts has one image; a pair needs two of one prompt")
    raise DataError(
        f"no pairs: of {totals.prompts} prompts {totals.tied} are tied (scores differ by no more than margin "
        f"{pairing.margin:g}) and {totals.unscored} have fewer than two scored images; lower the margin, keep ties, or "
        "make more images a prompt"
    )


def _write_pairs(
    path: Path, pairs: Sequence[Pair], pictures: Sequence[Picture], scores: Sequence[Score], *, flips: bool
) -> None:
    rows = _pair_rows(pairs, pictures, scores)
    if flips:
        rows = ((*row, int(pair.flipped)) for row, pair in zip(rows, pairs, strict=True))
    write_csv(path, (*PAIR_COLUMNS, "flipped") if flips else PAIR_COLUMNS, rows)


def _pair_rows(pairs: Sequence[Pair], pictures: Sequence[Picture], scores: Sequence[Score]) -> Iterator[tuple]:
    for pair in pairs:
        chosen, rejected = pictures[pair.chosen], pictures[pair.rejected]
        paths = (f"{IMAGES}/{chosen.name}", f"{IMAGES}/{rejected.name}")
        yield (chosen.prompt, *paths, scores[pair.chosen], scores[pair.rejected], pair.margin)


def _write_ranked(path: Path, pictures: Sequence[Picture], scores: Sequence[Score]) -> None:
    """Every scored image of a prompt that has at least two, the best first: what data 'lists' reads."""
    groups: dict[str, list[tuple[float, str]]] = {}
    for picture, score in zip(pictures, scores, strict=True):
        if score is not None:
            groups.setdefault(picture.prompt, []).append((score, picture.name))
    rows = (
        (f"../{IMAGES}/{name}", prompt, score, rank)
        for prompt, members in groups.items()
        if len(members) > 1
        for rank, (score, name) in enumerate(sorted(members, key=lambda member: -member[0]), start=1)
    )
    write_csv(path, RANKED_COLUMNS, rows)
