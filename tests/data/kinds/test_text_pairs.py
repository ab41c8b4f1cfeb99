"""One image, a prompt that fits it and one that does not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from own_data import PlainBackbone, write_csv, write_image
from pydantic import ValidationError

from t2ialign.data.encoding.cache import encode
from t2ialign.data.kinds.text_pairs import TextPairData
from t2ialign.data.loading.loader import Batches
from t2ialign.errors import DataError
from t2ialign.noisers.forward import ForwardNoiser
from t2ialign.rng import Draws
from t2ialign.schedules import VPSchedule


def table(folder: Path, rows: list[list[str]]) -> Path:
    write_image(folder / "a.png", seed=1)
    write_image(folder / "b.png", seed=2)
    return write_csv(folder / "texts.csv", ["image", "prompt", "mismatched_prompt"], rows)


ROWS = [["a.png", "a red circle", "a blue circle"], ["b.png", "two cats", "three cats"]]


@pytest.mark.parametrize("cached", [True, False])
def test_both_views_are_one_image_one_noise_and_one_timestep_under_two_prompts(cached: bool, tmp_path: Path):
    data = TextPairData(path=table(tmp_path, ROWS))
    backbone = PlainBackbone()
    encoded = encode(
        data.open(),
        backbone,  # type: ignore[arg-type]
        resolution=16,
        folder=tmp_path / "cache",
        device=torch.device("cpu"),
        cache=data.cache.model_copy(update={"latents": cached, "text": cached}),
    )
    batch = next(iter(Batches(encoded, seed=0, micro_batch=2)))
    assert backbone.images_encoded == 2  # once a row, not once a view
    assert batch.latents.shape[:2] == (2, 2)
    assert batch.geometry is not None
    assert batch.geometry.shape == (2, 2, 6)
    assert torch.equal(batch.latents[:, 0], batch.latents[:, 1])
    assert batch.cond.tokens.shape[:2] == (2, 2)
    assert not torch.equal(batch.cond.tokens[:, 0], batch.cond.tokens[:, 1])
    schedule = VPSchedule(torch.linspace(0.99, 0.01, 10), "epsilon", 1.0)
    noised = ForwardNoiser()(batch, None, schedule, Draws(0, batch.keys))
    assert torch.equal(noised.x_t[:, 0], noised.x_t[:, 1])
    assert torch.equal(noised.timesteps[:, 0], noised.timesteps[:, 1])


@pytest.mark.parametrize(
    ("mismatched", "message"), [("a red circle", "are both 'a red circle'"), ("", "mismatched_prompt is empty")]
)
def test_equal_or_missing_prompts_are_problems_with_their_line(mismatched: str, message: str, tmp_path: Path):
    data = TextPairData(path=table(tmp_path, [*ROWS, ["a.png", "a red circle", mismatched]]))
    with pytest.raises(DataError, match=rf"texts\.csv:4: .*{message}"):
        data.open()


def test_prompts_of_a_pair_cannot_be_dropped(tmp_path: Path):
    with pytest.raises(ValidationError, match="less than or equal to 0"):
        TextPairData(path=tmp_path, prompt_dropout=0.1)
