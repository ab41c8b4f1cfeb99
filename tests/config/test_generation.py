"""One section says how images are made; commands and validation have its defaults."""

from __future__ import annotations

import inspect

import pytest
from pydantic import ValidationError

from t2ialign.cli.data import build
from t2ialign.cli.generate import generate
from t2ialign.config.generation import GenerationConfig
from t2ialign.config.schema import Validate

OPTIONS = {"guidance": "guidance_scale", "steps": "inference_steps"}
"""Command-line option -> key."""


def test_the_command_has_every_key_but_the_noise_of_its_steps():
    options = {OPTIONS.get(name, name) for name in inspect.signature(generate).parameters}
    assert set(GenerationConfig.model_fields) - options == {"eta"}


def test_what_would_have_no_part_in_the_images_is_refused():
    with pytest.raises(ValidationError, match="negative_prompt has no part"):
        GenerationConfig(negative_prompt="a dog", guidance_scale=1)
    with pytest.raises(ValidationError, match="scheduler euler has none"):
        GenerationConfig(eta=0.5, scheduler="euler")


@pytest.mark.parametrize("command", [generate, build])
def test_options_of_commands_have_the_defaults_of_the_section(command):
    defaults = {name: option.default for name, option in inspect.signature(command).parameters.items()}
    section = GenerationConfig().model_dump()
    for option in ("guidance", "steps", "resolution", "batch", "seed"):
        assert defaults[option] == section[OPTIONS.get(option, option)]


def test_validation_makes_images_as_its_own_keys_say():
    assert Validate.model_validate({}).generation == GenerationConfig()
    own = Validate.model_validate({"guidance_scale": 3, "inference_steps": 7})
    assert own.generation == GenerationConfig(guidance_scale=3, inference_steps=7)


@pytest.mark.parametrize(
    "wrong", [{"guidance_scale": 0.5}, {"inference_steps": 0}, {"eta": 1.5}, {"resolution": 0}, {"seed_policy": "same"}]
)
def test_values_out_of_range_are_refused(wrong: dict):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        GenerationConfig.model_validate(wrong)
