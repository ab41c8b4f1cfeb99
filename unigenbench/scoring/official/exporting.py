"""A run as the rows and files that the official script would have written."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from unigenbench.errors import DataError
from unigenbench.protocol.values import as_text
from unigenbench.runs.files import write_together
from unigenbench.scoring.manifest import image_folder
from unigenbench.scoring.official.counting import count_rows, counted
from unigenbench.scoring.official.table import COLUMNS, FOLDER, ResultRow, read_rows
from unigenbench.scoring.verdicts import ImageKey, ImageVerdicts, check_log
from unigenbench.taxonomy import criterion_of
from unigenbench.types import Judgement, Prompt, RunLog


def rows_of(log: RunLog) -> list[ResultRow]:
    """The rows that the official script would have of a run: the imported file's, else made from the judgements."""
    imported = log.manifest.get("imported")
    if imported:
        return read_rows(log.path / imported["file"])
    return export_rows(log)


def official_verdicts(log: RunLog) -> dict[ImageKey, ImageVerdicts]:
    """What the official script counts of each image.

    Raises:
        DataError: a row fits no prompt of the run.
        InputError: a label is no criterion's.
    """
    known = {prompt.index for prompt in log.prompts.prompts}
    verdicts = {}
    seen: Counter[tuple[int, int]] = Counter()
    for row in rows_of(log):
        if row.index not in known:
            raise DataError(f"{log.path}: row {row.line}: the run's prompts have no index {row.index}")
        pairs = counted(row)
        if pairs is not None:
            criteria = tuple(criterion_of(label).id for label, _ in pairs)
            key = ImageKey(row.index, row.image, seen[row.index, row.image])
            verdicts[key] = ImageVerdicts(criteria, tuple(met for _, met in pairs))
        seen[row.index, row.image] += 1
    return verdicts


def export_rows(log: RunLog) -> list[ResultRow]:
    """One row per judged or failed image, in the order of the prompts.

    Raises:
        DataError: the log does not fit its prompts.
    """
    check_log(log)
    prompts = {prompt.index: (place, prompt) for place, prompt in enumerate(log.prompts.prompts)}
    ordered = sorted(log.judgements, key=lambda judgement: (prompts[judgement.prompt_index][0], judgement.image_index))
    return [_export_row(log, prompts[judgement.prompt_index][1], judgement) for judgement in ordered]


def _export_row(log: RunLog, prompt: Prompt, judgement: Judgement) -> ResultRow:
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
    return ResultRow(
        line=0,
        index=prompt.index,
        image=judgement.image_index,
        prompt=prompt.text,
        testpoint=repr(labels),
        output=as_text(judgement.raw),
        result_json=json.dumps(result, ensure_ascii=False, indent=4),
        img_path=_image_path(log.manifest["images"], judgement),
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

    Raises:
        DataError: the log does not fit its prompts.
    """
    folder = folder or log.path / FOLDER
    name = f"{model or image_folder(log)}_{log.prompts.name}"
    rows = export_rows(log)
    scores = count_rows(rows)
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([getattr(row, column) for column in COLUMNS] for row in rows)
    files = folder / f"{name}.csv", folder / f"{name}.json"
    contents = table.getvalue(), json.dumps(scores.as_json(), ensure_ascii=False, indent=4)
    folder.mkdir(parents=True, exist_ok=True)
    write_together(dict(zip(files, contents, strict=True)))
    return Exported(*files, rows=len(rows), failed=scores.skipped)
