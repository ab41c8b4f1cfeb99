"""What assets/shapes-judge was trained on: its answers, its tokens, and the quick passes that training takes."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from t2ialign.shapes.caption import constraints
from unigenbench.protocol.parsing import Parsed, parse
from unigenbench.protocol.rubric import render

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, str(ROOT / "scripts" / "research"))
    import train_shapes_judge

    yield train_shapes_judge
    sys.path.remove(str(ROOT / "scripts" / "research"))


@pytest.fixture(scope="module")
def judge(script):
    """(model, processor) as shipped."""
    from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(script.JUDGE, dtype=torch.float32).eval()
    return model, AutoProcessor.from_pretrained(script.JUDGE)


@pytest.fixture(scope="module")
def examples(script):
    rng = np.random.default_rng(3)
    return [script.sample_render(rng) for _ in range(300)]


def test_the_taught_answers_parse_to_the_verifiers_verdicts(script, examples):
    for example in examples:
        wanted = tuple(script.verdicts(example.caption, example.seen))
        found = parse(script.answer(example.caption, example.seen), len(wanted))
        assert isinstance(found, Parsed)
        assert found.verdicts == wanted
        assert len(found.analyses) == len(constraints(example.caption))


def test_both_verdicts_are_taught_for_colors_shapes_and_numbers(script, examples):
    taught: dict[str, list[int]] = {}
    for example in examples:
        for stated, digit in zip(
            constraints(example.caption), script.verdicts(example.caption, example.seen), strict=True
        ):
            taught.setdefault(stated.criterion, []).append(digit)
    for criterion in ("Attribute - Color", "Attribute - Shape", "Attribute - Quantity"):
        assert 0.3 < np.mean(taught[criterion]) < 0.9, criterion


def test_training_reads_what_the_processor_gives(script, judge, examples):
    model, processor = judge
    writer = script.Writer(processor)
    for example in examples[:3]:
        prompt = script.prompt_of(example.caption)
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
        patches = script.patches_of(example.pixels[None], processor)
        torch.testing.assert_close(patches[0], given["pixel_values"], atol=1e-5, rtol=0)
        with torch.no_grad():
            seen = script.see(model.model.visual, patches)
            library = model.model.visual(given["pixel_values"], given["image_grid_thw"]).pooler_output
        torch.testing.assert_close(seen[0], library, atol=1e-4, rtol=1e-4)
