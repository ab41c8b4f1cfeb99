"""Scores of image folders, and preference pairs built from them.

Everything can be stopped at any moment: scores go to a journal as they come and are never asked for twice, tables
appear whole or not at all, and the same call goes on from what is there.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from PIL import Image

from t2ialign.data.folders import read_captioned
from t2ialign.data.images import open_image
from t2ialign.data.pairs import SingleData
from t2ialign.draws import keyed_seed
from t2ialign.errors import DataError, InputError
from t2ialign.files import append_lines, cut_torn_line, link_or_copy, whole_file, write_csv
from t2ialign.generate import RECORD, generate_folder
from t2ialign.policy import Policy
from t2ialign.progress import track
from t2ialign.records import read_record, write_record
from t2ialign.rewards.base import Reward, Score, Summary, Weighted, constant, summarise
from t2ialign.rollout import Guidance

SCORES = "scores.jsonl"
PAIRS = "pairs.csv"
BUILD = "build.json"
RANKED = Path("ranked") / "ranked.csv"
"""Beside the pairs, in a folder of its own: a folder with two tables would not say which is meant."""
RANKED_COLUMNS = ("image", "prompt", "score", "rank")
PAIR_COLUMNS = ("prompt", "chosen", "rejected", "score_chosen", "score_rejected", "margin")
SCORE_COLUMNS = ("image", "prompt", "reward", "score", "fingerprint", "digest")


class Picture(NamedTuple):
    """An image and what it was made from."""

    name: str
    """How tables name it: its path inside its folder."""
    path: Path
    prompt: str

    def digest(self) -> str:
        """Changes with the image's bytes and with the prompt."""
        return hashlib.blake2b(self.path.read_bytes() + b"\0" + self.prompt.encode(), digest_size=16).hexdigest()


