"""Questions about one image or several, and the parts of a message that they are sent as."""

from __future__ import annotations

import base64
from hashlib import blake2b
from typing import Any, NamedTuple


class Question(NamedTuple):
    """What a judge is shown and asked, apart from any test points."""

    text: str
    images: tuple[bytes, ...]
    """PNG files, shown in this order before the text"""
    max_tokens: int = 1024
    """of the reply"""
    logprobs: bool = False
    """asks for one token and its most probable candidates instead"""

    @property
    def identity(self) -> str:
        """32 hex digits that change with anything the judge is shown."""
        digest = blake2b(repr((self.text, self.max_tokens, self.logprobs)).encode("utf-8", "replace"), digest_size=16)
        for image in self.images:
            digest.update(blake2b(image, digest_size=16).digest())
        return digest.hexdigest()


def text_part(text: str) -> dict[str, Any]:
    """A text, as a part of a message's content."""
    return {"type": "text", "text": text}


def image_part(data: bytes, media_type: str = "image/png") -> dict[str, Any]:
    """An image file, as a part of a message's content."""
    return {"type": "image_url", "image_url": {"url": f"data:{media_type};base64,{base64.b64encode(data).decode()}"}}
