"""The result files of the official script: reading, counting by its rules, and writing files that it reads.

Its CSV has a row per image with Python and JSON texts in its cells; its JSON has pooled counts and no overall score.
"""

from __future__ import annotations

import ast
import csv
import io
import json
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from unigenbench.errors import DataError, InputError
from unigenbench.judges.base import judge_id
from unigenbench.prompts import prompt_sha256
from unigenbench.protocol.parsing import ParseFailure, parse
from unigenbench.runs.store import MANIFEST, SCHEMA_VERSION, RunStore, atomic_write, open_log
from unigenbench.scoring.leaderboard import BOARD_IMAGES_PER_PROMPT, against_board
from unigenbench.scoring.verdicts import Cell, Mark, check_log
from unigenbench.taxonomy import criterion_of
from unigenbench.types import Judgement, Prompt, PromptSet, RunLog

COLUMNS = ("index", "prompt", "testpoint", "output", "result_json", "img_path")
FOLDER = "official"
"""In a run folder: the files of an import or an export."""
_NOT_LITERAL = (ValueError, SyntaxError, TypeError, MemoryError, RecursionError)
"""What `ast.literal_eval` raises on a text that is no literal."""
_IMAGE = re.compile(r"(\d+)[_.](\d+)\.\w+$")


@dataclass(frozen=True)
class Row:
    """One row of the CSV: one image, judged or given up."""

    line: int
    """1-based, where the row begins; 0 for a row not read from a file"""
    index: int
    image: int
    """from the file name of `img_path`, else by order"""
    prompt: str
    testpoint: str
    """a Python list of labels"""
    output: str
    """the judge's last reply"""
    result_json: str
    """JSON with the key "score", or "null" for a judgement that failed"""
    img_path: str


class Count(NamedTuple):
    """Test points met, of how many."""

    correct: int
    total: int


class OfficialScores(NamedTuple):
    """What the official script works out from its CSV."""

    primary: dict[str, Count]
    """in order of appearance; composite names of English files end in a space, as the script does not strip them"""
    sub: dict[str, Count]
    """by the alphabet; criteria that stand alone are in both"""
    rows: int
    skipped: int
    """rows that count for nothing"""

    def as_json(self) -> dict[str, dict[str, dict[str, float]]]:
        """The content of the script's JSON file."""
        return {
            "primary_dimensions": {name: _as_entry(count) for name, count in self.primary.items()},
            "sub_dimensions": {name: _as_entry(count) for name, count in self.sub.items()},
        }


def _as_entry(count: Count) -> dict[str, float]:
    return {"correct": count.correct, "total": count.total, "accuracy": round(count.correct / count.total, 4)}


def read_rows(path: Path) -> list[Row]:
    """The rows of an official CSV.

    Raises:
        InputError: the file cannot be read.
        DataError: it is no such CSV, or an image is there twice.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    reader = csv.reader(io.StringIO(text, newline=""))
    try:
        rows = list(_rows(path, reader))
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: {error}") from error
    seen: dict[tuple[int, int], int] = {}
    for row in rows:
        place = row.index, row.image
        if place in seen:
            raise DataError(
                f"{path}:{row.line}: image {row.image} of prompt {row.index} is that of line {seen[place]} too; "
                "keep one of the two rows"
            )
        seen[place] = row.line
    return rows


def _rows(path: Path, reader: Any) -> Iterator[Row]:
    header = next(reader, [])
    missing = [column for column in COLUMNS if column not in header]
    if missing:
        raise DataError(f"{path}:1: no column '{missing[0]}'; columns are {', '.join(header) or 'none'}")
    seen: Counter[int] = Counter()
    begins = reader.line_num + 1
    for cells in reader:
        if len(cells) != len(header):
            raise DataError(f"{path}:{begins}: {len(cells)} cells, the header has {len(header)}")
        named = dict(zip(header, cells, strict=True))
        if not re.fullmatch(r"\s*\d+(\.0)?\s*", named["index"]):
            raise DataError(f"{path}:{begins}: index: '{named['index']}' is no number of a prompt")
        index = int(float(named["index"]))
        found = _IMAGE.search(named["img_path"])
        image = int(found[2]) if found and int(found[1]) == index else seen[index]
        seen[index] += 1
        yield Row(begins, index, image, *(named[column] for column in COLUMNS[1:]))
        begins = reader.line_num + 1


def labels_of(row: Row) -> list[str]:
    """The labels of a row's test points.

    Raises:
        DataError: they are no list of strings.
    """
    try:
        labels = ast.literal_eval(row.testpoint)
    except _NOT_LITERAL:
        labels = None
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise DataError(f"row {row.line}, prompt {row.index}: testpoint: {row.testpoint[:80]!r} is no list of labels")
    return labels


def counted(row: Row) -> list[tuple[str, bool]] | None:
    """(label, met) of each test point that the official script counts in a row; None where it skips the row.

    It reads the JSON as Python, so that a row with true, false or null anywhere is skipped; it pairs labels with scores
    until the shorter ends, and a score is met if it equals 1: 1.0 does; "1", 0.5 and 2 do not.

    Raises:
        DataError: the labels are no list.
    """
    labels = labels_of(row)
    try:
        scores = ast.literal_eval(row.result_json)["score"]
        return [(label, bool(score == 1)) for label, score in zip(labels, scores, strict=False)]
    except (*_NOT_LITERAL, KeyError):
        return None


def count(rows: Iterable[Row]) -> OfficialScores:
    """Pools rows by the official rules.

    Raises:
        DataError: as `counted`.
    """
    primary: dict[str, list[int]] = {}
    sub: dict[str, list[int]] = {}
    seen = skipped = 0
    for row in rows:
        seen += 1
        pairs = counted(row)
        skipped += pairs is None
        for label, met in pairs or ():
            for counts, name in ((primary, label.split("-", 1)[0]), (sub, label)):
                entry = counts.setdefault(name, [0, 0])
                entry[0] += met
                entry[1] += 1
    return OfficialScores(
        {name: Count(*entry) for name, entry in primary.items()},
        {name: Count(*sub[name]) for name in sorted(sub)},
        seen,
        skipped,
    )


def rows_of(log: RunLog) -> list[Row]:
    """The rows that the official script would have of a run: the imported file's, else made from the judgements."""
    imported = log.manifest.get("imported")
    if imported:
        return read_rows(log.path / imported["file"])
    return export_rows(log)


