"""Addresses of the servers that a reward asks, as a config or a command line names them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from unigenbench.judges.addresses import is_http_address
from unigenbench.judges.keys import public_url


def _split(value: Any) -> Any:
    return value.split() if isinstance(value, str) else value


def _checked(url: str) -> str:
    if public_url(url) != url:  # configs, journals and messages carry the address
        raise ValueError(
            f"{public_url(url)}: an address with a user, a password or a query may hold a key, which is written "
            "nowhere; give the key by key_file or the environment"
        )
    if not is_http_address(url):
        raise ValueError(f"{url!r} is no http(s) address; write for example http://127.0.0.1:8000")
    return url


Addresses = Annotated[list[Annotated[str, AfterValidator(_checked)]], BeforeValidator(_split), Field(min_length=1)]
"""One address or several; as a text with spaces between."""