def read_pictures(folder: Path) -> list[Picture]:
    """The images of a folder with their prompts, in the order of their record.

    Prompts come from `generation.json`, from a single table with an image and a prompt column, or from a text file
    beside each image.

    Raises:
        InputError: no such folder, or it says nothing of its prompts.
        DataError: no images, or images or prompts are missing.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder of images")
    if (folder / RECORD).is_file():
        pictures = _from_record(folder)
    else:
        tables = [path for kind in ("csv", "tsv", "jsonl") for path in folder.glob(f"*.{kind}") if path.name != SCORES]
        if len(tables) > 1:
            names = ", ".join(sorted(path.name for path in tables))
            raise InputError(f"{folder}: several tables ({names}); keep the one that holds the prompts")
        pictures = _from_table(folder, tables[0]) if tables else _from_captions(folder)
    if not pictures:
        raise DataError(f"{folder}: no images")
    missing = [picture.path for picture in pictures if not picture.path.is_file()]
    if missing:
        raise DataError(f"{folder}: {len(missing)} of {len(pictures)} images are missing, the first {missing[0]}")
    return pictures


def _from_record(folder: Path) -> list[Picture]:
    path = folder / RECORD
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["images"]
        return [Picture(row["file"], folder / row["file"], row["prompt"]) for row in rows]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not a record of generated images ({error!r}); generate the folder again") from None


def _from_table(folder: Path, table: Path) -> list[Picture]:
    source = SingleData.model_validate({"name": "singles", "path": table}).open()
    pictures = []
    for index in range(len(source)):
        example = source[index]
        image = example.images[0]
        if not isinstance(image, Path):
            raise DataError(f"{example.origin}: the table holds image bytes; name files instead")
        inside = image.resolve().is_relative_to(folder.resolve())
        name = image.resolve().relative_to(folder.resolve()).as_posix() if inside else f"{index}_{image.name}"
        pictures.append(Picture(name, image, example.prompts[0]))
    return pictures


def _from_captions(folder: Path) -> list[Picture]:
    rows = read_captioned(folder).rows
    without = [Path(row.cells["image"]).name for row in rows if not row.cells["prompt"]]
    if rows and len(without) == len(rows):
        raise InputError(
            f"{folder}: nothing says which prompt belongs to which image; give {RECORD}, a CSV with the columns "
            f"image,prompt, or a text file beside each image ({Path(without[0]).stem}.txt)"
        )
    if without:
        raise DataError(f"{folder}: {len(without)} of {len(rows)} images have no text file; first {without[0]}")
    paths = [Path(row.cells["image"]) for row in rows]
    return [Picture(path.name, path, row.cells["prompt"]) for path, row in zip(paths, rows, strict=True)]


Row = dict[str, Any]
"""A line of a table of scores: image, prompt, reward, score, and the fingerprints of reward and picture."""


class _Journal:
    """Scores of pictures, kept on disk as they come. A line torn by a kill is cut off."""

    def __init__(self, table: Path):
        self.table = table
        self.path = table.parent / f".{table.name}.journal"
        cut_torn_line(self.path)
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
        with whole_file(self.table) as partial:
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


@dataclass(frozen=True)
class Pairing:
    """Which images of a prompt become a pair.

    Two images are a tie if their scores differ by no more than `margin`.
    """

    keep: Literal["best_worst", "all"] = "best_worst"
    """The best against the worst image of a prompt, or every two."""
    margin: float = 0.0
    """At least 0, in units of the score."""
    ties: Literal["drop", "keep"] = "drop"
    """Whether ties are written too; among equal scores chance, fixed by the seed, says which is called chosen."""
    flip: float = 0.0
    """Share of pairs whose label is turned around, for studies of label noise; which, the seed and the row say."""

    def __post_init__(self):
        if self.keep not in ("best_worst", "all") or self.ties not in ("drop", "keep"):
            raise InputError(f"keep '{self.keep}', ties '{self.ties}': keep is best_worst or all, ties is drop or keep")
        if not self.margin >= 0:
            raise InputError(f"margin {self.margin}: give a number of at least 0")
        if not 0 <= self.flip < 1:
            raise InputError(f"flip {self.flip}: give a share of at least 0 and below 1")
        if self.keep == "all" and self.flip:
            raise InputError(
                f"keep all, flip {self.flip:g}: the ranking written beside the pairs has no labels to turn around; "
                "use keep best_worst, or flip 0"
            )


class Pair(NamedTuple):
    """Two images of a prompt, by position."""

    chosen: int
    rejected: int
    margin: float
    """Score of the chosen minus score of the rejected, at least 0; of a flipped pair at most 0."""
    flipped: bool = False
    """The label was turned around on purpose."""


def compare(members: Sequence[int], scores: Sequence[Score], keep: str, seed: int) -> list[Pair]:
    """The comparisons among one prompt's images, ties included, chosen before rejected; failed images take no part.

    Args:
        members: positions of the prompt's images in `scores`.
        seed: orders images of equal score.
    """
    ranked = sorted(
        ((score, keyed_seed(seed, "tie", i), i) for i in members if (score := scores[i]) is not None),
        key=lambda entry: (-entry[0], entry[1]),
    )
    if len(ranked) < 2:
        return []
    twos = [(ranked[0], ranked[-1])] if keep == "best_worst" else itertools.combinations(ranked, 2)
    return [Pair(better[2], worse[2], better[0] - worse[0]) for better, worse in twos]


def combine(scores: Mapping[str, Sequence[Score]], weights: Mapping[str, float]) -> list[Score]:
    """One score an image: the weighted reward, or the weighted sum of several in standard deviations.

    Scales of rewards cannot be compared, so with two or more each is first brought to mean 0 and standard deviation 1
    over all images. An image that any of them could not score has none.

    Raises:
        DataError: a reward gave all images the same score.
    """
    for name, values in scores.items():
        same = constant(values)
        if same is not None:
            raise DataError(
                f"reward '{name}' gave {same:.6g} to all {sum(v is not None for v in values)} images, so it prefers "
                "none. Usually an exception is swallowed inside it, or its weights are not loaded"
            )
    if len(scores) == 1:
        ((name, values),) = scores.items()
        return [None if value is None else weights[name] * value for value in values]
    standard = {name: _standardised(values) for name, values in scores.items()}
    rows = zip(*([None if v is None else weights[name] * v for v in standard[name]] for name in scores), strict=True)
    return [None if None in row else float(sum(row)) for row in rows]


def _standardised(values: Sequence[Score]) -> list[Score]:
    known = [value for value in values if value is not None]
    if not known:
        return list(values)
    mean, spread = statistics.fmean(known), statistics.pstdev(known) or 1.0
    return [None if value is None else (value - mean) / spread for value in values]


class Totals(NamedTuple):
    """What became of everything. images = scored + failed; prompts = paired + tied + unscored;
    comparisons = decided + ties; pairs = decided, plus ties if they are kept."""

    images: int
    scored: int
    failed: int
    prompts: int
    paired: int
    tied: int
    """Prompts whose comparisons were all dropped as ties."""
    unscored: int
    """Prompts with fewer than two scored images."""
    comparisons: int
    decided: int
    ties: int
    pairs: int
    flipped: int = 0
    """Of the pairs."""


class Built(NamedTuple):
    """A folder of pairs."""

    table: Path
    totals: Totals
    summaries: dict[str, Summary]
    """By reward."""
    was_finished: bool
    """An earlier call had built it already."""


def build_pairs(
    out: Path,
    rewards: Sequence[Weighted],
    pairing: Pairing,
    *,
    images: Path,
    seed: int = 0,
    max_failed: float = 0.05,
) -> Built:
    """Writes `out/images`, `out/pairs.csv` and `out/build.json` from a folder of images with prompts.

    Args:
        rewards: what scores the images; several are combined as `combine` says.
        images: several images a prompt, as `read_pictures` reads them; `out/images` itself, or any other folder, whose
            images are linked or copied.
        seed: orders images of equal score.
        max_failed: share of images that may be without a score.

    Raises:
        InputError: `out` was built otherwise, or the rewards are not distinct.
        DataError: images cannot be read, too many failed, or no pair is left.
        TryAgainError: the disk is full.
    """
    names = [weighted.reward.name for weighted in rewards]
    if not names or len(set(names)) < len(names):
        raise InputError(f"rewards {', '.join(names) or 'none'}: name at least one, and each once")
    pictures = read_pictures(images)
    settings = _settings(rewards, pairing, seed, pictures)
    done = _finished(out, settings)
    if done is not None:
        return done
    if images.resolve() != (out / "images").resolve():
        pictures = _adopt(pictures, out / "images")
    loaded = [weighted.reward for weighted in rewards]
    scores = score_pictures(pictures, loaded, out / "images" / SCORES)
    prompts = [picture.prompt for picture in pictures]
    summaries = {name: summarise(values, prompts) for name, values in scores.items()}
    check_coverage(pictures, scores, max_failed)
    combined = combine(scores, {weighted.reward.name: weighted.weight for weighted in rewards})
    pairs, totals = pair_up(prompts, combined, pairing, seed)
    _check_pairs(totals, pairing, prompts)
    _write_pairs(out / PAIRS, pairs, pictures, combined, flips=pairing.flip > 0)
    if pairing.keep == "all":
        _write_ranked(out / RANKED, pictures, combined)
    rewards_found = {name: summary._asdict() for name, summary in summaries.items()}
    write_record(out / BUILD, settings, {"totals": totals._asdict(), "rewards": rewards_found})
    return Built(out / PAIRS, totals, summaries, was_finished=False)


def generate_pairs(
    out: Path,
    policy: Policy,
    prompts: Sequence[str],
    rewards: Sequence[Weighted],
    pairing: Pairing,
    *,
    images_per_prompt: int,
    seed: int,
    guidance: Guidance,
    steps: int,
    resolution: int | None,
    batch: int,
    description: Mapping[str, Any],
    max_failed: float = 0.05,
) -> Built:
    """Makes several images a prompt in `out/images` and builds pairs of them; `t2ialign data build`.

    A prompt that is given twice counts once. The arguments are those of `generate_folder` and `build_pairs`.

    Raises:
        InputError: fewer than two images a prompt; else see the two functions.
    """
    if images_per_prompt < 2:
        raise InputError(f"images_per_prompt {images_per_prompt}: a pair needs at least 2 images of a prompt")
    generate_folder(
        policy,
        list(dict.fromkeys(prompts)),
        out / "images",
        images_per_prompt=images_per_prompt,
        seed=seed,
        guidance=guidance,
        steps=steps,
        resolution=resolution,
        batch=batch,
        description=description,
    )
    return build_pairs(out, rewards, pairing, images=out / "images", seed=seed, max_failed=max_failed)


def pair_up(prompts: Sequence[str], scores: Sequence[Score], pairing: Pairing, seed: int) -> tuple[list[Pair], Totals]:
    """The pairs of all prompts, in the order of the prompts, and what became of the rest."""
    groups: dict[str, list[int]] = {}
    for position, prompt in enumerate(prompts):
        groups.setdefault(prompt, []).append(position)
    pairs: list[Pair] = []
    comparisons = decided = paired = unscored = 0
    for members in groups.values():
        compared = compare(members, scores, pairing.keep, seed)
        clear = [pair for pair in compared if pair.margin > pairing.margin]
        kept = compared if pairing.ties == "keep" else clear
        pairs += kept
        comparisons += len(compared)
        decided += len(clear)
        paired += bool(kept)
        unscored += not compared
    pairs = [_flipped(pair, row, pairing.flip, seed) for row, pair in enumerate(pairs)]
    scored = sum(score is not None for score in scores)
    return pairs, Totals(
        images=len(prompts),
        scored=scored,
        failed=len(prompts) - scored,
        prompts=len(groups),
        paired=paired,
        tied=len(groups) - paired - unscored,
        unscored=unscored,
        comparisons=comparisons,
        decided=decided,
        ties=comparisons - decided,
        pairs=len(pairs),
        flipped=sum(pair.flipped for pair in pairs),
    )


def _flipped(pair: Pair, row: int, share: float, seed: int) -> Pair:
    """The pair, turned around if chance says so, whatever the other rows are."""
    if keyed_seed(seed, "flip", row) / 2**63 >= share:
        return pair
    return Pair(pair.rejected, pair.chosen, -pair.margin, flipped=True)


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


def _settings(rewards: Sequence[Weighted], pairing: Pairing, seed: int, pictures: Sequence[Picture]) -> dict[str, Any]:
    """Everything that decides the pairs; equal settings give equal files."""
    inputs = hashlib.blake2b("".join(picture.digest() for picture in pictures).encode(), digest_size=16)
    return {
        "rewards": [
            {"name": reward.name, "weight": weight, "fingerprint": reward.fingerprint} for reward, weight in rewards
        ],
        **{key: value for key, value in asdict(pairing).items() if key != "flip" or value},
        "seed": seed,
        "images": inputs.hexdigest(),
    }


def _finished(out: Path, settings: Mapping[str, Any]) -> Built | None:
    """What an earlier call built here with the same settings, if it came to its end."""

    def read(record: Mapping[str, Any]) -> Built:
        summaries = {name: Summary(**summary) for name, summary in record["rewards"].items()}
        return Built(out / PAIRS, Totals(**record["totals"]), summaries, was_finished=True)

    return read_record(out / BUILD, settings, read, whole=out / PAIRS)


def _adopt(pictures: Sequence[Picture], folder: Path) -> list[Picture]:
    """The same pictures in `folder`, as links where the file system allows, else as copies."""
    adopted = []
    for picture in pictures:
        here = picture._replace(path=folder / picture.name)
        if not (here.path.is_file() and here.digest() == picture.digest()):
            link_or_copy(picture.path, here.path)
        adopted.append(here)
    return adopted


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


def _check_pairs(totals: Totals, pairing: Pairing, prompts: Sequence[str]) -> None:
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
        paths = (f"images/{chosen.name}", f"images/{rejected.name}")
        yield (chosen.prompt, *paths, scores[pair.chosen], scores[pair.rejected], pair.margin)


def _write_ranked(path: Path, pictures: Sequence[Picture], scores: Sequence[Score]) -> None:
    """Every scored image of a prompt that has at least two, the best first: what data 'lists' reads."""
    groups: dict[str, list[tuple[float, str]]] = {}
    for picture, score in zip(pictures, scores, strict=True):
        if score is not None:
            groups.setdefault(picture.prompt, []).append((score, picture.name))
    rows = (
        (f"../images/{name}", prompt, score, rank)
        for prompt, members in groups.items()
        if len(members) > 1
        for rank, (score, name) in enumerate(sorted(members, key=lambda member: -member[0]), start=1)
    )
    write_csv(path, RANKED_COLUMNS, rows)
