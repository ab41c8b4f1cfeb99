"""A vision-language model in this process as a reward."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from vlm_server import grey

from t2ialign.errors import InputError
from t2ialign.rewards.base import PairwiseReward, PointwiseReward
from t2ialign.rewards.registry import validated
from t2ialign.shapes.render import render
from t2ialign.shapes.scene import Scene, Thing
from unigenbench.judges.hf_local import HFLocal
from unigenbench.judges.hf_model import Generation
from unigenbench.types import Usage

DARK, BRIGHT = grey(0), grey(255)


class Brighter:
    """Stands in for a loaded model: prefers the brighter image, in words or as its first token."""

    class OutOfMemory(Exception):
        """What a model raises that found no memory."""

    out_of_memory = OutOfMemory

    def __init__(self) -> None:
        self.batches: list[int] = []

    def generate(self, turns, max_tokens, temperature, seed):
        self.batches.append(len(turns))
        reds = [[image.getpixel((0, 0))[0] for image in turn.images] for turn in turns]
        better = ["1" if red[0] > red[-1] else "2" for red in reds]
        return [Generation(f"Image {n} is better", False, Usage(), [], [], ((n, -0.01),)) for n in better]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "judge").mkdir()
    (tmp_path / "judge/config.json").write_text("{}")
    return tmp_path / "judge"


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Brighter:
    stand_in = Brighter()
    monkeypatch.setattr(HFLocal, "_load", lambda self: stand_in)
    return stand_in


def config(path: Path | str, name: str = "vlm.prefers", **options: Any):
    return validated("reward", {"name": name, "model": f"hf:{path}", **options})


@pytest.mark.parametrize("form", ["logits", "plain"])
def test_a_pair_is_judged_without_an_address_or_a_key(form, folder, model, monkeypatch):
    for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY", "UNIGENBENCH_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    section = config(folder, format=form, batch_size=4)
    section.check()
    assert model.batches == []  # nothing is loaded for a check
    reward = section.load()
    assert isinstance(reward, PairwiseReward)
    assert reward([BRIGHT, DARK] * 3, [DARK, BRIGHT] * 3, ["a cat"] * 6) == [1.0, 0.0] * 3
    assert model.batches == [1, 4, 2]  # the probe, then pairs as many as batch_size says
    assert reward.calls == 1


def test_an_image_is_scored_by_the_first_token(folder, model):
    reward = config(folder, "vlm.scores").load()
    assert isinstance(reward, PointwiseReward)
    assert reward([BRIGHT], ["a cat"]) == [None]  # the stand-in says 2, which is no answer about one image


def test_the_fingerprint_is_of_the_weights_and_not_of_their_place(folder, tmp_path):
    here = config(folder).fingerprint()
    folder.rename(tmp_path / "elsewhere")
    assert config(tmp_path / "elsewhere").fingerprint() == here
    (tmp_path / "elsewhere/config.json").write_text('{"a": 1}')
    assert config(tmp_path / "elsewhere").fingerprint() != here


def test_a_shipped_model_is_found_from_anywhere(tmp_path, monkeypatch):
    here = config("assets/shapes-judge").fingerprint()
    monkeypatch.chdir(tmp_path)
    section = config("assets/shapes-judge")
    section.check()
    assert section.fingerprint() == here


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(InputError, match=r"reward 'vlm.prefers': judge hf:.*: no config\.json there"):
        config(tmp_path).check()


def test_a_model_that_cannot_be_loaded_is_a_wrong_input(folder):
    reward = config(folder).load()
    assert isinstance(reward, PairwiseReward)
    with pytest.raises(InputError, match=r"reward 'vlm.prefers': hf:.*cannot be loaded.*; name another model"):
        reward([BRIGHT], [DARK], ["a cat"])


def test_the_shipped_judge_prefers_what_the_caption_says_in_both_orders():
    reward = config("assets/shapes-judge", format="plain", batch_size=8, max_tokens=130).load()
    assert isinstance(reward, PairwiseReward)
    red, blue, green = (
        render(Scene("white", (Thing("circle", color, "large", 32, 32),))) for color in ("red", "blue", "green")
    )
    right, wrong = [red, blue, green], [blue, green, red]
    captions = ["a red circle", "a blue circle", "a green circle"]
    assert reward(right, wrong, captions) == [1.0] * 3
    assert reward(wrong, right, captions) == [0.0] * 3
    assert reward(right, right, captions) == [0.5] * 3
