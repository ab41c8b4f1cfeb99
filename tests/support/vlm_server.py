"""What a model's server sees of images, and what it answers to questions about them."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable

from PIL import Image
from stub import Answer, Call


def grey(level: int) -> Image.Image:
    return Image.new("RGB", (8, 8), (level, level, level))


def levels(call: Call) -> list[int]:
    """The red of each image's first pixel, in the order in which they are shown."""
    urls = [part["image_url"]["url"] for part in call.body["messages"][-1]["content"] if part["type"] == "image_url"]
    images = [Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) for url in urls]
    return [image.convert("RGB").getdata(0)[0] for image in images]


def digits(probability: float) -> Answer:
    """One token: 1 with this probability, else 2."""
    top = [("1", math.log(max(probability, 1e-9))), ("2", math.log(max(1 - probability, 1e-9)))]
    return Answer(top[0][0], top_logprobs=top, finish_reason="length")


def brighter(call: Call) -> Answer:
    """Prefers the brighter of two images, more surely the greater the difference; says 1 to one image."""
    seen = levels(call)
    return digits(1.0 if len(seen) < 2 else 0.5 + (seen[0] - seen[1]) / 510)


def after_probe(answer: Callable[[Call], Answer]) -> Callable[[Call], Answer]:
    """This answer to all questions but the probe's, which is answered as it should be."""
    return lambda call: digits(1.0) if call.is_probe else answer(call)
