"""Checks of prompt files, folders of images and run folders, all faults at once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from unigenbench.errors import BenchError, InputError, listed
from unigenbench.judging.image_checks import validate_images
from unigenbench.judging.images import PATTERN
from unigenbench.prompts import Examined, examine_prompts, from_json, prompt_sha256
from unigenbench.runs.judgements import NOT_A_JUDGEMENT, from_fields, newest
from unigenbench.runs.store import JUDGEMENTS, MANIFEST, PROMPTS, SCHEMA_VERSION, check_manifest
from unigenbench.types import STATUSES, Judgement, Problem, Prompt, PromptSet, Severity


class Report(NamedTuple):
    """What was checked, and what was found."""

    checked: list[str]
    """a line each"""
    problems: list[Problem]

    def exit_code(self, *, strict: bool) -> int:
        """2 where there is an error; 1 where there is a warning and they count; else 0."""
        severities = {problem.severity for problem in self.problems}
        return 2 if "error" in severities else 1 if strict and severities else 0


def validate(
    data: Path | None = None,
    images: Path | None = None,
    run: Path | None = None,
    *,
    images_per_prompt: int = 4,
    pattern: str = PATTERN,
    strict: bool = False,
) -> Report:
    """Checks what is given.

    Args:
        data: a prompt file, a folder of them, or the name of a shipped one.
        images: a folder of images of the prompts in data.
        run: a run folder.
        strict: broken JSON in a prompt file is an error, even where it can be mended.

    Raises:
        InputError: nothing is given, or images without their prompts; or it is not there.
    """
    if data is None and run is None:
        raise InputError("nothing to check; give --data, --data with --images, or --run")
    report = Report([], [])
    for path in [] if data is None else _prompt_files(data):
        examined = examine_prompts(path, strict=strict)
        report.problems.extend(examined.problems)
        report.checked.append(f"{path}: {_describe(examined)}")
        if images is not None and examined.prompts is not None:
            found = validate_images(images, examined.prompts, images_per_prompt=images_per_prompt, pattern=pattern)
            report.problems.extend(found)
            report.checked.append(f"{images}: {images_per_prompt} images of each prompt expected")
        elif images is not None:
            report.checked.append(f"{images}: not checked, as its prompts cannot be read")
    if run is not None:
        report.problems.extend(validate_run(run))
        report.checked.append(f"{run}: a run folder")
    return report


def _prompt_files(data: Path) -> list[Path]:
    if not data.is_dir():
        return [data]
    files = sorted(data.glob("*.csv"))
    if not files:
        raise InputError(f"{data}: no CSV in this folder; give a prompt file")
    return files


def _describe(examined: Examined) -> str:
    prompts = examined.prompts
    if prompts is None:
        return "cannot be used"
    points = sum(len(prompt.points) for prompt in prompts.prompts)
    known = "not a known file" if prompts.version == "unknown" else f"{prompts.version}, unmodified"
    return f"{len(prompts.prompts)} prompts, {points} test points, {prompts.language}; {known}"


def validate_run(path: Path) -> list[Problem]:
    """All that is wrong with a run folder: its version, its prompts, its judgements line by line.

    Raises:
        InputError: there is no such folder.
    """
    if not path.is_dir():
        raise InputError(f"{path}: no such run folder")
    problems: list[Problem] = []
    manifest = _manifest(path / MANIFEST, problems)
    prompts = _prompts(path / PROMPTS, problems)
    judged = list(_judgements(path / JUDGEMENTS, problems))
    lines = {id(judgement): line for line, judgement in judged}
    if prompts is None:
        return problems
    of = {prompt.index: prompt for prompt in prompts.prompts}
    for judgement in newest(judgement for _, judgement in judged).values():
        place = f"{path / JUDGEMENTS}:{lines[id(judgement)]}"
        faults = _faults(judgement, prompts.name, of.get(judgement.prompt_index), manifest)
        problems += [Problem(severity, place, what) for severity, what in faults]
    return problems


def _manifest(path: Path, problems: list[Problem]) -> dict[str, Any]:
    """run.json, or nothing where it cannot be used."""
    content = _json(path, problems)
    if not isinstance(content, dict):
        if content is not None:
            problems.append(Problem("error", str(path), "is no object; restore it, or judge into another folder"))
        return {}
    version = content.get("schema_version")
    if version != SCHEMA_VERSION:
        what = f"schema_version: {version}; this program knows {SCHEMA_VERSION}, use the one that made the folder"
        problems.append(Problem("error", str(path), what))
        return {}
    try:
        check_manifest(content)
    except (LookupError, TypeError) as error:
        what = f"damaged ({error!r}); restore it, or judge into another folder"
        problems.append(Problem("error", str(path), what))
        return {}
    return content


def _prompts(path: Path, problems: list[Problem]) -> PromptSet | None:
    content = _json(path, problems)
    if content is None:
        return None
    try:
        return from_json(content)
    except BenchError as error:
        problems.append(Problem("error", str(path), str(error)))
        return None


def _json(path: Path, problems: list[Problem]) -> Any:
    """The content of a file; None, with a problem, where there is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        problems.append(Problem("error", str(path), "is missing; restore it, or judge into another folder"))
    except (ValueError, RecursionError) as error:
        problems.append(Problem("error", str(path), f"not JSON ({error}); restore it, or judge into another folder"))
    return None


