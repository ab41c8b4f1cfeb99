"""A data set of images, each with a prompt that fits and one that does not: what `data: text_pairs` reads.

It can be stopped at any moment: answers go to a journal as they come and are never asked for twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, NamedTuple, get_args

from t2ialign.data.base import Example
from t2ialign.data.images import image_key
from t2ialign.data.kinds.singles import SingleData
from t2ialign.data.tables.source import TableSource
from t2ialign.errors import DataError, InputError, TryAgainError
from t2ialign.feedback.adoption import adopt, check_adoptable
from t2ialign.feedback.negative_captions.base import KINDS, Answer, Editor, Kind, Outcome
from t2ialign.feedback.pictures import Picture, numbered
from t2ialign.progress import track
from t2ialign.rng import keyed_seed
from t2ialign.storage.atomic import write_csv
from t2ialign.storage.journal import Journal
from t2ialign.storage.records import read_record, write_record

TABLE = "text_pairs.csv"
RECORD = "perturb.json"
IMAGES = "images"
JOURNAL = ".answers.journal"
COLUMNS = ("image", "prompt", "mismatched", "kind")
FAILED_IN_A_ROW = 30
"""Questions without an answer, each after all its tries, after which the server is taken to be gone."""
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)


class AnswerEntry(NamedTuple):
    """An answer as the journal keeps it."""

    prompt: str
    kind: Kind
    outcome: Outcome
    text: str
    editor: str
    """Fingerprint of who answered."""
    seed: int


AnswerKey = tuple[str, int, str, Kind]


def answer_key(entry: AnswerEntry) -> AnswerKey:
    """What an answer depends on."""
    return entry.editor, entry.seed, entry.prompt, entry.kind


class CaptionCounts(NamedTuple):
    """images = covered + left_out; asked = written + inapplicable + unchanged + near_synonym + malformed + failed, a
    question being a prompt and a kind."""

    images: int
    """Distinct images with their prompt."""
    covered: int
    """With at least one negative caption."""
    left_out: int
    rows: int
    """Of the table."""
    asked: int
    outcomes: dict[str, int]
    kinds: dict[str, int]
    """Rows of each kind."""


class Perturbed(NamedTuple):
    """A finished folder."""

    table: Path
    totals: CaptionCounts
    was_finished: bool
    """An earlier call had written it already."""


def perturb_images(
    data: Path,
    out: Path,
    editor: Editor,
    *,
    kinds: Sequence[Kind] = tuple(KINDS),
    per_image: int = 1,
    seed: int = 0,
    max_failed: float = 0.05,
) -> Perturbed:
    """Writes `out/text_pairs.csv`, `out/images` and `out/perturb.json`; `t2ialign data perturb`.

    Of a prompt the kinds are tried in an order that the seed gives it, until enough are written, so that the kinds come
    about equally often.

    Args:
        data: images with prompts, as data 'singles' reads them; of pairs the preferred images.
        editor: writes the prompts.
        kinds: which are wanted.
        per_image: negative captions of an image at most, each of another kind.
        seed: of which kind and which word.
        max_failed: share of questions that may stay without an answer.

    Raises:
        InputError: the kinds are not known and distinct, or `out` was written with other settings.
        DataError: the images cannot be read, or no prompt could be changed.
        TryAgainError: too many questions failed; the same call asks for those again.
    """
    _check(kinds, per_image)
    source = SingleData.model_validate({"name": "singles", "path": data}).open()
    source.account.warn()
    examples = _distinct(source)
    settings = {
        "editor": editor.fingerprint,
        "kinds": list(kinds),
        "per_image": per_image,
        "seed": seed,
        "data": source.fingerprint,
    }
    done = read_record(out / RECORD, settings, lambda record: CaptionCounts(**record["totals"]), whole=out / TABLE)
    if done is not None:
        return Perturbed(out / TABLE, done, was_finished=True)
    pictures = [
        numbered(example.images[0], number, prompt, example.origin)
        for number, ((prompt, _), example) in enumerate(examples.items())
    ]
    check_adoptable(pictures, out / IMAGES)
    prompts = list(dict.fromkeys(picture.prompt for picture in pictures))
    answers = _ask_all(prompts, editor, out / JOURNAL, kinds, per_image, seed)
    failures = [answer for found in answers.values() for answer in found.values() if answer.outcome == "failed"]
    asked = sum(len(found) for found in answers.values())
    if len(failures) > max_failed * asked:
        raise TryAgainError(
            f"{out}: {len(failures)} of {asked} questions have no answer, at most {max_failed:.0%} may fail; the last "
            f"said: {failures[-1].text}. Nothing was written; the same command asks for those alone"
        )
    captions = {prompt: _written(found) for prompt, found in answers.items()}
    covered = [picture for picture in pictures if captions[picture.prompt]]
    rows = list(_rows(covered, captions))
    if not rows:
        raise DataError(
            f"{data}: no negative caption could be written for any of {len(prompts)} prompts; {_reasons(answers)}"
        )
    totals = _totals(len(examples), rows, answers)
    adopt(covered, out / IMAGES)
    write_csv(out / TABLE, COLUMNS, rows)
    write_record(out / RECORD, settings, {"totals": totals._asdict()})
    return Perturbed(out / TABLE, totals, was_finished=False)


def _distinct(source: TableSource) -> dict[tuple[str, Any], Example]:
    """(prompt, key of the image) -> an example that has both."""
    examples = (source[row] for row in range(len(source)))
    return {(example.prompts[0], image_key(example.images[0], example.origin)): example for example in examples}


def _check(kinds: Sequence[str], per_image: int) -> None:
    if not kinds or len(set(kinds)) < len(kinds) or not set(kinds) <= set(KINDS):
        raise InputError(f"kinds {', '.join(kinds) or 'none'}: give each of {', '.join(KINDS)} at most once")
    if per_image < 1:
        raise InputError(f"{per_image} negative captions an image: give at least 1")


Answers = dict[str, dict[Kind, Answer]]
"""prompt -> kind -> what became of it, in the order of asking"""


def _ask_all(
    prompts: Sequence[str], editor: Editor, path: Path, kinds: Sequence[Kind], per_image: int, seed: int
) -> Answers:
    """Asks for every prompt until it has enough negative captions, several prompts at once."""
    journal = Journal(path, AnswerEntry, answer_key)

    def ask(prompt: str) -> dict[Kind, Answer]:
        found: dict[Kind, Answer] = {}
        for kind in sorted(kinds, key=lambda kind: keyed_seed(seed, "kind", prompt, kind)):
            found[kind] = _ask_once(prompt, kind, editor, journal, seed)
            written = sum(answer.outcome == "written" for answer in found.values())
            if written == per_image or found[kind].outcome == "failed":  # asked again, before any other kind
                break
        return found

    answers: Answers = {}
    in_a_row = 0
    for prompt, found in track(_in_parallel(ask, prompts, editor.concurrency), "prompts changed", len(prompts)):
        answers[prompt] = found
        last = next(reversed(found.values()))
        in_a_row = in_a_row + 1 if last.outcome == "failed" else 0
        if in_a_row == FAILED_IN_A_ROW:
            raise TryAgainError(
                f"{in_a_row} questions in a row have no answer, the last: {last.text}. What was answered is saved; "
                "look after the server, then run the same command again"
            )
    return {prompt: answers[prompt] for prompt in prompts}


def _ask_once(prompt: str, kind: Kind, editor: Editor, journal: Journal[AnswerEntry, AnswerKey], seed: int) -> Answer:
    """The saved answer, or a new one, which is saved at once: whatever fails elsewhere, it is not asked for again."""
    saved = journal.get((editor.fingerprint, seed, prompt, kind))
    if saved is not None:
        return Answer(saved.outcome, saved.text)
    answer = editor(prompt, kind, keyed_seed(seed, prompt, kind))
    if answer.outcome != "failed":
        journal.append([AnswerEntry(prompt, kind, answer.outcome, answer.text, editor.fingerprint, seed)])
    return answer


def _in_parallel(ask: Any, prompts: Sequence[str], concurrency: int) -> Iterator[tuple[str, Any]]:
    """(prompt, answer) as they come, at most so many under way; an error ends it without asking further."""
    if concurrency == 1:
        yield from ((prompt, ask(prompt)) for prompt in prompts)
        return
    with ThreadPoolExecutor(concurrency) as pool:
        waiting = iter(prompts)
        running: dict[Future, str] = {}
        while True:
            for prompt in waiting:
                running[pool.submit(ask, prompt)] = prompt
                if len(running) == concurrency:
                    break
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), future.result()


def _written(answers: Mapping[Kind, Answer]) -> dict[Kind, str]:
    return {kind: answer.text for kind, answer in answers.items() if answer.outcome == "written"}


def _rows(pictures: Sequence[Picture], captions: Mapping[str, Mapping[Kind, str]]) -> Iterator[tuple[str, ...]]:
    """The table's rows, of each picture with each caption of its prompt."""
    for picture in pictures:
        for kind, text in captions[picture.prompt].items():
            yield f"{IMAGES}/{picture.name}", picture.prompt, text, kind


