"""Puts the page together and writes it: figures drawn here, the gallery by the page's own script."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from markupsafe import Markup

from unigenbench.errors import InputError
from unigenbench.formatting import plural, with_minus
from unigenbench.judges.keys import VARIABLES
from unigenbench.report.facts import banners, facts, shared_images, warnings
from unigenbench.report.gallery import gallery, pack
from unigenbench.report.pictures import Album
from unigenbench.report.radar import CENTER_X, CENTER_Y, HEIGHT, RADIUS, WIDTH, radar
from unigenbench.report.runs import LETTERS, Comparison, Run, count_images, gather
from unigenbench.report.scores import Difference, Row, Score, bar_rows, heat_tables
from unigenbench.runs.store import open_log
from unigenbench.scoring.counts import LEAST_PROMPTS
from unigenbench.taxonomy import DIMENSIONS
from unigenbench.types import RunLog

HERE = Path(__file__).parent
LARGE_PAGE = 200_000_000
"""Bytes above which a page with embedded images is warned of: browsers open it slowly."""
SHORTEST_KEY = 12
"""Shorter ones are stand-ins such as "EMPTY", and words of their own in a text."""
_IMAGES = "<!-- images -->"
"""Where the template wants the embedded images; they are written one by one, so that they need not fit in memory."""
PER_PROMPT = (
    ("all_pass_image_rate", "images that meet all their test points"),
    ("any_of_k", "prompts with at least one such image"),
    ("all_of_k", "prompts with such images only"),
)
"""Keys of a summary's per_prompt, and what they say."""


class Written(NamedTuple):
    """The page that was written, and what its reader should know."""

    path: Path
    size: int
    """in bytes"""
    warnings: list[str]


def write_report(runs: Sequence[Path], out: Path, *, thumbs: int | None = None, embed: bool = False) -> Written:
    """Reads run folders and writes one HTML file that opens without a network.

    Args:
        runs: one to four run folders; the first is what the others are compared with.
        out: the file to write.
        thumbs: longest side of the images shown, in px; None shows the originals.
        embed: carry the images inside the file; else it links to them where they lie.

    Raises:
        InputError: no run, or more than four.
    """
    check_count(len(runs))
    return write_page([open_log(path) for path in runs], out, thumbs=thumbs, embed=embed)


def check_count(runs: int) -> None:
    """Raises InputError unless a page can show this many runs."""
    if not 1 <= runs <= len(LETTERS):
        raise InputError(f"{runs} runs given; a report shows one run, or two to {len(LETTERS)} side by side")


def write_page(
    logs: Sequence[RunLog], out: Path, *, bootstrap: int = 2000, thumbs: int | None = None, embed: bool = False
) -> Written:
    """`write_report` for logs that are at hand.

    Args:
        bootstrap: samples of prompts behind each interval.
    """
    runs, comparisons = gather(logs, bootstrap=bootstrap)
    album = Album(out, thumbs=thumbs, embed=embed)
    records = gallery(runs, album)
    cautions = warnings(runs, comparisons) + album.warnings()
    head, tail = page(runs, comparisons, records, cautions, embed=embed).split(_IMAGES)
    partial = out.with_name(f".{out.name}.partial")
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        with partial.open("w", encoding="utf-8", newline="\n") as file:
            file.write(head)
            for identity, media_type, content in album.blocks():
                file.write(f'<script type="{media_type}" id="{identity}">{content}</script>\n')
            file.write(tail)
        os.replace(partial, out)
    finally:
        partial.unlink(missing_ok=True)
    size = out.stat().st_size
    large = [f"{out} has {size / 1e6:.0f} MB and opens slowly; --thumbs 256 makes it smaller"]
    return Written(out, size, album.warnings() + (large if size > LARGE_PAGE else []))


