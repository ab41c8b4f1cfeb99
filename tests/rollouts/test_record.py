"""The record of rollouts: a line an image, the images that are kept, and how images drift."""

from __future__ import annotations

import colorsys
import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from t2ialign.errors import DataError
from t2ialign.rollouts.estimation import Judged
from t2ialign.rollouts.record import Record, drift, read_record
from t2ialign.rollouts.rollout import Prompts, RolledOut
from t2ialign.types import Conditioning


def rolled_out(colours: list[list[str | None]], latents: torch.Tensor | None = None) -> RolledOut:
    images = [[None if colour is None else Image.new("RGB", (8, 8), colour) for colour in group] for group in colours]
    return RolledOut(torch.zeros(len(images), len(images[0]), 1, 2, 2) if latents is None else latents, images)


def prompts_of(first: int, texts: list[str]) -> Prompts:
    groups = torch.arange(first, first + len(texts))
    return Prompts(texts, Conditioning(torch.zeros(len(texts), 1, 1), None), None, (1, 2, 2), groups)


def judged(scores: list[list[float]]) -> Judged:
    values = torch.tensor(scores)
    return Judged(values - 0.5, {"own": values}, {})


def test_every_image_has_a_line_and_some_are_kept(tmp_path: Path):
    record = Record(tmp_path, 0, groups=1)
    record.keep(
        3, prompts_of(6, ["a", "b"]), rolled_out([["red", None], ["blue", "blue"]]), judged([[1, torch.nan], [0.25, 0]])
    )
    lines = [json.loads(line) for line in (tmp_path / "rollouts.jsonl").read_text().splitlines()]
    assert [(line["group"], line["image"], line["prompt"], line["rewards"], line["advantage"]) for line in lines] == [
        (6, 0, "a", {"own": 1.0}, 0.5), (6, 1, "a", {"own": None}, None),
        (7, 0, "b", {"own": 0.25}, -0.25), (7, 1, "b", {"own": 0.0}, -0.5),
    ]  # fmt: skip
    assert [line["file"] for line in lines] == ["rollouts/000003/6-0.png", None, None, None]
    with Image.open(tmp_path / lines[0]["file"]) as image:
        assert image.getpixel((0, 0)) == (255, 0, 0)


def test_an_iteration_that_is_made_again_replaces_itself(tmp_path: Path):
    for score in (0.0, 1.0):
        Record(tmp_path, 0, groups=0).keep(0, prompts_of(0, ["a"]), rolled_out([["red"]]), judged([[score]]))
    assert [made.rewards for made in read_record(tmp_path)] == [{"own": 1.0}]


def test_a_line_that_is_still_being_written_is_left_out_and_a_damaged_one_named(tmp_path: Path):
    assert read_record(tmp_path) == []
    Record(tmp_path, 0, groups=0).keep(0, prompts_of(0, ["a"]), rolled_out([["red"]]), judged([[1.0]]))
    path = tmp_path / "rollouts.jsonl"
    whole = path.read_text()
    path.write_text(whole + whole[:20])
    assert len(read_record(tmp_path)) == 1
    path.write_text('{"group": 1}\n' + whole)
    with pytest.raises(DataError, match=r"rollouts.jsonl:1: not an entry with iteration, group"):
        read_record(tmp_path)


def test_diversity_is_the_spread_of_a_group_and_saturation_the_mean_of_images():
    latents = torch.zeros(2, 2, 1, 2, 2)
    latents[0, 0], latents[0, 1] = 1, -1  # root mean square distance from the mean: 1; of the other group 0
    colour = "#c08080"
    found = drift(rolled_out([[colour, None], ["white", colour]], latents), lambda sums: sums)
    saturation = colorsys.rgb_to_hsv(0xC0 / 255, 0x80 / 255, 0x80 / 255)[1]
    assert found["rollout/diversity"] == pytest.approx(0.5)
    assert found["rollout/saturation"] == pytest.approx(2 * saturation / 3, abs=0.005)


def test_what_could_not_be_made_has_no_part_in_the_drift():
    latents = torch.full((1, 2, 1, 2, 2), torch.nan)
    assert drift(rolled_out([[None, None]], latents), lambda sums: sums) == {}


def test_sums_are_taken_over_all_processes():
    latents = torch.zeros(1, 2, 1, 2, 2)
    latents[0, 0], latents[0, 1] = 1, -1
    other = torch.tensor([3.0, 0.0, 2.0, 1.0], dtype=torch.float64)
    found = drift(rolled_out([["white", "white"]], latents), lambda sums: sums + other)
    assert found == {"rollout/diversity": 0.25, "rollout/saturation": 0.25}