def official_marks(log: RunLog) -> dict[Cell, Mark]:
    """What the official script counts of each image.

    Raises:
        DataError: a row fits no prompt of the run.
        InputError: a label is no criterion's.
    """
    known = {prompt.index for prompt in log.prompts.prompts}
    marks = {}
    seen: Counter[tuple[int, int]] = Counter()
    for row in rows_of(log):
        if row.index not in known:
            raise DataError(f"{log.path}: row {row.line}: the run's prompts have no index {row.index}")
        pairs = counted(row)
        if pairs is not None:
            criteria = tuple(criterion_of(label).id for label, _ in pairs)
            cell = Cell(row.index, row.image, seen[row.index, row.image])
            marks[cell] = Mark(criteria, tuple(met for _, met in pairs))
        seen[row.index, row.image] += 1
    return marks


def export_rows(log: RunLog) -> list[Row]:
    """One row per judged or failed image, in the order of the prompts.

    Raises:
        DataError: the log does not fit its prompts.
    """
    check_log(log)
    prompts = {prompt.index: (place, prompt) for place, prompt in enumerate(log.prompts.prompts)}
    ordered = sorted(log.judgements, key=lambda judgement: (prompts[judgement.prompt_index][0], judgement.image_index))
    return [_export_row(log, prompts[judgement.prompt_index][1], judgement) for judgement in ordered]


def _export_row(log: RunLog, prompt: Prompt, judgement: Judgement) -> Row:
    labels = [point.label for point in prompt.points]
    analyses = list(judgement.analyses) if len(judgement.analyses) == len(labels) else [""] * len(labels)
    result: dict[str, Any] | None = None
    if judgement.status == "ok":
        result = {
            "prompt": prompt.text,
            "testpoint": labels,
            "analysis": analyses,
            "score": [int(verdict) for verdict in judgement.verdicts or ()],
        }
    return Row(
        line=0,
        index=prompt.index,
        image=judgement.image_index,
        prompt=prompt.text,
        testpoint=repr(labels),
        output=judgement.raw,
        result_json=json.dumps(result, ensure_ascii=False, indent=4),
        img_path=_image_path(log.manifest.get("images") or {}, judgement),
    )


def _image_path(images: Mapping[str, Any], judgement: Judgement) -> str:
    pattern = str(images.get("pattern") or "{index}_{image}")
    name = pattern.format(index=judgement.prompt_index, image=judgement.image_index)
    return str(Path(images.get("root") or "") / (name if Path(name).suffix else f"{name}.png"))


class Exported(NamedTuple):
    """The two files of an export."""

    csv: Path
    json: Path
    rows: int
    failed: int
    """rows without a result"""


