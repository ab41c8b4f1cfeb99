"""Negative captions of the embedded world: exact, because what a caption states is known."""

from __future__ import annotations

import numpy as np

from t2ialign.errors import DataError
from t2ialign.feedback.negative_captions.base import Answer, Kind, judged
from t2ialign.rng import keyed_seed
from t2ialign.shapes.caption import Perturbation, perturb, perturbations

PERTURBED: dict[Kind, tuple[Perturbation, ...]] = {
    "content": ("shape",),
    "attribute": ("color", "size", "count", "swap"),
    "relation": ("relation",),
    "context": ("background",),
}
"""Which changes of a Shapes caption each kind is; to swap two colors is to mistake whose attribute they are."""


class ShapesEditor:
    """Changes one fact of a caption of Shapes, in its own wording."""

    fingerprint = "shapes v1"
    concurrency = 1

    def __call__(self, prompt: str, kind: Kind, seed: int) -> Answer:
        """
        Raises:
            DataError: the prompt is no caption of Shapes.
        """
        try:
            possible: list[Perturbation] = [change for change in perturbations(prompt) if change in PERTURBED[kind]]
        except ValueError as error:
            raise DataError(f"{error}. For other prompts: --by english, or --by openai:MODEL") from None
        if not possible:
            return Answer("inapplicable", "")
        rng = np.random.default_rng(keyed_seed(seed, "mismatch", prompt, kind))
        return judged(prompt, perturb(prompt, possible[rng.integers(len(possible))], rng))
