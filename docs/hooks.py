"""MkDocs hooks: pages link to figures in ../assets, as the repository shows them; the site gets copies of them."""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

LINK = re.compile(r"\]\(\.\./(assets/[^)]+)\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds every file of assets/ that a page links to."""
    docs = Path(config.docs_dir)
    linked = {link for page in docs.glob("*.md") for link in LINK.findall(page.read_text(encoding="utf-8"))}
    for link in sorted(linked):
        files.append(File.generated(config, link, abs_src_path=str(docs.parent / link)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Points those links at the copies."""
    return LINK.sub(r"](\1)", markdown)
