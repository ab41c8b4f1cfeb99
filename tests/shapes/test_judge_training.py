"""What assets/shapes-judge was trained on: its answers, its tokens, and the quick passes that training takes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from judge_examples import answer, prompt_of, sample_render, verdicts
from judge_model import Writer, patches_of, see
from PIL import Image
from train_shapes_judge import JUDGE

from t2ialign.shapes.caption import constraints
from unigenbench.protocol.native import render
from unigenbench.protocol.parsing import Parsed, parse


@pytest.fixture(scope="module")
def judge():
    """(model, processor) as shipped."""
    from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(JUDGE, dtype=torch.float32).eval()
    return model, AutoProcessor.from_pretrained(JUDGE)


@pytest.fixture(scope="module")
def examples():
    rng = np.random.default_rng(3)
    return [sample_render(rng) for _ in range(300)]


def test_the_taught_answers_parse_to_the_verifiers_verdicts(examples):
    for example in examples:
        wanted = tuple(verdicts(example.caption, example.seen))
        found = parse(answer(example.caption, example.seen), len(wanted))
        assert isinstance(found, Parsed)
        assert found.verdicts == wanted
        assert len(found.analyses) == len(constraints(example.caption))


def test_both_verdicts_are_taught_for_colors_shapes_and_numbers(examples):
    taught: dict[str, list[int]] = {}
    for example in examples:
        for stated, digit in zip(constraints(example.caption), verdicts(example.caption, example.seen), strict=True):
            taught.setdefault(stated.criterion, []).append(digit)
    for criterion in ("Attribute - Color", "Attribute - Shape", "Attribute - Quantity"):
        assert 0.3 < np.mean(taught[criterion]) < 0.9, criterion


def test_training_reads_what_the_processor_gives(judge, examples):
    model, processor = judge
    writer = Writer(processor)
    for example in examples[:3]:
        prompt = prompt_of(example.caption)
        parts = [{"type": "image", "image": Image.fromarray(example.pixels)}]
        parts.append({"type": "text", "text": render(prompt, "en")})
        given = processor.apply_chat_template(
            [{"role": "user", "content": parts}],
            tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True,
        )  # fmt: skip
        tokens = writer.tokenizer.encode(writer.question(prompt))
        assert tokens == given["input_ids"][0].tolist()
        assert len(tokens) < 120
        assert writer.tokenizer.decode(tokens) == writer.question(prompt)
        patches = patches_of(example.pixels[None], processor)
        torch.testing.assert_close(patches[0], given["pixel_values"], atol=1e-5, rtol=0)
        with torch.no_grad():
            seen = see(model.model.visual, patches)
            library = model.model.visual(given["pixel_values"], given["image_grid_thw"]).pooler_output
        torch.testing.assert_close(seen[0], library, atol=1e-4, rtol=1e-4)
