"""Validation images: what is not finite is crossed out, said and not scored."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
import toys
from PIL import Image

from t2ialign.config.generation import GenerationConfig
from t2ialign.training.validation import ValidationImages
from t2ialign.training.validation_sheet import read_sheets


def test_a_validation_image_that_is_not_finite_is_crossed_out_and_not_scored(
    sd15_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    policy = toys.lora_policy(sd15_folder, moved=0.1)
    engine = toys.engine(policy, tmp_path)
    logged: dict[str, float] = {}
    monkeypatch.setattr(engine, "log", logged.update)
    denoise = policy.denoise

    def overflowing(x_t, timesteps, cond, geometry=None, weights="policy"):
        prediction = denoise(x_t, timesteps, cond, geometry, weights)
        if weights == "policy":  # one row alone, in both branches
            prediction[1::2] = torch.nan
        return prediction

    monkeypatch.setattr(policy, "denoise", overflowing)
    scored: list[tuple[int, list[str]]] = []

    def count(images: list[Image.Image], prompts: list[str]) -> list[float | None]:
        scored.append((len(images), prompts))
        return [float(len(images))] * len(images)

    images = ValidationImages(
        policy,
        ["a cat", "a dog"],
        tmp_path / "validation",
        every=1,
        steps=1,
        generation=GenerationConfig(inference_steps=2),
        scorers={"count": count},
    )
    with caplog.at_level(logging.WARNING, logger="t2ialign"):
        images.measure(engine)
    assert scored == [(2, ["a cat", "a dog"]), (1, ["a cat"])]
    assert logged == {"validation/count/base": 2.0, "validation/count/policy": 1.0}
    (said,) = [record.message for record in caplog.records if "validation" in record.message]
    assert "1 of 2 validation images of the policy are not finite" in said
    assert "prompt 'a dog', seed 1" in said
    ((path, sheet),) = read_sheets(tmp_path / "validation")
    assert [row.scores["count"] for row in sheet.rows] == [{"base": 2.0, "policy": 1.0}, {"base": 2.0}]
    with Image.open(path) as picture:
        crossed = picture.crop(sheet.rows[1].boxes["policy"])
        assert {color for _, color in crossed.getcolors()} == {(255, 255, 255), (255, 0, 0)}


def test_means_are_of_prompts_that_are_scored_on_both_sides_and_what_has_no_score_is_counted(
    sd15_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    policy = toys.lora_policy(sd15_folder, moved=0.1)
    engine = toys.engine(policy, tmp_path)
    logged: dict[str, float] = {}
    monkeypatch.setattr(engine, "log", logged.update)
    answers = iter([[1.0, 2.0, None], [None, 5.0, 7.0], [None] * 3, [None] * 3])
    images = ValidationImages(
        policy,
        ["a cat", "a dog", "a hat"],
        tmp_path / "validation",
        every=1,
        steps=1,
        generation=GenerationConfig(inference_steps=1),
        scorers={"some": lambda *_: next(answers), "none": lambda *_: next(answers)},
    )
    with caplog.at_level(logging.WARNING, logger="t2ialign"):
        images.measure(engine)
    assert logged == {"validation/some/base": 2.0, "validation/some/policy": 5.0}
    assert [record.message for record in caplog.records if "no score" in record.message] == [
        f"reward {name} gave no score to {count} of 3 validation images"
        for name, count in (("some", 1), ("some", 1), ("none", 3), ("none", 3))
    ]
