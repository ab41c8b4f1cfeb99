"""Addresses of services and of servers that speak OpenAI's protocol."""

from __future__ import annotations

from urllib.parse import urlsplit

from unigenbench.judges.text import replace_surrogates

ENDPOINTS = {
    "openai": "https://api.openai.com/v1",
    "gemini": "https://generativelanguage.googleapis.com/v1beta/openai",
}


def is_http_address(url: str) -> bool:
    """Whether a request can be sent there: a scheme, a host and, where it has one, a port that exists."""
    try:
        parts = urlsplit(url)
        printable = url.isprintable() and " " not in url and replace_surrogates(url) == url
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and printable
    except ValueError:
        return False


def complete_url(url: str) -> str:
    """The address below which /chat/completions lies, without query: /v1 is added to a bare host, a full one is cut.

    >>> complete_url("http://127.0.0.1:8000")
    'http://127.0.0.1:8000/v1'
    >>> complete_url("http://host/v1/chat/completions")
    'http://host/v1'
    """
    parts = urlsplit(url)
    path = parts.path.rstrip("/").removesuffix("/chat/completions").rstrip("/")
    return parts._replace(path=path or "/v1", query="", fragment="").geturl()


def alternative_url(asked: str, used: str) -> str | None:
    """With /v1 where it was without, and the other way round; None for a service whose address is known."""
    if asked in ENDPOINTS.values():
        return None
    parts = urlsplit(used)
    path = parts.path.removesuffix("/v1") if parts.path.endswith("/v1") else f"{parts.path}/v1"
    return parts._replace(path=path).geturl()
