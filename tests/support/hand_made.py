"""Run logs made by hand, for tests of what is worked out from them."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from unigenbench.prompts import prompt_sha256
from unigenbench.scoring.official import COLUMNS
from unigenbench.taxonomy import criterion_of
from unigenbench.types import Judgement, Point, Prompt, PromptSet, RunLog, Status

JUDGE = {"id": "0123456789ab", "spec": {"kind": "test", "model": "none"}}

Verdict = Callable[[int, int, int], int]
"""(prompt index, image index, position) -> 0 or 1"""


def prompt(index: int, *labels: str, theme: str = "Art", subtheme: str = "Graphic Art", text: str = "") -> Prompt:
    points = tuple(Point(criterion_of(label).id, label, f"what {label} means") for label in labels)
    return Prompt(index, text or f"prompt {index}", theme, subtheme, "Animal", "Descriptive", points)


def prompt_set(prompts: Sequence[Prompt], **fields: Any) -> PromptSet:
    known = {"name": "made", "language": "en", "path": Path("made.csv"), "sha256": "f" * 64, "version": "unknown"}
    return PromptSet(prompts=tuple(prompts), **{**known, **fields})


def judgement(prompt: Prompt, image: int, verdicts: Sequence[int] | None, status: Status = "parse_failed") -> Judgement:
    return Judgement(
        key=f"made/{prompt.index}/{image}/0",
        judge_id=JUDGE["id"],
        prompt_index=prompt.index,
        image_index=image,
        image_sha256=f"{prompt.index:08d}{image:08d}",
        prompt_sha256=prompt_sha256(prompt),
        status=status if verdicts is None else "ok",
        verdicts=None if verdicts is None else tuple(verdicts),
        analyses=() if verdicts is None else tuple(f"seen {place}, 'so' and \"so\"" for place in range(len(verdicts))),
        raw='reply, with "quotes"\nand a second line',
    )


def log(
    prompts: PromptSet,
    judgements: Sequence[Judgement],
    *,
    images: int = 4,
    folder: Mapping[str, Any] | None = None,
    **manifest: Any,
) -> RunLog:
    known = {
        "schema_version": 1,
        "run_id": "made",
        "dataset": {"category": prompts.name, "sha256": prompts.sha256, "version": prompts.version},
        "judge": JUDGE,
        "rubric": {"id": "own-1", "sha256": "a" * 64},
        "images": {"root": "images/model", "pattern": "{index}_{image}", "per_prompt": images, **(folder or {})},
        "comparable": False,
        "banner": "not comparable",
    }
    return RunLog(Path("runs/made"), {**known, **manifest}, prompts, tuple(judgements))


def run(prompts: PromptSet, verdict: Verdict, *, images: int = 4, **manifest: Any) -> RunLog:
    """A complete run."""
    judged = [
        judgement(prompt, image, [verdict(prompt.index, image, place) for place in range(len(prompt.points))])
        for prompt in prompts.prompts
        for image in range(images)
    ]
    return log(prompts, judged, images=images, **manifest)


def case_b(prompt: int, image: int, place: int) -> int:
    """A rule that gives every criterion some of both verdicts."""
    return int((7 * prompt + 3 * image + 5 * place) % 11 < 7)


CASE_A = (
    (("Style", "World Knowledge", "Attribute - Quantity"), ("[1, 1, 0]", "[1, 0, 1]", "[0, 1, 1]", "[1, 1, 1]")),
    (("Attribute - Color", "Attribute - Quantity", "Logical Reasoning"), ("[1, 0, 0]", "[1, 1, 0]", "[0, 0, 1]", None)),
    (
        ("Action - Hand (Character/Anthropomorphic)", "Action - Non-contact Interaction", "Text Generation"),
        ("[1, 1, 1]", '["1", "0", "1"]', "[1.0, 0.5, 2]", "[true, false, true]"),
    ),
)
"""Test points of three prompts, and the score lists of their images as JSON; None is a judgement that failed."""


def case_a_prompts() -> PromptSet:
    return prompt_set([prompt(index, *labels) for index, (labels, _) in enumerate(CASE_A)])


def write_case_a(path: Path) -> Path:
    """The official CSV of case A."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for index, (labels, scores) in enumerate(CASE_A):
            for image, score in enumerate(scores):
                result = {"prompt": f"prompt {index}", "testpoint": list(labels), "analysis": ["a"] * 3}
                if score is not None:
                    result["score"] = json.loads(score)
                text = json.dumps(None if score is None else result, ensure_ascii=False, indent=4)
                image_path = f"eval_data/en/m/{index}_{image}.png"
                writer.writerow([index, f"prompt {index}", repr(list(labels)), "the reply", text, image_path])
    return path


def files_below(folder: Path) -> set[str]:
    """Paths of everything in a folder, relative to it."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}