def page(
    runs: Sequence[Run],
    comparisons: Sequence[Comparison],
    records: Mapping[str, Any],
    cautions: Sequence[str],
    *,
    embed: bool,
) -> str:
    """The HTML, with a mark in place of the embedded images.

    Args:
        cautions: what a reader is warned of.
    """
    tables = [comparison.table for comparison in comparisons]
    scores = [run.scores for run in runs]
    rows = bar_rows(scores, tables)
    overall = [Score.overall(summary) for summary in scores]
    differences = [None, *(Difference.read(table and table["overall"]["macro"]) for table in tables)]
    style, script = (HERE / "app.css").read_text("utf-8"), (HERE / "app.js").read_text("utf-8")
    template = _environment().from_string((HERE / "template.html").read_text("utf-8"))
    return template.render(
        policy=content_policy(style, script, embed=embed),
        style=Markup(style),
        script=Markup(script),
        data=pack(records, _keys()),
        images=Markup(_IMAGES),
        runs=runs,
        facts=facts(runs),
        banners=banners(runs),
        warnings=cautions,
        shared_images=shared_images(runs, comparisons),
        overall=overall,
        overall_differences=differences,
        rows=rows,
        has_thin=any(one is not None and one.is_thin for one in [*overall, *differences, *shown(rows)]),
        fewest_prompts=LEAST_PROMPTS,
        radar=radar(rows),
        radar_size=(WIDTH, HEIGHT),
        heats=heat_tables([run.name for run in runs], scores),
        cards=len(records["cards"]),
        center=(CENTER_X, CENTER_Y, RADIUS),
        views=_views(runs),
        compared=any(tables),
    )


def shown(rows: Sequence[Row]) -> Iterator[Score | Difference | None]:
    """Every score and difference of the bar list."""
    for row in rows:
        yield from (*row.scores, *row.differences, *shown(row.children))


def _keys() -> list[str]:
    """Keys of the environment: judges keep them out of what they log, and the page, which is shared, does so again."""
    names = {name for names in VARIABLES.values() for name in names}
    return [key for name in sorted(names) if len(key := os.environ.get(name, "")) >= SHORTEST_KEY]


def _views(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """(words, one value per run): other ways to sum up the same verdicts."""
    scores = [run.scores for run in runs]
    views = [
        (
            "dimensions in the mean",
            [f"{one['overall']['n_dimensions']}\u00a0of\u00a0{len(DIMENSIONS)}" for one in scores],
        ),
        ("all test points pooled", [f"{_percent(one['overall']['micro'], 2)}\u00a0%" for one in scores]),
    ]
    for key, words in PER_PROMPT:
        views.append((words, [f"{_percent(one['per_prompt'][key])}\u00a0%" for one in scores]))
    if any(run.left_out for run in runs):
        own = [
            f"{_percent(run.summary['overall']['macro'], 2)}\u00a0% ({plural(count_images(run.log), 'image')})"
            for run in runs
        ]
        views.append(("mean over all images of the run, in no difference", own))
    return views


def content_policy(style: str, script: str, *, embed: bool) -> str:
    """The page's Content-Security-Policy: its one script, its one style sheet, images, and nothing else."""
    images = "data:" if embed else "data: 'self' file:"
    return "; ".join(
        [
            "default-src 'none'",
            f"script-src '{_hash(script)}'",
            f"style-src '{_hash(style)}'",
            f"img-src {images}",
            "base-uri 'none'",
            "form-action 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        ]
    )


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode('utf-8')).digest()).decode('ascii')}"


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(_FILTERS)
    return environment


def _percent(share: float | None, digits: int = 1) -> str:
    return "–" if share is None else f"{100 * share:.{digits}f}"


def _points(difference: float | None, digits: int = 1) -> str:
    """A difference in percentage points with its sign."""
    return "–" if difference is None else with_minus(f"{100 * difference:+.{digits}f}")


def _level(value: float | None, is_difference: bool) -> str:
    """The class that colours a cell: q0 to q10 by tenths, or m5 to m1, z, p1 to p5 in steps of 6 points."""
    if value is None:
        return "none"
    if not is_difference:
        return f"q{round(10 * value)}"
    steps = max(-5, min(5, round(value / 0.06)))
    return "z" if steps == 0 else f"{'p' if steps > 0 else 'm'}{abs(steps)}"


def _p_value(p: float | None) -> str:
    return "–" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


_FILTERS: dict[str, Callable[..., Any]] = {
    "percent": _percent,
    "points": _points,
    "level": _level,
    "p_value": _p_value,
    "plural": plural,
}
