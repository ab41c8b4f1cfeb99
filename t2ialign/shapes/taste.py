"""The stated preference of Shapes on what a prompt leaves open: dark backgrounds and large things."""

from PIL import Image

from t2ialign.shapes.caption import constraints
from t2ialign.shapes.scene import DARK_BACKGROUNDS, Scene
from t2ialign.shapes.verify import Unreadable, read


def taste(image: Image.Image | Scene | Unreadable, prompt: str) -> float | None:
    """How far the picture is to our taste, in [0, 1]: half for a dark background, half for the share of large things.

    What the prompt mentions does not count: with a stated background only the sizes do, with any stated size or
    comparison only the background does. An unreadable picture, or one without things, gets 0.

    Args:
        image: a picture, or what `verify.read` saw in it.
        prompt: a caption of Shapes.

    Returns:
        None where the prompt leaves neither open.

    Raises:
        ValueError: the prompt is not a caption of Shapes.
    """
    background_open, size_open = open_attributes(prompt)
    if not background_open and not size_open:
        return None
    seen = read(image) if isinstance(image, Image.Image) else image
    if isinstance(seen, Unreadable) or not seen.things:
        return 0.0
    parts = []
    if background_open:
        parts.append(float(seen.background in DARK_BACKGROUNDS))
    if size_open:
        parts.append(sum(thing.size == "large" for thing in seen.things) / len(seen.things))
    return sum(parts) / len(parts)


def open_attributes(prompt: str) -> tuple[bool, bool]:
    """(whether the prompt leaves the background open, whether it leaves every size open).

    Raises:
        ValueError: the prompt is not a caption of Shapes.
    """
    stated = constraints(prompt)
    sizes = any(c.kind == "comparison" or c.subject.size or c.target.size for c in stated)
    return all(c.kind != "background" for c in stated), not sizes
