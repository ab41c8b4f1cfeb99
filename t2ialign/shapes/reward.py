"""Rewards of Shapes: plain functions of pictures and prompts, one number or None per picture or pair.

None means that nothing could be measured: the prompt is no caption of Shapes, or taste has nothing to say about it. An
unreadable picture was measured, and is wrong.
"""

from collections.abc import Sequence

from PIL import Image

from t2ialign.shapes import taste as taste_
from t2ialign.shapes.caption import constraints
from t2ialign.shapes.constraint import Constraint
from t2ialign.shapes.scene import Scene
from t2ialign.shapes.verify import Unreadable, read, verify

FAITHFULNESS_WEIGHT, TASTE_WEIGHT = 0.7, 0.3
"""Weights of `mixed`."""


def faithfulness(images: Sequence[Image.Image], prompts: Sequence[str]) -> list[float | None]:
    """Half the share of the prompt's constraints that hold, and half for all of them holding; in [0, 1]."""
    return [_faithfulness(seen, stated) for seen, stated in _seen(images, prompts)]


def all_right(images: Sequence[Image.Image], prompts: Sequence[str]) -> list[float | None]:
    """1 where every constraint of the prompt holds, else 0."""
    return [
        None if stated is None else float(verify(stated, seen).all_right) for seen, stated in _seen(images, prompts)
    ]


def taste(images: Sequence[Image.Image], prompts: Sequence[str]) -> list[float | None]:
    """`taste.taste` of each picture, in [0, 1]; None where the prompt leaves nothing open."""
    seen = _seen(images, prompts)
    return [None if s is None else taste_.taste(scene, p) for (scene, s), p in zip(seen, prompts, strict=True)]


def mixed(images: Sequence[Image.Image], prompts: Sequence[str]) -> list[float | None]:
    """0.7 faithfulness + 0.3 taste, in [0, 1]; faithfulness alone where the prompt leaves taste nothing to say."""
    rewards: list[float | None] = []
    for (seen, stated), prompt in zip(_seen(images, prompts), prompts, strict=True):
        faithful = _faithfulness(seen, stated)
        liked = None if stated is None else taste_.taste(seen, prompt)
        mixture = (
            faithful if faithful is None or liked is None else FAITHFULNESS_WEIGHT * faithful + TASTE_WEIGHT * liked
        )
        rewards.append(mixture)
    return rewards


def prefers(
    images_a: Sequence[Image.Image], images_b: Sequence[Image.Image], prompts: Sequence[str]
) -> list[float | None]:
    """1 where image a has the higher `mixed` reward, 0 where image b has, 0.5 where they are equal."""
    scores = zip(mixed(images_a, prompts), mixed(images_b, prompts), strict=True)
    return [None if a is None or b is None else 0.5 * ((a > b) - (a < b)) + 0.5 for a, b in scores]


def _faithfulness(seen: Scene | Unreadable, stated: tuple[Constraint, ...] | None) -> float | None:
    if stated is None:
        return None
    verdicts = verify(stated, seen)
    return 0.5 * verdicts.share + 0.5 * verdicts.all_right


def _seen(
    images: Sequence[Image.Image], prompts: Sequence[str]
) -> list[tuple[Scene | Unreadable, tuple[Constraint, ...] | None]]:
    """What is in each picture, and what its prompt states; None for a prompt from outside Shapes."""
    if len(images) != len(prompts):
        raise ValueError(f"{len(images)} images but {len(prompts)} prompts; pass one prompt per image")
    return [(read(image), _stated(prompt)) for image, prompt in zip(images, prompts, strict=True)]


def _stated(prompt: str) -> tuple[Constraint, ...] | None:
    try:
        return constraints(prompt)
    except ValueError:  # the documented answer of `constraints` to a text from outside Shapes
        return None
