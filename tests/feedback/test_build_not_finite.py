"""Images of a build that are not finite are failures, counted and named, never pictures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from captioned import rows_of

from t2ialign.config.generation import GenerationConfig
from t2ialign.errors import DataError
from t2ialign.feedback.build import Built, generate_pairs
from t2ialign.feedback.pairing import Pairing
from t2ialign.generation import folder, images
from t2ialign.models import open_model
from t2ialign.rewards.base import PointwiseReward
from t2ialign.rewards.registry import load_reward


@pytest.fixture
def overflowing(monkeypatch) -> list[int]:
    """Numbers of the images, in the order of a folder's record, that come out as NaN."""
    numbers: list[int] = []

    def some_not_finite(policy, prompts, seeds, settings, **options):
        whole = images.try_images(policy, prompts, seeds, settings, **options)
        for image, prompt, seed in zip(whole, prompts, seeds, strict=True):
            wrong = {images.image_seed(0, n // 3, n % 3, settings.seed_policy) for n in numbers}
            yield images.NotFinite(prompt, seed, "latents") if seed in wrong else image

    monkeypatch.setattr(folder, "try_images", some_not_finite)
    return numbers


def build_of_model(out: Path, model: Path, rewards: list[PointwiseReward] | None = None, **options) -> Built:
    policy, mixture = open_model(str(model), family="sd15", loras={}, precision="fp32")
    return generate_pairs(
        out,
        policy,
        ["a red circle", "a blue square"],
        rewards or [load_reward("brightness")],
        Pairing("all"),
        GenerationConfig(guidance_scale=1.0, inference_steps=1, batch=2, images_per_prompt=3),
        weights=mixture,
        description={"model": "tiny"},
        **options,
    )


def test_images_that_are_not_finite_are_failures_of_a_build(tmp_path, sd15_folder, overflowing, caplog):
    overflowing.append(4)
    built = build_of_model(tmp_path / "out", sd15_folder, max_failed=0.2)
    assert (built.totals.images, built.totals.scored, built.totals.failed) == (6, 5, 1)
    assert (built.totals.comparisons, len(rows_of(built.table))) == (3 + 1, built.totals.pairs)
    seed = images.image_seed(0, 1, 1, "keyed")
    assert f"1 of 6 images were not made: the latents of prompt 'a blue square', seed {seed}, are NaN" in caplog.text
    assert json.loads((tmp_path / "out" / "build.json").read_text())["not_made"] == ["1_1.png"]
    assert not (tmp_path / "out" / "images" / "1_1.png").exists()
    assert "1_1.png" not in built.table.read_text()
    again = build_of_model(tmp_path / "out", sd15_folder, max_failed=0.2)
    assert again.was_finished
    assert again.totals == built.totals
    overflowing.clear()
    whole = build_of_model(tmp_path / "whole", sd15_folder)
    pairs = {tuple(row.values()) for row in rows_of(built.table)}
    assert pairs == {tuple(row.values()) for row in rows_of(whole.table) if "1_1.png" not in str(row)}


def test_too_many_images_that_are_not_finite_end_a_build(tmp_path, sd15_folder, overflowing):
    overflowing += [1, 4]
    with pytest.raises(DataError, match=r"2 of 6 images were not made: the latents of prompt 'a red circle'"):
        build_of_model(tmp_path / "out", sd15_folder, max_failed=0.2)
    assert not (tmp_path / "out" / "pairs.csv").exists()
    assert len(list((tmp_path / "out" / "images").glob("*.png"))) == 4


def test_images_that_are_not_finite_and_those_without_a_score_count_together(tmp_path, sd15_folder, overflowing):
    overflowing.append(4)

    def picky(pictures, prompts):
        return [
            None if prompt == "a red circle" and place == 0 else float(place) for place, prompt in enumerate(prompts)
        ]

    rewards = [PointwiseReward("picky", picky, fingerprint="picky")]
    with pytest.raises(DataError, match="could not score 2 of 6 images"):
        build_of_model(tmp_path / "out", sd15_folder, rewards, max_failed=0.2)
