"""What the page's head says of each run: who judged what, how much of it, at what cost, and what to beware of.

Fields are picked by name. Nothing else of a run's manifest reaches the page, as it may be shared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from unigenbench.formatting import plural
from unigenbench.report.runs import Comparison, Run
from unigenbench.types import Status

STATUS_WORDS: Mapping[Status, str] = {
    "ok": "judged",
    "parse_failed": "reply that states no verdicts",
    "refused": "refused by the judge",
    "truncated": "reply cut short",
    "transport_failed": "no reply",
    "image_missing": "image missing",
    "image_bad": "image unreadable",
}
"""What a judgement's status says to a reader."""
LOW_COVERAGE = 0.99
"""Below this share of judged images a run is warned of."""


class Fact(NamedTuple):
    """One line of the head's table."""

    label: str
    values: list[str]
    """one per run"""


def facts(runs: Sequence[Run]) -> list[Fact]:
    """The table of the head; a line that is empty for every run is left out."""
    lines = {
        "Prompts": _prompts,
        "Images": _images,
        "Judge": _judge,
        "Rubric": _rubric,
        "Judged": _coverage,
        "Not judged": _failures,
        "Tokens": _tokens,
        "Cost": _cost,
        "Started": lambda run: str(run.log.manifest.get("created") or "")[:16].replace("T", " "),
    }
    table = [Fact(label, [line(run) for run in runs]) for label, line in lines.items()]
    return [fact for fact in table if any(fact.values)]


def _prompts(run: Run) -> str:
    prompts = run.log.prompts
    points = sum(len(prompt.points) for prompt in prompts.prompts)
    whole = f"{prompts.name}, {prompts.version}: {len(prompts.prompts):,} prompts, {points:,} test points"
    return whole if prompts.selection is None else f"{whole} ({prompts.selection})"


def _images(run: Run) -> str:
    images = run.log.manifest.get("images") or {}
    coverage = run.summary.get("coverage") or {}
    found = coverage.get("images_found")
    parts = [f"{images['per_prompt']} per prompt"] if images.get("per_prompt") else []
    if found is not None:
        parts.insert(0, f"{found:,} of {coverage.get('images_expected', found):,}")
    return ", ".join(parts)


def _judge(run: Run) -> str:
    judge = run.log.manifest.get("judge") or {}
    spec = judge.get("spec") or {}
    name = str(judge.get("name") or ":".join(str(spec[key]) for key in ("kind", "model") if spec.get(key)))
    return f"{name} ({judge['id']})" if judge.get("id") else name


def _rubric(run: Run) -> str:
    rubric = run.log.manifest.get("rubric") or ""
    return str(rubric.get("id", "")) if isinstance(rubric, Mapping) else str(rubric)


def coverage(run: Run) -> float | None:
    """The share of expected images that have verdicts, in [0, 1]; None where the summary does not say."""
    counts = run.summary.get("coverage") or {}
    expected = counts.get("images_expected")
    return counts.get("judged", 0) / expected if expected else None


def _coverage(run: Run) -> str:
    counts, share = run.summary.get("coverage") or {}, coverage(run)
    if share is None:
        return ""
    points = f"{counts['testpoints_scored']:,} of {counts['testpoints_expected']:,} test points"
    return f"{100 * share:.1f} %: {counts['judged']:,} of {counts['images_expected']:,} images, {points}"


def _failures(run: Run) -> str:
    failed = (run.summary.get("coverage") or {}).get("failed_by_status") or {}
    return ", ".join(f"{count:,} {STATUS_WORDS.get(status, status)}" for status, count in failed.items() if count)


def _tokens(run: Run) -> str:
    usage = run.summary.get("usage") or {}
    parts = [f"{usage[key]:,} {word}" for key, word in _TOKENS.items() if usage.get(key)]
    return ", ".join(parts)


_TOKENS = {"input": "in", "cached_input": "of them cached", "output": "out", "reasoning": "of them reasoning"}


def _cost(run: Run) -> str:
    cost = run.summary.get("cost")
    if isinstance(cost, Mapping):
        cost = cost.get("total")
    return "" if not cost else f"{cost:,.2f}"


def banners(runs: Sequence[Run]) -> list[str]:
    """Why these scores cannot be set beside the published board, each reason once."""
    return _once([(str(banner), run) for run in runs if (banner := run.log.manifest.get("banner"))], runs)


def shared_images(runs: Sequence[Run], comparisons: Sequence[Comparison]) -> str:
    """Which images scores and differences are over; empty where nothing is compared."""
    compared = [runs[0], *(run for run, one in zip(runs[1:], comparisons, strict=True) if one.table)]
    if len(compared) == 1:
        return ""
    letters = [run.letter for run in compared]
    together = f"{', '.join(letters[:-1])} and {letters[-1]}"
    overall = runs[0].scores["overall"]
    left_out = [f"{run.left_out:,} of {run.letter}" for run in compared if run.left_out]
    rest = f" Left out, as not every run has verdicts for them: {', '.join(left_out)}." if left_out else ""
    alone = [run.letter for run in runs if run not in compared]
    apart = f" Scores of {', '.join(alone)} are over all images of that run." if alone else ""
    return (
        f"Scores and differences of {together} are over the same {plural(compared[0].images, 'image')} of "
        f"{plural(overall['prompts'], 'prompt')}: those for which {together} have verdicts.{rest}{apart}"
    )


def warnings(runs: Sequence[Run], comparisons: Sequence[Comparison] = ()) -> list[str]:
    """What a reader must know before comparing: what the summaries warn of, gaps, and differences between the runs."""
    found = []
    for run in runs:
        found += [(str(warning), run) for warning in run.summary.get("warnings") or ()]
        share = coverage(run)
        if share is not None and share < LOW_COVERAGE:
            found.append((f"only {100 * share:.1f} % of the images have verdicts; the others count nowhere", run))
    return _once(found, runs) + differences(runs, comparisons)


def differences(runs: Sequence[Run], comparisons: Sequence[Comparison]) -> list[str]:
    """Where the runs differ in more than their images, and why two are not compared."""
    found = []
    for run, comparison in zip(runs[1:], comparisons, strict=False):
        if comparison.refusal:
            found.append(f"{run.letter} is not compared with {runs[0].letter}: {comparison.refusal}")
        elif comparison.table:
            found += [f"{run.letter} beside {runs[0].letter}: {text}" for text in comparison.table["warnings"]]
    if len({run.log.prompts.sha256 for run in runs}) > 1:
        found.append("The runs were asked different prompts; images are paired only where the prompt is the same.")
    if len({_identity(run) for run in runs}) > 1:
        found.append("The runs have different judges; a difference may come from them as well as from the images.")
    return found


def _identity(run: Run) -> str:
    return str((run.log.manifest.get("judge") or {}).get("id"))


def _once(said: Sequence[tuple[str, Run]], runs: Sequence[Run]) -> list[str]:
    """Each text once, with the letters of the runs it concerns where these are not all."""
    concerned: dict[str, list[str]] = {}
    for text, run in said:
        concerned.setdefault(text, []).append(run.letter)
    return [
        text if len(letters) == len(runs) else f"{', '.join(letters)}: {text}" for text, letters in concerned.items()
    ]
