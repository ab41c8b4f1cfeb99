"""Secrets: where a service's key comes from, and how it stays out of every message, log and file."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from unigenbench.errors import InputError

OWN_VARIABLE = "UNIGENBENCH_API_KEY"
VARIABLES = {"openai": (OWN_VARIABLE, "OPENAI_API_KEY"), "gemini": (OWN_VARIABLE, "GEMINI_API_KEY")}
"""Environment variables by kind of judge, the first that is set wins. No command takes a key as an argument, as the
arguments of a process can be read by others."""
HIDDEN = "[key]"
SHORTEST_KEY = 8


def read_key(kind: str, key_file: Path | None = None) -> str | None:
    """The key for a kind of judge, from a file or the environment; None where there is none.

    Raises:
        InputError: the file cannot be read or is empty, or the key holds what no HTTP header can.
    """
    if key_file is None:
        for name in VARIABLES.get(kind, ()):
            if key := os.environ.get(name, "").strip():
                return _checked_key(key, name)
        return None
    try:
        key = key_file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{key_file}: cannot be read as a key file: {error}") from error
    if not key:
        raise InputError(f"{key_file}: empty; put the key on its first line")
    return _checked_key(key, str(key_file))


def _checked_key(key: str, source: str) -> str:
    if not key.isascii() or not key.isprintable():
        raise InputError(f"{source}: holds more than a key: a second line, or a character that is not ASCII")
    return key


def redact(text: str, secrets: Iterable[str | None]) -> str:
    """The text with every secret replaced."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, HIDDEN)
    return text


def public_url(url: str) -> str:
    """An address without user, password, query and fragment, any of which may hold a key."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "an address that cannot be read"
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def url_secrets(url: str) -> list[str]:
    """What of an address may be a key: the password, and a user name or a query's value that is long enough for one."""
    parts = urlsplit(url)
    values = [parts.username or "", *(pair.partition("=")[2] for pair in parts.query.split("&"))]
    return [value for value in values if len(value) >= SHORTEST_KEY] + ([parts.password] if parts.password else [])
