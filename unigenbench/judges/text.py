"""Text of servers and models, made fit for messages and files."""

from __future__ import annotations

import re

_SURROGATES = re.compile("[\ud800-\udfff]")


def replace_surrogates(text: str) -> str:
    """The text with each lone surrogate (half a character, which no file can hold) replaced by U+FFFD."""
    return _SURROGATES.sub("\ufffd", text)


def shorten(text: str, limit: int = 400) -> str:
    """One line of at most so many characters; the tags of an HTML page are left out."""
    text = text[: 100 * limit]
    if re.search(r"<html|<!doctype", text, re.IGNORECASE):
        text = re.sub(r"<(script|style).*?</\1>|<[^>]*>", " ", text, flags=re.DOTALL | re.IGNORECASE)
    line = " ".join(text.split())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"
