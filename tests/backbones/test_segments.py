"""Prompts of several segments: each is encoded as it would be alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from rich.console import Console
from standins import MAX_TOKENS
from toys import pair_folder, write_config

from t2ialign.backbones.segments import segment_tokens
from t2ialign.backbones.stable_diffusion import StableDiffusion15, StableDiffusionXL
from t2ialign.config.reader import load
from t2ialign.models import open_model
from t2ialign.training.train import train

CPU = torch.device("cpu")
LONG = "a red circle above a blue square beside a green triangle, on a wide grey table"


@pytest.fixture(params=["sd15", "sdxl"])
def config(request: pytest.FixtureRequest, sd15_folder: Path, sdxl_folder: Path):
    if request.param == "sdxl":
        return StableDiffusionXL(pretrained=str(sdxl_folder))
    return StableDiffusion15(pretrained=str(sd15_folder))


def test_a_prompt_fills_its_segments_in_order(config):
    tokenizer = config.build(CPU).pipeline().components["tokenizer"]
    ids = tokenizer(LONG, add_special_tokens=False).input_ids
    words = MAX_TOKENS - 2
    assert len(ids) > 2 * words
    rows = segment_tokens(tokenizer, [LONG, "a cat"], 2)
    assert rows.shape == (2, 2, MAX_TOKENS)
    for place in range(2):
        assert rows[0, place].tolist() == [
            tokenizer.bos_token_id,
            *ids[place * words : (place + 1) * words],
            tokenizer.eos_token_id,
        ]
    whole = tokenizer([LONG, "a cat", ""], padding="max_length", max_length=MAX_TOKENS, truncation=True).input_ids
    assert rows[:, 0].tolist() == whole[:2]
    assert rows[1, 1].tolist() == whole[2]


def test_each_segment_is_encoded_as_alone_and_the_pooled_embedding_is_of_the_first(config):
    one, two = config.build(CPU), config.model_copy(update={"prompt_segments": 2}).build(CPU)
    found, first = two.encode_prompts([LONG, "a cat"]), one.encode_prompts([LONG, "a cat"])
    assert found.tokens.shape[1] == 2 * MAX_TOKENS
    torch.testing.assert_close(found.tokens[:, :MAX_TOKENS], first.tokens)
    torch.testing.assert_close(found.tokens[1, MAX_TOKENS:], one.encode_prompts([""]).tokens[0])
    assert not torch.allclose(found.tokens[0, MAX_TOKENS:], found.tokens[1, MAX_TOKENS:])
    if found.pooled is not None:
        torch.testing.assert_close(found.pooled, first.pooled)
    assert two.null().tokens.shape == (1, *found.tokens.shape[1:])
    assert one.fingerprint != two.fingerprint


def test_what_fits_the_segments_is_not_called_cut(config):
    enough = -(-len(LONG.split()) * 3 // (MAX_TOKENS - 2))
    assert config.build(CPU).truncated([LONG]) == [LONG]
    assert config.model_copy(update={"prompt_segments": enough}).build(CPU).truncated([LONG]) == []


def test_a_run_with_segments_trains_and_states_them_as_a_model(sd15_folder: Path, tmp_path: Path):
    pairs = pair_folder(tmp_path / "pairs", 4)
    path = write_config(tmp_path / "x.yaml", model=sd15_folder, pairs=pairs, run_dir=tmp_path / "x")
    overrides = ["train.steps=1", "backbone.prompt_segments=2", "data.prompt_dropout=0.5"]
    train(load(path, overrides), console=Console(quiet=True))
    policy, _ = open_model(str(tmp_path / "x"), family="sd15", loras={}, precision="fp32")
    assert policy.null().tokens.shape[1] == 2 * MAX_TOKENS
