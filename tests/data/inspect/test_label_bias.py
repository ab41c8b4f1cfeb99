"""What the label of pairs follows: AUC by hand, against the definition, and of images made for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from own_data import write_csv
from PIL import Image

from t2ialign.data.inspect.label_bias import MEASURES, LabelBias, label_auc
from t2ialign.data.inspect.summary import render, summarise
from t2ialign.data.kinds.pairs import PairData


def test_auc_by_hand():
    # d = 3, -1: the scores of label 1 are 3, -1, of label 0 -3, 1; of the four comparisons 3 > -3, 3 > 1, -1 > -3 hold
    assert label_auc([3.0, -1.0])[0] == 0.75
    assert label_auc([1.0, 2.0])[0] == 1.0
    assert label_auc([-1.0])[0] == 0.0
    assert label_auc([0.0, 0.0])[0] == 0.5


def test_auc_is_the_share_of_pairs_told_apart():
    d = np.random.default_rng(0).integers(-3, 5, 40).astype(float)
    told = [(a > -b) + 0.5 * (a == -b) for a in d for b in d]
    assert label_auc(d)[0] == pytest.approx(float(np.mean(told)))


def test_turning_all_labels_around_mirrors_the_auc():
    d = np.random.default_rng(1).normal(0.3, 1, 100)
    assert label_auc(d)[0] + label_auc(-d)[0] == pytest.approx(1.0)


def test_the_deviation_is_that_of_chance():
    rng = np.random.default_rng(2)
    drawn = [label_auc(rng.normal(size=50))[0] for _ in range(400)]
    # a standard deviation of 400 draws has an error of 1 / sqrt(800) = 3.5 %; within 4 of them
    assert np.std(drawn) == pytest.approx(label_auc(np.ones(50))[1], rel=0.15)


def test_no_differences_are_refused():
    with pytest.raises(ValueError, match="no differences"):
        label_auc([])


def test_each_look_is_what_its_name_says():
    white, red = Image.new("RGB", (8, 4), "white"), Image.new("RGB", (8, 4), (255, 0, 0))
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    assert MEASURES["brightness"](white) == 255
    assert (MEASURES["saturation"](white), MEASURES["saturation"](red)) == (0, 255)
    assert MEASURES["size in px"](white) == 32
    assert MEASURES["JPEG size"](noise) > MEASURES["JPEG size"](Image.new("RGB", (64, 64)))


def test_a_strong_bias_is_warned_of_but_chance_is_not():
    assert LabelBias("x", 0.7, 0.02, 900).is_strong()
    assert LabelBias("x", 0.3, 0.02, 900).is_strong()
    assert not LabelBias("x", 0.6, 0.02, 900).is_strong()
    assert LabelBias("x", 0.6, 0.02, 900).is_strong(limit=0.55)
    assert not LabelBias("x", 0.9, 0.24, 4).is_strong()  # of four pairs, chance gives as much


def pairs_of(folder: Path, count: int) -> Path:
    """Chosen images are brighter by 40 and made by `new`, whichever of the two columns they are in; sizes are equal."""
    rows = []
    for number in range(count):
        first = number % 2  # which image is the better one
        for view in (0, 1):
            level = 60 + number + 40 * (view == first)
            Image.new("RGB", (8, 8), (level,) * 3).save(folder / f"{number}_{view}.png")
        made = ["old", "new"] if first else ["new", "old"]
        rows.append(["a cup", f"{number}_0.png", f"{number}_1.png", 1 - first, *made])
    return write_csv(folder / "t.csv", ["prompt", "image_0", "image_1", "label_0", "model_0", "model_1"], rows)


def test_inspect_says_what_the_label_follows_and_warns(tmp_path: Path):
    summary = summarise(PairData(path=pairs_of(tmp_path, 40)))
    aucs = {bias.name: bias.auc for bias in summary.label_biases}
    assert (aucs["brightness"], aucs["saturation"], aucs["size in px"]) == (1.0, 0.5, 0.5)
    assert (aucs["model new"], aucs["model old"]) == (1.0, 0.0)
    text = " ".join(render(summary).split())
    assert "brightness: AUC 1.000 ± 0.091 by chance, 40" in text  # sqrt(81 / (6 * 40 * 41))
    assert "warning the label follows brightness (chosen has more, AUC 1.00)" in text
    assert "the label follows saturation" not in text
    assert "warning" not in render(summary, warn=1.0)
