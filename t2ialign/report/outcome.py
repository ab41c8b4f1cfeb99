"""What a comparison of images found: goals, gains and losses. Ticks, warnings and the terminal say what stands here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from t2ialign.report.comparison import direction, in_points
from t2ialign.statistics import wilson

DIVERSITY = 0.9
"""Of base's, at least."""
AGREEMENT = 0.97
"""Of two verifiers' verdicts, at least."""


class Goal(NamedTuple):
    """What the demo is to show."""

    goal: str
    seen: str
    reached: bool


class Outcome(NamedTuple):
    """A comparison in words; of what is not in the summary nothing is said."""

    goals: list[Goal]
    better: list[str]
    """Measures in which the aligned model is above base, at equal guidance."""
    worse: list[str]
    """Measures and criteria in which it is below base, at equal guidance or each at its own, and other losses."""
    sentence: str | None
    """Both in a sentence; None where nothing was compared."""

    @property
    def improved(self) -> bool:
        """Something got better, and nothing worse."""
        return bool(self.better) and not self.worse


class Wanted(NamedTuple):
    """A goal on a difference: the least mean, with an interval above zero that is not thin."""

    goal: str
    at: str
    pair: str
    key: str
    least: float = 0.0


WANTED = [
    Wanted("Faithfulness at least 5 points above base", "equal", "aligned - base", "faithfulness", 0.05),
    Wanted(
        "Taste satisfied at least 25 points more often than by base", "equal", "aligned - base", "taste_satisfied", 0.25
    ),
    Wanted(
        "More to taste than base's picture at least 25 points more often than less",
        *("equal", "aligned - base", "more_to_taste", 0.25),
    ),
    Wanted("Faithfulness above SFT", "equal", "aligned - sft", "faithfulness"),
    Wanted("Taste satisfied above SFT", "equal", "aligned - sft", "taste_satisfied"),
]
ONLINE = [
    Wanted(
        f"Online, at its own guidance: {name} at least {points} points above base's at its own",
        *("own", "online - base", key, points / 100),
    )
    for name, key, points in (("Faithfulness", "faithfulness", 7), ("Taste", "taste", 30))
]


def outcome(summary: Mapping[str, Any] | None) -> Outcome:
    """What the figures of a summary say.

    Args:
        summary: of a demo, or the figures that will become part of one; None: nothing was compared.
    """
    summary = summary or {}
    better = [text for word, text in _differences(summary, "equal") if word == "better"]
    worse = [*_lost(summary)]
    return Outcome([*_goals(summary)], better, worse, _sentence(summary, better, worse))


def _goals(summary: Mapping[str, Any]) -> Iterator[Goal]:
    yield from _reached(summary, WANTED)
    yield from _diverse(summary, "equal", "aligned", f"Diversity at least {DIVERSITY} of base")
    readings = summary.get("independent_verifier", {})
    agreed = [agreement["verdicts"]["mean"] for agreement in readings.values()]
    if agreed:
        who = " and of ".join(readings)
        yield Goal(
            f"Both verifiers agree on at least {AGREEMENT:.0%} of verdicts, of {who}",
            " and ".join(f"{share:.1%}" for share in agreed),
            min(agreed) >= AGREEMENT,
        )
    yield from _reached(summary, ONLINE)
    goal = f"Online, at its own guidance: diversity at least {DIVERSITY} of base's at its own"
    yield from _diverse(summary, "own", "online", goal)


def _reached(summary: Mapping[str, Any], wanted: list[Wanted]) -> Iterator[Goal]:
    for goal, at, pair, key, least in wanted:
        shift = _shifts(summary, at, pair).get(key)
        if shift is not None:
            reached = shift["mean"] >= least and direction(shift) == "better"
            yield Goal(goal, in_points(shift, " points"), reached)


def _diverse(summary: Mapping[str, Any], at: str, model: str, goal: str) -> Iterator[Goal]:
    if model in summary.get(at, {}).get("diversity", {}):
        ratio = summary[at]["diversity"][model]["diversity"]
        seen = "not measured" if ratio is None else "{mean:.2f} ({low:.2f} to {high:.2f})".format(**ratio)
        yield Goal(goal, seen, ratio is not None and ratio["mean"] >= DIVERSITY)


def _shifts(summary: Mapping[str, Any], at: str, pair: str) -> Mapping[str, Any]:
    return summary.get(at, {}).get("differences", {}).get(pair, {})


def _differences(summary: Mapping[str, Any], at: str) -> Iterator[tuple[str, str]]:
    """(better, worse or unclear; name and points) of each measure of aligned and base."""
    names = {measure["key"]: measure["name"] for measure in summary.get("measures", ())}
    for key, shift in _shifts(summary, at, "aligned - base").items():
        yield direction(shift), f"{names.get(key, key)} {in_points(shift, ' points')}"


def _lost(summary: Mapping[str, Any]) -> Iterator[str]:
    yield from (text for word, text in _differences(summary, "equal") if word == "worse")
    own = (text for word, text in _differences(summary, "own") if word == "worse")
    yield from (f"{text}, each model at its own guidance" for text in own)
    for name, entry in summary.get("criteria", {}).items():
        if direction(entry["difference"]) == "worse":
            yield f"{name} {in_points(entry['difference'], ' points')}"
    counts = _unreadable(summary)
    if counts is not None:
        before, after = (wilson(count, summary["equal"]["prompts"]) for count in counts)
        if after.low > before.high:
            yield f"unreadable pictures, {counts[0]} before and {counts[1]} after"
    yield from (
        f"diversity, {goal.seen} of base's"
        for goal in _diverse(summary, "equal", "aligned", "")
        if not goal.reached and goal.seen != "not measured"
    )


def _unreadable(summary: Mapping[str, Any]) -> tuple[int, int] | None:
    """Of base and of the aligned model, at equal guidance."""
    models = summary.get("equal", {}).get("models", {})
    if not {"base", "aligned"} <= models.keys():
        return None
    return models["base"]["unreadable"], models["aligned"]["unreadable"]


def _sentence(summary: Mapping[str, Any], better: list[str], worse: list[str]) -> str | None:
    if not _shifts(summary, "equal", "aligned - base"):
        return None
    parts = [f"{word}: {', '.join(texts)}" for word, texts in (("better", better), ("worse", worse)) if texts]
    return f"On {summary['equal']['prompts']:,} held-out prompts {'; '.join(parts) or 'no change shows'}."
