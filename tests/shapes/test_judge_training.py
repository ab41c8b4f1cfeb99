"""What assets/shapes-judge was trained on: its answers, its tokens, and the quick passes that training takes."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from judge_answers import Writer, answer_losses, see_pictures
from judge_examples import answer, prompt_of, sample_render, verdicts
from judge_model import patches_of, see
from judge_pair_evaluation import decided
from judge_pair_stage import export_pairs, start_of_pairs, train_pairs
from judge_pairs import BETTER, FORMAT, Pictures, pair_answer, rendered_pair, sample_pair
from PIL import Image
from train_shapes_judge import JUDGE

from t2ialign.shapes.caption import constraints
from t2ialign.shapes.reward import faithfulness
from unigenbench.judges.chat_completion import Completion
from unigenbench.protocol.native import render
from unigenbench.protocol.parsing import Parsed, parse
from unigenbench.types import JudgeReply


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


# Two pictures


@pytest.fixture(scope="module")
def pairs():
    rng = np.random.default_rng(4)
    return [rendered_pair(rng) for _ in range(200)]


def test_the_taught_replies_about_pairs_are_read_as_the_verifiers_preference(pairs):
    for pair in pairs:
        counts = [sum(verdicts(pair.caption, seen)) for seen in (pair.first.seen, pair.second.seen)]
        wanted = 1.0 if counts[0] > counts[1] else 0.0 if counts[0] < counts[1] else 0.5
        reply = pair_answer(pair)
        assert FORMAT.read(completion(reply)) == wanted
        assert FORMAT.read(completion(pair_answer(pair.turned))) == 1 - wanted
        assert f"Right: {counts[0]} and {counts[1]}" in reply
        assert reply.count("Image 1 shows") == reply.count("Image 2 shows") == len(constraints(pair.caption))
    assert {pair.preferred for pair in pairs} == set(BETTER)


def completion(reply: str) -> Completion:
    return Completion(JudgeReply(reply), None)


def test_pairs_are_drawn_so_that_few_are_equal_and_no_place_wins():
    rng = np.random.default_rng(5)
    scenes = [sample_render(rng) for _ in range(12)]
    pictures = Pictures(["a red circle", "two blue squares"] * 6, np.stack([one.pixels for one in scenes]))
    assert [len(group) for group in pictures.groups] == [6, 6]
    found = [sample_pair(pictures, 0.5, rng).preferred for _ in range(400)]
    assert np.mean([preferred == 0.5 for preferred in found]) < 0.35
    # 400 pairs: a standard error of 0.03 of the share of those decided
    assert 0.4 < np.mean([preferred for preferred in found if preferred != 0.5]) < 0.6


def test_a_question_about_two_pictures_is_what_the_processor_gives(pairs):
    processor, model = start_of_pairs(JUDGE)
    writer = Writer(processor)
    for pair in pairs[:3]:
        parts = [{"type": "image", "image": Image.fromarray(one.pixels)} for one in pair]
        parts.append({"type": "text", "text": FORMAT.text(pair.caption)})
        given = processor.apply_chat_template(
            [{"role": "user", "content": parts}],
            tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True,
        )  # fmt: skip
        question = writer.pair_question(pair.caption)
        assert writer.tokenizer.encode(question) == given["input_ids"][0].tolist()
        assert len(writer.tokenizer.encode(question)) < 80
        assert writer.tokenizer.decode(writer.tokenizer.encode(pair_answer(pair))) == pair_answer(pair)
        ids, weights = writer.batch([pair])
        tokens = see_pictures(model, processor, [one.pixels for one in pair]).reshape(1, 32, -1)
        with torch.no_grad():
            loss, _ = answer_losses(model, tokens.repeat(2, 1, 1), [pair, pair], writer)
            shown = {name: given[name] for name in ("pixel_values", "image_grid_thw")}
            kinds = (ids == model.config.image_token_id).int()
            logits = model(input_ids=ids, mm_token_type_ids=kinds, **shown).logits
        said = torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:], reduction="none")
        expected = (said * weights[0, 1:]).sum() / weights[0, 1:].sum()
        torch.testing.assert_close(loss, expected, atol=1e-3, rtol=1e-3)


def test_pairs_to_evaluate_are_those_whose_verified_scores_differ(pairs):
    for pair in pairs:
        images = [Image.fromarray(one.pixels) for one in pair]
        first, second = faithfulness(images, [pair.caption] * 2)
        found = decided(pair.caption, *images)
        if abs(first - second) < 0.3:
            assert found is None
        else:
            assert found.better is images[0 if first > second else 1]
            assert found.worse is images[1 if first > second else 0]


@pytest.mark.slow
def test_the_stage_of_pairs_goes_on_where_it_was_killed(tmp_path):
    state = tmp_path / "pairs.safetensors"
    train_pairs(JUDGE, state, None, steps=1, minutes=10, batch=6)
    train_pairs(JUDGE, state, None, steps=2, minutes=10, batch=6)
    export_pairs(JUDGE, state, tmp_path / "judge")
    record = json.loads((tmp_path / "judge/training.json").read_text())
    assert record["pair_steps"] == 2
    assert list((tmp_path / "judge").glob("*.safetensors"))
