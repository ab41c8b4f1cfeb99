"""Scores, comparisons and published rows as tables for a terminal: percent, two decimals, with intervals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from unigenbench.cli.console import print_line
from unigenbench.errors import InputError
from unigenbench.formatting import print_table, with_minus
from unigenbench.scoring.counts import LEAST_PROMPTS, reliable_interval
from unigenbench.scoring.leaderboard import BoardRow, Standing, read_board
from unigenbench.taxonomy import CRITERIA, DIMENSIONS

SHORT = {
    "style": "Style", "world_knowledge": "World", "attribute": "Attr.", "action": "Action", "relationship": "Relat.",
    "logical_reasoning": "Logic", "grammar": "Gram.", "compound": "Comp.", "layout": "Layout", "text": "Text",
}  # fmt: skip
"""Heads of narrow columns."""
THIN = "thin"
"""Stands for an interval that too little stands behind."""
SECTIONS = ("themes", "subthemes", "subjects", "structures", "testpoint_counts", "lengths")
"""Parts of a summary that `--by` shows."""


def percent(share: float | None, sign: bool = False) -> str:
    """A share as percent; a dash where there is none."""
    return "–" if share is None else with_minus(f"{100 * share:{'+' if sign else ''}.2f}")


def span(interval: Sequence[float] | None, sign: bool = False) -> str:
    """An interval as percent."""
    return "" if interval is None else " … ".join(percent(end, sign) for end in interval)


def entry_span(entry: Mapping[str, Any], sign: bool = False) -> str:
    """The interval of a score or a difference; "thin" where too little stands behind one."""
    interval = reliable_interval(entry)
    return THIN if interval is None and entry["ci"] is not None else span(interval, sign)


def chance(p: float | None) -> str:
    """A p-value, or that it is below what is worth telling."""
    return "" if p is None else "<0.0001" if p < 1e-4 else f"{p:.4f}"


def figure(number: float | None) -> str:
    """An agreement in [-1, 1]."""
    return "–" if number is None else with_minus(f"{number:.3f}")


def _table(*columns: str, left: int = 1) -> Table:
    table = Table(box=None, pad_edge=False)
    for place, column in enumerate(columns):
        table.add_column(column, justify="left" if place < left else "right", no_wrap=True)
    return table


def print_taxonomy(out: Console) -> None:
    """The dimensions, and their criteria with the labels that prompt files write."""
    table = _table("dimension", "criterion", "label", "label in Chinese", "meaning", left=5)
    for dimension in DIMENSIONS:
        for place, criterion in enumerate(dimension.criteria):
            first = dimension.name if place == 0 else ""
            table.add_row(first, criterion.id, criterion.name, criterion.name_zh, criterion.meaning)
    print_table(out, table)
    print_line(out, f"{len(DIMENSIONS)} dimensions, {len(CRITERIA)} criteria")


def _nested(dimensions: Mapping[str, Any], criteria: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    """(name, entry) of the dimensions, each with its criteria below it where it has several."""
    for dimension in DIMENSIONS:
        yield dimension.name, dimensions[dimension.id]
        if len(dimension.criteria) > 1:
            for criterion in dimension.criteria:
                yield f"  {criterion.name.split(' - ', 1)[1]}", criteria[criterion.id]


def print_warnings(err: Console, warnings: Iterable[str]) -> None:
    """Each warning on a line of its own."""
    for warning in warnings:
        print_line(err, f"warning: {warning}", "yellow")


def print_summary(out: Console, summary: Mapping[str, Any], by: Sequence[str] = ()) -> None:
    """What `summarise` made: banner, dimensions and criteria, the parts asked for, overall and coverage.

    Raises:
        InputError: a part is none of SECTIONS.
    """
    unknown = [section for section in by if section not in SECTIONS]
    if unknown:
        raise InputError(f"--by {unknown[0]}: unknown; there are {', '.join(SECTIONS)}")
    if summary["banner"]:
        print_line(out, str(summary["banner"]), "bold yellow")
    rows = list(_nested(summary["dimensions"], summary["criteria"]))
    print_table(out, _scores("dimension", rows))
    _explain_thin(out, (entry for _, entry in rows))
    for section in by:
        out.print()
        print_table(out, _scores(section.replace("_", " "), summary.get(section, {}).items()))
    overall, coverage, views = summary["overall"], summary["coverage"], summary["per_prompt"]
    selection = f", {summary['selection']}" if summary["selection"] else ""
    out.print()
    print_line(
        out,
        f"overall {percent(overall['macro'])} % ({entry_span(overall)}), mean of {overall['n_dimensions']} dimensions; "
        f"of all test points {percent(overall['micro'])} % ({entry_span({**overall, 'ci': overall['micro_ci']})})",
        "bold",
    )
    print_line(
        out,
        f"{summary['category']} ({summary['data_version']}{selection}): judged {coverage['judged']} of "
        f"{coverage['images_expected']} images ({percent(coverage['share'])} %), {coverage['testpoints_scored']} of "
        f"{coverage['testpoints_expected']} test points{_failed(coverage['failed_by_status'])}",
    )
    print_line(
        out,
        f"images that meet all their test points {percent(views['all_pass_image_rate'])} %; prompts with such an image "
        f"{percent(views['any_of_k'])} %, with {views['k']} of {views['k']} {percent(views['all_of_k'])} % "
        f"({views['prompts']} prompts)",
    )


def _explain_thin(out: Console, entries: Iterable[Mapping[str, Any]]) -> None:
    if any(entry["ci"] is not None and reliable_interval(entry) is None for entry in entries):
        print_line(out, f"{THIN}: fewer than {LEAST_PROMPTS} prompts, or all of them alike; no interval is shown")


def _scores(head: str, rows: Iterable[tuple[str, Any]]) -> Table:
    table = _table(head, "score %", "95 % interval", "met", "judged", "expected", "prompts")
    for name, entry in rows:
        counts = (str(entry[key]) for key in ("correct", "total", "expected", "prompts"))
        table.add_row(name, percent(entry["score"]), entry_span(entry), *counts)
    return table


def _failed(counts: Mapping[str, int]) -> str:
    listed = ", ".join(f"{count} {status.replace('_', ' ')}" for status, count in counts.items())
    return f"; {listed}" if listed else ""


def print_comparison(out: Console, found: Mapping[str, Any]) -> None:
    """What `compare` made."""
    for name in ("a", "b"):
        about = found[name]
        print_line(out, f"{name.upper()}  {about['run']}: {about['judged']} judged{_failed(about['failed_by_status'])}")
    shared = found["shared"]
    print_line(
        out,
        f"{shared['images']} images of {shared['prompts']} prompts are judged in both, {shared['testpoints']} test "
        f"points; {shared['only_a']} only in A, {shared['only_b']} only in B. All figures are over those in both",
    )
    table = _table("B − A", "A %", "B %", "difference", "95 % interval", "p", "p (Holm)", "only A", "only B")
    overall = found["overall"]
    named = [("Overall, mean of dimensions", overall["macro"]), ("Overall, all test points", overall["micro"])]
    rows = [*named, *_nested(found["dimensions"], found["criteria"])]
    rows = [(name, entry) for name, entry in rows if entry["difference"] is not None]  # None: nothing shared asks it
    for name, entry in rows:
        apart = entry.get("mcnemar")
        table.add_row(
            name,
            percent(entry["a"]),
            percent(entry["b"]),
            percent(entry["difference"], sign=True),
            entry_span(entry, sign=True),
            chance(entry["p"]),
            chance(entry.get("p_holm")),
            *(str(apart[side]) if apart else "" for side in ("only_a", "only_b")),
        )
    print_table(out, table)
    _explain_thin(out, (entry for _, entry in rows))
    ways = f"{'all ' if found['policy']['exact'] else ''}{found['policy']['permutations']} ways"
    print_line(out, f"p: the runs exchanged prompt by prompt, {ways}; Holm over dimensions and over criteria")


def print_agreement(out: Console, found: Mapping[str, Any]) -> None:
    """What `agree` made."""
    for place, judge in enumerate(found["judges"]):
        print_line(
            out, f"{place + 1}  {judge['judge']} ({judge['judge_id']}), {judge['run']}: {judge['judged']} judged"
        )
    for pair in found["pairs"]:
        out.print()
        print_line(
            out, f"{pair['first'] + 1} and {pair['second'] + 1}: {pair['images']} images of {pair['prompts']} prompts"
        )
        table = _table("test points", "n", "agree %", "kappa", "95 % interval", "PABAK", "bias %")
        rows = [("All", pair["overall"]["all"]), *_nested(pair["dimensions"], pair["criteria"])]
        for name, entry in rows:
            count = sum(entry[key] for key in ("both", "only_first", "only_second", "neither"))
            kappa_ci = entry["kappa_ci"]
            table.add_row(
                name,
                str(count),
                percent(entry["observed"]),
                figure(entry["kappa"]),
                " … ".join(map(figure, kappa_ci)) if kappa_ci else "",
                figure(entry["pabak"]),
                percent(entry["bias"], sign=True),
            )
        print_table(out, table)
    out.print()
    print_line(out, f"Krippendorff's alpha of all {len(found['judges'])}: {figure(found['krippendorff_alpha'])}")


def print_corrected(out: Console, found: Mapping[str, Any]) -> None:
    """What `corrected` made."""
    shared = f"{found['images_shared']} images of {found['prompts_shared']} prompts"
    print_line(out, f"The first run, corrected by the second on {shared}")
    table = _table("test points", "judged %", "sensitivity", "specificity", "corrected %", "95 % interval", "")
    for name, entry in [("All", found["overall"]["all"]), *_nested(found["dimensions"], found["criteria"])]:
        table.add_row(
            name,
            percent(entry["rate"]),
            figure(entry["sensitivity"]),
            figure(entry["specificity"]),
            percent(entry["corrected"]),
            span(entry["ci"]),
            "refused" if entry["refused"] else "",
        )
    print_table(out, table)


def print_ranks(out: Console, found: Mapping[str, Any]) -> None:
    """What `rank_agreement` made."""
    table = _table("images", *found["judges"])
    for model, scores in found["models"].items():
        table.add_row(model, *map(percent, scores))
    print_table(out, table)
    print_line(out, f"Kendall's tau of the overall scores: {figure(found['kendall_tau'])}")


def print_board(out: Console, found: Standing) -> None:
    """A published table, with a run in its place; or a run apart, with the reasons."""
    board = read_board()
    if found.reasons:
        print_line(out, f"NOT COMPARABLE with the published board: {'; '.join(found.reasons)}.", "bold yellow")
    ranked = list(enumerate(found.rows, 1))
    rows: list[tuple[str, BoardRow, str | None]] = [(str(rank), row, None) for rank, row in ranked]
    if found.own is not None:
        rows.insert(found.rank - 1 if found.rank else 0, ("→" if found.rank else "", found.own, "bold"))
    table = _table("", "model", "access", "fits", "overall", *SHORT.values(), left=4)
    for rank, row, style in rows:
        figures = (row.dimensions.get(id) for id in SHORT)
        table.add_row(
            rank,
            row.model,
            row.access or "",
            row.coverage or "",
            f"{row.overall:.2f}",
            *("–" if score is None else f"{score:.2f}" for score in figures),
            style=style,
        )
    print_table(out, table)
    for note in found.notes:
        print_line(out, f"note: {note}")
    if not found.rows:
        return
    if found.rank:
        print_line(out, f"this run would be number {found.rank} of {len(found.rows) + 1}", "bold")
    print_line(out, f"{board.categories[found.category]}; judge {board.judge}. {' '.join(board.notes)}")
    print_line(out, board.attribution)