def _judgements(path: Path, problems: list[Problem]) -> Iterator[tuple[int, Judgement]]:
    """(line, judgement) of each line that can be read."""
    if not path.is_file():
        problems.append(Problem("warning", str(path), "is missing; nothing has been judged"))
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                problems.append(Problem("warning", f"{path}:{number}", "cut by a kill; the next start removes it"))
                return
            try:
                yield number, from_fields(json.loads(line))
            except NOT_A_JUDGEMENT as error:
                what = f"no judgement ({error!r}); delete the line, and `unigenbench judge` asks again"
                problems.append(Problem("error", f"{path}:{number}", what))


def _faults(
    judgement: Judgement, name: str, prompt: Prompt | None, manifest: dict[str, Any]
) -> Iterator[tuple[Severity, str]]:
    """What is wrong with one judgement of a prompt set of that name."""
    if prompt is None:
        yield "error", f"{judgement.key}: the run has no prompt {judgement.prompt_index}; delete the line"
        return
    begin = f"{name}/{judgement.prompt_index}/{judgement.image_index}/"
    if not judgement.key.startswith(begin):
        yield "error", f"{judgement.key}: is not the key of its prompt and image, {begin}…; delete the line"
        return
    per_prompt = manifest.get("images", {}).get("per_prompt")
    if per_prompt is not None and judgement.image_index >= per_prompt:
        yield "error", f"{judgement.key}: the run has {per_prompt} images of each prompt; delete the line"
    if judgement.status not in STATUSES:
        yield "error", f"{judgement.key}: status '{judgement.status}' is unknown; it is one of {listed(STATUSES)}"
    elif judgement.status == "ok":
        yield from _verdict_faults(judgement, len(prompt.points))
    elif judgement.verdicts is not None:
        yield "error", f"{judgement.key}: has verdicts but status '{judgement.status}'; delete the line"
    if judgement.prompt_sha256 != prompt_sha256(prompt):
        yield "warning", f"{judgement.key}: was judged when the prompt read otherwise; `unigenbench judge` asks again"


def _verdict_faults(judgement: Judgement, points: int) -> Iterator[tuple[Severity, str]]:
    verdicts = judgement.verdicts or ()
    if len(verdicts) != points:
        yield "error", f"{judgement.key}: {len(verdicts)} verdicts for {points} test points; delete the line"
    odd = [verdict for verdict in verdicts if verdict not in (0, 1)]
    if odd:
        yield "error", f"{judgement.key}: verdict {odd[0]!r} is neither 0 nor 1; delete the line"
    if judgement.probabilities is not None and len(judgement.probabilities) != points:
        yield "error", f"{judgement.key}: {len(judgement.probabilities)} probabilities for {points} test points"