def _totals(images: int, rows: Sequence[tuple[str, ...]], answers: Answers) -> CaptionCounts:
    covered = len({row[0] for row in rows})
    every = [answer.outcome for found in answers.values() for answer in found.values()]
    return CaptionCounts(
        images=images,
        covered=covered,
        left_out=images - covered,
        rows=len(rows),
        asked=len(every),
        outcomes={outcome: every.count(outcome) for outcome in OUTCOMES},
        kinds=dict(Counter(row[3] for row in rows)),
    )


def _reasons(answers: Answers) -> str:
    counts = Counter(answer.outcome for found in answers.values() for answer in found.values())
    return ", ".join(f"{count} {outcome.replace('_', ' ')}" for outcome, count in counts.items())


def describe(perturbed: Perturbed) -> str:
    """The totals in words."""
    totals = perturbed.totals
    outcomes = ", ".join(f"{totals.outcomes[name]} {name.replace('_', ' ')}" for name in OUTCOMES)
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(totals.kinds.items()))
    return "\n".join(
        (
            f"{totals.images} images: {totals.covered} with a negative caption, {totals.left_out} left out",
            f"{totals.asked} questions: {outcomes}",
            f"{totals.rows} rows ({kinds}) in {perturbed.table}"
            + (" (written before)" if perturbed.was_finished else ""),
        )
    )
