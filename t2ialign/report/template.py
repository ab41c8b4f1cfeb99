"""The pages' templates, and how numbers are written in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2

from t2ialign.report.comparison import direction, is_thin
from t2ialign.storage.atomic import atomic_write
from unigenbench.formatting import with_minus


def render(name: str, **content: Any) -> str:
    """The page of a template."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("t2ialign.report", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda value: f"{100 * value:.1f} %"
    environment.filters["points"] = lambda value: with_minus(f"{100 * value:+.1f}")
    environment.filters["direction"] = direction
    environment.tests["thin"] = is_thin
    environment.filters["minutes"] = lambda seconds: f"{seconds // 60:.0f} min {seconds % 60:02.0f} s"
    return environment.get_template(f"{name}.html.j2").render(**content)


def write_page(path: Path, page: str) -> Path:
    """Writes the page and returns its path.

    Raises:
        TryAgainError: the disk is full.
    """
    with atomic_write(path) as partial:
        partial.write_text(page, encoding="utf-8")
    return path