def export_official(log: RunLog, folder: Path | None = None, *, model: str | None = None) -> Exported:
    """Writes {model}_{category}.csv and .json as the official script does; it reads the CSV to the same numbers.

    Args:
        folder: where to; None is "official" in the run folder.
        model: first part of the names; None is the name of the folder of images, as in the official script.
    """
    folder = folder or log.path / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    root = str((log.manifest.get("images") or {}).get("root") or log.path)
    stem = folder / f"{model or Path(root).name}_{log.prompts.name}"
    rows = export_rows(log)
    scores = count(rows)
    table = io.StringIO(newline="")
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([getattr(row, column) for column in COLUMNS] for row in rows)
    files = stem.with_name(f"{stem.name}.csv"), stem.with_name(f"{stem.name}.json")
    atomic_write(files[0], table.getvalue())
    atomic_write(files[1], json.dumps(scores.as_json(), ensure_ascii=False, indent=4))
    return Exported(*files, rows=len(rows), failed=scores.skipped)


def import_official(
    path: Path, prompts: PromptSet, run: Path, *, judge: str, images: Path | None = None, command: str = ""
) -> RunLog:
    """A run folder made from an official CSV, which is kept in it as it was.

    A score list is read by our parser's rules: "1" and true are 1, but a list with 0.5 or 2 is no answer.

    Args:
        path: the official CSV.
        prompts: the prompt file that it was made with.
        run: a new folder.
        judge: who judged, which the file does not say, for example "gemini-2.5-pro".
        images: where the images are now; None is where the file says.

    Raises:
        InputError: a file cannot be read, or the folder holds a run.
        DataError: the CSV is damaged, or its prompts are not those of the prompt file.
    """
    if (run / MANIFEST).exists():
        raise InputError(f"{run}: holds a run; give another --run")
    rows = read_rows(path)
    spec = {"kind": "imported", "model": judge}
    by_index = {prompt.index: prompt for prompt in prompts.prompts}
    named = [(row, _named(path, row, prompts, by_index)) for row in rows]
    judgements = [_import_row(path, row, prompt, prompts.name, judge_id(spec), images) for row, prompt in named]
    per_prompt = max((row.image + 1 for row in rows), default=BOARD_IMAGES_PER_PROMPT)
    against = against_board(prompts, judge=judge, images_per_prompt=per_prompt)
    content = path.read_bytes()
    kept = Path(FOLDER) / "imported.csv"
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "run_id": run.name,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": command,
        "dataset": {"name": prompts.name, "sha256": prompts.sha256, "version": prompts.version},
        "selection": prompts.selection,
        "images": {
            "root": str(images or _root(rows)),
            "pattern": "{index}_{image}",
            "per_prompt": per_prompt,
            "found": len(rows),
        },
        "judge": {"name": judge, "spec": spec, "id": judge_id(spec)},
        "rubric": {"id": "official", "sha256": ""},
        "imported": {"file": str(kept), "name": path.name, "sha256": sha256(content).hexdigest(), "rows": len(rows)},
        "comparable": not against,
        "banner": f"Not comparable with the published board: {'; '.join(against)}." if against else None,
        "usage": None,
        "cost": None,
        "status": "finished",
    }
    with RunStore(run, manifest, prompts) as store:
        (run / FOLDER).mkdir(exist_ok=True)
        shutil.copyfile(path, run / kept)
        for judgement in judgements:
            store.append(judgement)
    return open_log(run)


def _root(rows: Sequence[Row]) -> str:
    return str(Path(rows[0].img_path).parent) if rows else ""


def _named(path: Path, row: Row, prompts: PromptSet, by_index: Mapping[int, Prompt]) -> Prompt:
    """The prompt of a row, which must be the same one."""
    prompt = by_index.get(row.index)
    where = f"{path}:{row.line}: index {row.index}"
    if prompt is None:
        raise DataError(f"{where}: not in {prompts.path}; give the prompt file that the results were made with")
    labels = [point.label for point in prompt.points]
    if labels_of(row) != labels:
        raise DataError(
            f"{where}: test points {row.testpoint}, but {prompts.path} has {labels}; "
            "give the prompt file that the results were made with"
        )
    return prompt


def _import_row(path: Path, row: Row, prompt: Prompt, category: str, judge: str, images: Path | None) -> Judgement:
    image = Path(row.img_path) if images is None else images / Path(row.img_path).name
    read = parse(row.result_json, len(prompt.points))
    failed = isinstance(read, ParseFailure)
    return Judgement(
        key=f"{category}/{row.index}/{row.image}/0",
        judge_id=judge,
        prompt_index=row.index,
        image_index=row.image,
        image_sha256=sha256(image.read_bytes()).hexdigest() if image.is_file() else "",
        prompt_sha256=prompt_sha256(prompt),
        status="parse_failed" if failed else "ok",
        verdicts=None if failed else read.verdicts,
        analyses=() if failed else read.analyses,
        raw=row.output,
        parse_note="imported",
        error=f"{path.name}:{row.line}: {read.detail or read.reason}" if failed else "",
    )
