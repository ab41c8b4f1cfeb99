"""A run folder made from a CSV of the official script."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from hashlib import sha256
from pathlib import Path
from typing import Any

from unigenbench.errors import DataError, InputError
from unigenbench.judges.base import judge_id
from unigenbench.prompts import prompt_sha256
from unigenbench.protocol.parsing import ParseFailure, parse
from unigenbench.runs.store import MANIFEST, SCHEMA_VERSION, RunStore, open_log
from unigenbench.scoring.leaderboard import BOARD_IMAGES_PER_PROMPT, against_board
from unigenbench.scoring.official.table import FOLDER, ResultRow, labels_of, read_rows
from unigenbench.types import Judgement, Prompt, PromptSet, RunLog

KEPT = Path(FOLDER) / "imported.csv"
"""In a run folder: the imported file as it was."""


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
    manifest = _manifest(path, rows, prompts, run.name, spec, images) | {"command": command}
    partial = run.with_name(f".{run.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with RunStore(partial, manifest, prompts) as store:
            (partial / KEPT.parent).mkdir()
            shutil.copyfile(path, partial / KEPT)
            for judgement in judgements:
                store.append(judgement)
        _move_into(partial, run)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return open_log(run)


def _move_into(partial: Path, run: Path) -> None:
    """Gives a finished folder its name; what already lay in a folder of that name stays, unless it has the same name.

    The manifest, by which a folder is taken for a run, is moved last.
    """
    run.mkdir(exist_ok=True)
    for path in sorted(partial.iterdir(), key=lambda path: path.name == MANIFEST):
        if path.is_dir() and (run / path.name).is_dir():
            shutil.rmtree(run / path.name)
        os.replace(path, run / path.name)


def _manifest(
    path: Path, rows: Sequence[ResultRow], prompts: PromptSet, run_id: str, spec: dict[str, str], images: Path | None
) -> dict[str, Any]:
    """run.json of an import."""
    per_prompt = max((row.image + 1 for row in rows), default=BOARD_IMAGES_PER_PROMPT)
    against = against_board(prompts, judge=spec["model"], images_per_prompt=per_prompt)
    digest = sha256(path.read_bytes()).hexdigest()
    return {
        "schema_version": SCHEMA_VERSION,
        "run_id": run_id,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "dataset": {"name": prompts.name, "sha256": prompts.sha256, "version": prompts.version},
        "selection": prompts.selection,
        "images": {
            "root": str(images or _root(rows)),
            "pattern": "{index}_{image}",
            "per_prompt": per_prompt,
            "found": len(rows),
        },
        "judge": {"name": spec["model"], "spec": spec, "id": judge_id(spec)},
        "rubric": {"id": "official", "sha256": ""},
        "imported": {"file": str(KEPT), "name": path.name, "sha256": digest, "rows": len(rows)},
        "comparable": not against,
        "banner": f"Not comparable with the published board: {'; '.join(against)}." if against else None,
        "usage": None,
        "cost": None,
        "status": "finished",
    }


def _root(rows: Sequence[ResultRow]) -> str:
    return str(Path(rows[0].img_path).parent) if rows else ""


def _named(path: Path, row: ResultRow, prompts: PromptSet, by_index: Mapping[int, Prompt]) -> Prompt:
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


def _import_row(
    path: Path, row: ResultRow, prompt: Prompt, category: str, judge: str, images: Path | None
) -> Judgement:
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
