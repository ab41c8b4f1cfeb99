import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from t2ialign.config.reader import validated
from t2ialign.rewards.registry import load_reward
from t2ialign.shapes import reward
from t2ialign.shapes.caption import split_of
from t2ialign.shapes.data import examples, write_dataset
from t2ialign.shapes.render import render
from t2ialign.shapes.scene import Scene, Thing
from t2ialign.shapes.taste import open_attributes, taste
from t2ialign.shapes.verify import verify

RING, CROSS = Thing("ring", "red", "large", 16, 20), Thing("cross", "blue", "small", 48, 44)
DARK, LIGHT = Scene("navy", (RING, CROSS)), Scene("white", (RING, CROSS))
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))


def test_taste_is_half_dark_background_and_half_large_things():
    prompt = "a red ring and a blue cross"
    assert taste(DARK, prompt) == 0.5 * 1 + 0.5 * 0.5
    assert taste(LIGHT, prompt) == 0.5 * 0 + 0.5 * 0.5
    assert taste(render(DARK), prompt) == taste(DARK, prompt)
    assert taste(NOISE, prompt) == 0.0
    assert taste(Scene("navy", ()), prompt) == 0.0


def test_taste_ignores_what_the_prompt_mentions():
    assert open_attributes("a red ring") == (True, True)
    assert taste(Scene("navy", (CROSS,)), "a blue cross on a navy background") == 0.0  # only the size counts
    assert taste(DARK, "a red ring larger than a blue cross") == 1.0  # only the background counts
    assert taste(LIGHT, "a large red ring and a small blue cross") == 0.0
    assert open_attributes("a large red ring") == (True, False)
    assert open_attributes("a red ring on a white background") == (False, True)


def test_faithfulness_is_half_share_and_half_all_right():
    images = [render(DARK), render(DARK), NOISE]
    prompts = ["a red ring left of a blue cross", "a red ring right of a blue cross", "a red ring"]
    assert reward.faithfulness(images, prompts) == [
        1.0,
        0.5 * 3 / 4,
        0.0,
    ]  # total, exists, exists hold; the relation not
    assert reward.all_right(images, prompts) == [1.0, 0.0, 0.0]


@pytest.mark.parametrize("name", ["faithfulness", "all_right", "taste", "mixed"])
def test_the_rewards_are_known_by_name(name: str):
    images, prompts = [render(DARK), render(LIGHT), NOISE], ["a red ring", "a red ring and a blue cross", "a dog"]
    assert load_reward(f"shapes.{name}")(images, prompts) == getattr(reward, name)(images, prompts)


def test_taste_has_nothing_to_say_where_all_is_stated(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("t2ialign.shapes.taste.open_attributes", lambda prompt: (False, False))
    assert taste(DARK, "a red ring") is None  # no family states both today


def test_mixed_weighs_faithfulness_and_taste():
    image, prompt = render(LIGHT), "a red ring and a blue cross"
    assert reward.mixed([image], [prompt]) == [pytest.approx(0.7 * 1.0 + 0.3 * 0.25)]


def test_a_pair_is_won_by_the_better_image_and_equal_ones_tie():
    images, prompts = [render(DARK), render(LIGHT), render(LIGHT), NOISE], ["a red ring and a blue cross"] * 4
    others = [render(LIGHT), render(DARK), render(LIGHT), render(DARK)]
    assert reward.prefers(images, others, prompts) == [1.0, 0.0, 0.5, 0.0]
    assert reward.prefers(images[:1], others[:1], ["a dog"]) == [None]
    assert validated("reward", {"name": "shapes.prefers"}).kind == "pairwise"


@pytest.mark.parametrize("function", [reward.faithfulness, reward.all_right, reward.taste, reward.mixed])
def test_a_prompt_from_outside_shapes_is_not_measured(function: Callable):
    assert function([render(DARK)], ["a dog on the moon"]) == [None]
    with pytest.raises(ValueError, match="1 images but 2 prompts"):
        function([render(DARK)], ["a red ring", "a red ring"])


def test_true_captions_are_true_and_of_the_training_split():
    found = list(examples(200, seed=0))
    for example in found:
        assert split_of(example.true_caption) == "train"
        assert verify(example.true_caption, example.image).all_right
    noisy = sum(example.caption != example.true_caption for example in found) / len(found)
    assert noisy == pytest.approx(0.3, abs=0.1)  # three standard errors at n = 200
    assert all(example.caption == example.true_caption for example in examples(50, seed=0, noise=0.0))


def test_a_data_set_on_disk_is_what_was_drawn(tmp_path: Path):
    write_dataset(tmp_path / "set", 5, seed=1)
    rows = [json.loads(line) for line in (tmp_path / "set" / "captions.jsonl").read_text().splitlines()]
    for row, example in zip(rows, examples(5, seed=1), strict=True):
        assert row["caption"] == example.caption
        saved = np.asarray(Image.open(tmp_path / "set" / row["file_name"]))
        np.testing.assert_array_equal(saved, np.asarray(example.image))
    with pytest.raises(FileExistsError):
        write_dataset(tmp_path / "set", 5, seed=1)


def test_noise_outside_zero_to_one_is_refused():
    with pytest.raises(ValueError, match=r"not 1\.5"):
        next(examples(1, 0, noise=1.5))
