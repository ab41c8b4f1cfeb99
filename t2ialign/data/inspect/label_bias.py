"""How far the label of pairs follows what should not matter: brightness, saturation, size, JPEG size, source model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from typing import NamedTuple

import numpy as np
from PIL import Image

from t2ialign.data.base import Example
from t2ialign.data.images import open_image
from t2ialign.data.tables.table import Row
from t2ialign.progress import track

MAX_PAIRS = 2000
"""Pairs that are measured, evenly spaced; every image of them is decoded and encoded once."""
JPEG_QUALITY = 90
AUC_WARNING = 0.65
"""An AUC above this, or below one minus this, deserves a warning."""
SIGMAS = 3.0
"""Chance alone deserves none: how many of its standard deviations an AUC must be away from one half."""
MODEL_COLUMNS = (("model_0", "model_1"), ("model_chosen", "model_rejected"), ("model_w", "model_l"))
"""Pairs of columns that name what made the two images; the first two belong to images 0 and 1 with a label."""


class LabelBias(NamedTuple):
    """How well one number tells which of two images is chosen."""

    name: str
    auc: float
    """That the chosen one has more: of two pairs shown in either order, the share told apart by the difference of the
    number; 0.5 says nothing, in [0, 1]."""
    chance: float
    """Standard deviation that chance alone gives around 0.5."""
    pairs: int

    def is_strong(self, limit: float = AUC_WARNING) -> bool:
        """Whether it deserves a warning."""
        away = abs(self.auc - 0.5)
        return away > limit - 0.5 and away > SIGMAS * self.chance


def label_auc(differences: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """The AUC of the label against a number, from chosen minus rejected, and the deviation that chance gives it.

    A pair shown as (chosen, rejected) has the difference d and the label 1, shown the other way round -d and 0; so the
    AUC is P(d_i > -d_j) + P(d_i = -d_j) / 2 over all i, j. Its deviation under chance is that of the signed-rank
    statistic (Wilcoxon 1945, doi:10.2307/3001968), sqrt(1 / (3 n)) for large n.

    Args:
        differences: [n], n >= 1

    Raises:
        ValueError: there are none.
    """
    d = np.asarray(differences, np.float64)
    if d.size == 0:
        raise ValueError("no differences")
    negative = np.sort(-d)
    below = np.searchsorted(negative, d, side="left") + np.searchsorted(negative, d, side="right")
    n = d.size
    return float(below.sum() / (2 * n * n)), float(np.sqrt((2 * n + 1) / (6 * n * (n + 1))))


def _brightness(image: Image.Image) -> float:
    return float(np.asarray(image.convert("L"), np.float32).mean())


def _saturation(image: Image.Image) -> float:
    return float(np.asarray(image.convert("HSV"), np.float32)[..., 1].mean())


def _size(image: Image.Image) -> float:
    return float(image.width * image.height)


def _jpeg_size(image: Image.Image) -> float:
    file = BytesIO()
    image.save(file, format="JPEG", quality=JPEG_QUALITY)
    return float(file.tell())


MEASURES: Mapping[str, Callable[[Image.Image], float]] = {
    "brightness": _brightness,
    "saturation": _saturation,
    "size in px": _size,
    "JPEG size": _jpeg_size,
}
"""Name -> number of an image that a label should not follow."""


def label_biases(
    pairs: Sequence[Example], rows: Mapping[str, Row], first: Callable[[Row], int] | None
) -> list[LabelBias]:
    """How far the label follows each of MEASURES and, where columns name them, each source model.

    Args:
        pairs: examples of two images, the chosen one first.
        rows: origin of an example -> its row of the table.
        first: which of a row's images 0 and 1 is the chosen one, where a label says so.
    """
    if not pairs:
        return []
    some = [pairs[place * len(pairs) // MAX_PAIRS] for place in range(MAX_PAIRS)] if len(pairs) > MAX_PAIRS else pairs
    measured = [_differences(pair) for pair in track(some, "measuring what the label follows", len(some))]
    found = [_bias(name, [differences[name] for differences in measured]) for name in MEASURES]
    models = [made for pair in pairs if (made := _models(rows.get(pair.origin), first)) is not None]
    return found + _model_biases(models)


def _bias(name: str, differences: Sequence[float]) -> LabelBias:
    return LabelBias(name, *label_auc(differences), len(differences))


def _differences(pair: Example) -> dict[str, float]:
    """Chosen minus rejected of each measure."""
    chosen, rejected = (open_image(image) for image in pair.images)
    return {name: measure(chosen) - measure(rejected) for name, measure in MEASURES.items()}


def _models(row: Row | None, first: Callable[[Row], int] | None) -> tuple[str, str] | None:
    """What made the chosen and the rejected image, where the row says so."""
    if row is None:
        return None
    for columns in MODEL_COLUMNS:
        named = tuple(row.cells.get(column) for column in columns)
        if all(isinstance(name, str) and name for name in named):
            is_second = columns is MODEL_COLUMNS[0] and first is not None and first(row) == 1
            return (str(named[1]), str(named[0])) if is_second else (str(named[0]), str(named[1]))
    return None


def _model_biases(models: Sequence[tuple[str, str]]) -> list[LabelBias]:
    """Of each model, over the pairs in which it meets another."""
    found = []
    for name, _ in Counter(name for pair in models for name in set(pair)).most_common():
        meetings = [pair for pair in models if name in pair and pair[0] != pair[1]]
        if meetings:
            wins = [1.0 if pair[0] == name else -1.0 for pair in meetings]
            found.append(_bias(f"model {name}", wins))
    return found
