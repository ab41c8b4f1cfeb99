"""A browser without a network, for tests marked `browser`."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--host-resolver-rules=MAP * ~NOTFOUND",
)  # fmt: skip
PATIENCE = 120_000
"""ms; machines that run tests may be busy"""


@contextmanager
def chromium() -> Iterator[Any]:
    """A context of Chromium, 1200 x 900 px, offline; the test is skipped where there is none."""
    executable = next(filter(None, map(shutil.which, BROWSERS)), None)
    if executable is None:
        pytest.skip(f"no browser ({', '.join(BROWSERS)}); install Debian's chromium, or look at the report yourself")
    api = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=FLAGS, timeout=PATIENCE)
        context = browser.new_context(offline=True, viewport={"width": 1200, "height": 900})
        context.set_default_timeout(PATIENCE)
        yield context
        browser.close()
