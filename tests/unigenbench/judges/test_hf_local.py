"""Models in this process: how requests become batches, and what a real small model answers."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import (
    AutoProcessor,
    GenerationConfig,
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from t2ialign.shapes.render import render
from t2ialign.shapes.scene import Scene, Thing
from unigenbench.errors import InputError
from unigenbench.judges.base import FatalFailure, JudgeOptions, JudgeTruncated, open_judge
from unigenbench.judges.hf_local import HFLocal, digit_probabilities
from unigenbench.judges.hf_model import Generation
from unigenbench.judges.questions import Question
from unigenbench.protocol.native import render as rubric
from unigenbench.protocol.parsing import parse
from unigenbench.types import ImageFile, JudgeRequest, Point, Prompt, Usage

JUDGE = Path(__file__).parents[3] / "assets/shapes-judge"
POINTS = (
    Point("attribute.quantity", "Attribute - Quantity", "things in the picture: 1"),
    Point("attribute.color", "Attribute - Color", "every thing is a red shape"),
    Point("attribute.shape", "Attribute - Shape", "every thing is a circle"),
)
PROMPT = Prompt(0, "a red circle", "", "", "", "", POINTS)


def request(color: str = "red", shape: str = "circle", **fields) -> JudgeRequest:
    image = render(Scene("white", (Thing(shape, color, "large", 32, 32),)))
    buffer = BytesIO()
    image.save(buffer, "PNG")
    file = ImageFile(0, 0, Path("0_0.png"), f"{color} {shape}", 64, 64, "PNG")
    given = {"image_first": True, "max_tokens": 128} | fields
    return JudgeRequest("s/0/0/0", PROMPT, file, rubric(PROMPT, "en"), buffer.getvalue(), "image/png", **given)


class Engine:
    """Stands in for a loaded model: notes its batches, answers each text with its image's upper left pixel."""

    class OutOfMemory(Exception):
        """What a model raises that found no memory."""

    out_of_memory = OutOfMemory

    def __init__(self, room: int = 100, cut: bool = False):
        self.room, self.cut, self.freed = room, cut, 0
        self.calls: list[tuple[int, int, float, int]] = []
        self.texts: list[str] = []

    def generate(self, turns, max_tokens, temperature, seed):
        self.calls.append((len(turns), max_tokens, temperature, seed))
        if len(turns) > self.room:
            raise self.OutOfMemory("no room")
        self.texts += [turn.text for turn in turns]
        colors = [" ".join(str(image.getpixel((0, 0))) for image in turn.images) for turn in turns]
        first = (("1", -0.1), ("2", -2.4))
        return [Generation(said, self.cut, Usage(10, 2), ["1"], [0.25], first) for said in colors]

    def free_memory(self):
        self.freed += 1


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Function (engine, options) -> judge."""
    (tmp_path / "config.json").write_text("{}")

    def open_with(engine: Engine, **options) -> HFLocal:
        judge = open_judge(f"hf:{tmp_path}", JudgeOptions(**options))
        assert isinstance(judge, HFLocal)
        monkeypatch.setattr(judge, "_load", lambda: engine)
        return judge

    return open_with


def together(judge: HFLocal, requests: list[JudgeRequest]):
    async def ask():
        try:
            return await asyncio.gather(*(judge.judge(r) for r in requests), return_exceptions=True)
        finally:
            await judge.aclose()

    return asyncio.run(ask())


def filled(color: tuple[int, int, int], **fields) -> JudgeRequest:
    buffer = BytesIO()
    Image.new("RGB", (8, 8), color).save(buffer, "PNG")
    return replace(request(**fields), image_bytes=buffer.getvalue())


def test_requests_that_wait_together_are_answered_in_batches_each_with_its_own_answer(opened):
    engine = Engine()
    replies = together(opened(engine, batch_size=4), [filled((k, 0, 0)) for k in range(10)])
    assert [reply.text for reply in replies] == [f"{(k, 0, 0)}" for k in range(10)]
    assert [call[0] for call in engine.calls] == [4, 4, 2]
    assert replies[0].usage == Usage(10, 2)


def test_a_batch_that_does_not_fit_is_halved_for_good(opened):
    engine = Engine(room=2)
    replies = together(opened(engine, batch_size=8), [filled((k, 0, 0)) for k in range(8)])
    assert [reply.text for reply in replies] == [f"{(k, 0, 0)}" for k in range(8)]
    assert [call[0] for call in engine.calls] == [8, 4, 2, 2, 2, 2]
    assert engine.freed == 2


def test_one_image_that_does_not_fit_is_a_failure_of_its_own(opened):
    (found,) = together(opened(Engine(room=0)), [filled((0, 0, 0))])
    assert isinstance(found, FatalFailure)
    assert "does not fit into memory" in str(found)


def test_a_retry_is_drawn_with_its_seed_and_apart_from_greedy_ones(opened):
    engine = Engine()
    together(opened(engine), [filled((0, 0, 0)), filled((1, 0, 0), attempt=1, seed=5), filled((2, 0, 0))])
    assert [call[2:] for call in engine.calls] == [(0.0, 0), (0.5, 5)]
    assert [call[0] for call in engine.calls] == [2, 1]


def test_a_cut_reply_is_no_reply(opened):
    (found,) = together(opened(Engine(cut=True)), [filled((0, 0, 0))])
    assert isinstance(found, JudgeTruncated)
    assert found.reply.finish_reason == "length"


def test_logits_ask_once_for_each_test_point(opened):
    engine = Engine()
    (reply,) = together(opened(engine, reply="logits", batch_size=2), [filled((0, 0, 0))])
    assert reply.probabilities == (0.25, 0.25, 0.25)
    assert reply.verdicts == (0, 0, 0)
    assert [call[:2] for call in engine.calls] == [(2, 1), (1, 1)]
    assert ["check 1 alone" in engine.texts[0], "check 3 alone" in engine.texts[2]] == [True, True]


def filled_png(color: tuple[int, int, int]) -> bytes:
    return filled(color).image_bytes


def ask_together(judge: HFLocal, questions: list[Question]):
    async def ask():
        try:
            return await asyncio.gather(*(judge.ask(one) for one in questions), return_exceptions=True)
        finally:
            await judge.aclose()

    return asyncio.run(ask())


def test_a_question_shows_its_images_in_order_before_the_text(opened):
    engine = Engine()
    questions = [Question(f"which {k}?", (filled_png((k, 0, 0)), filled_png((9, 9, 9))), 50) for k in range(3)]
    found = ask_together(opened(engine, batch_size=2), questions)
    assert [one.reply.text for one in found] == [f"{(k, 0, 0)} (9, 9, 9)" for k in range(3)]
    assert [one.first_token for one in found] == [None] * 3
    assert [call[:3] for call in engine.calls] == [(2, 50, 0.0), (1, 50, 0.0)]
    assert engine.texts == ["which 0?", "which 1?", "which 2?"]


def test_a_question_for_one_token_is_answered_by_its_candidates_and_cut_replies_are_none(opened):
    engine = Engine(cut=True)
    asked = [Question("which?", (filled_png((1, 1, 1)),), logprobs=True), Question("which?", (filled_png((1, 1, 1)),))]
    one, other = ask_together(opened(engine), asked)
    assert one.first_token == (("1", -0.1), ("2", -2.4))
    assert isinstance(other, JudgeTruncated)
    assert [call[:2] for call in engine.calls] == [(1, 1), (1, 1024)]


def test_a_defect_reaches_the_caller(opened, monkeypatch):
    engine = Engine()
    monkeypatch.setattr(engine, "generate", lambda *_: 1 / 0)
    found = together(opened(engine), [filled((0, 0, 0)), filled((1, 0, 0))])
    assert [type(error) for error in found] == [ZeroDivisionError, ZeroDivisionError]


def test_probabilities_are_those_of_the_digits_of_the_last_score():
    pieces = ["<score>", "[", "0", "]", "</score>", "1 of", "<sc", "ore>[", "1", ",", " 0", "]</score>"]
    yes = [k / 100 for k in range(12)]
    assert digit_probabilities(pieces, yes, 2) == (0.08, 0.10)
    assert digit_probabilities(pieces, yes, 3) is None
    assert digit_probabilities(["1", "0"], [0.9, 0.1], 2) is None


def test_the_same_weights_under_another_path_are_the_same_judge(tmp_path):
    for folder, weight in (("a/judge", b"1"), ("b/judge", b"1"), ("c/judge", b"2")):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "config.json").write_text("{}")
        (tmp_path / folder / "model.safetensors").write_bytes(weight)
    ids = [open_judge(f"hf:{tmp_path / name}/judge").id for name in "abc"]
    assert ids[0] == ids[1] != ids[2]


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(InputError, match=r"no config\.json there"):
        open_judge(f"hf:{tmp_path}")
    with pytest.raises(InputError, match=r"no config\.json there"):
        open_judge("hf:./nowhere")


def test_a_model_that_cannot_be_loaded_fails_for_good(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(FatalFailure, match="cannot be loaded"):
        asyncio.run(open_judge(f"hf:{tmp_path}").probe())


def test_a_real_model_reads_the_pixels():
    judge = open_judge(f"hf:{JUDGE}", JudgeOptions(device="cpu", dtype="float32", batch_size=4))
    assert isinstance(judge, HFLocal)
    asyncio.run(judge.probe())
    colors = ["red", "blue", "red", "green"]
    replies = together(judge, [request(color) for color in colors])
    for color, reply in zip(colors, replies, strict=True):
        found = parse(reply.text, 3)
        assert found.verdicts == (1, int(color == "red"), 1), reply.text
        assert [int(p > 0.5) for p in reply.probabilities] == list(found.verdicts)
        assert reply.usage.output > 10
    alone = together(judge, [request("blue")])[0]
    assert alone.text == replies[1].text
    assert alone.probabilities == pytest.approx(replies[1].probabilities, abs=1e-4)


def test_a_real_model_tells_two_images_and_their_order_apart_and_answers_the_same_in_a_batch():
    judge = open_judge(f"hf:{JUDGE}", JudgeOptions(device="cpu", dtype="float32", batch_size=4))
    assert isinstance(judge, HFLocal)
    red, blue = (request(color).image_bytes for color in ("red", "blue"))
    asked = [Question("Which is red?", pair, logprobs=True) for pair in ((red, blue), (blue, red))]
    longer = Question("Which of these three images is the red one?", (red, blue, blue), logprobs=True)
    batch = ask_together(judge, [*asked, longer])
    for one, question in zip(batch, [*asked, longer], strict=True):
        (alone,) = ask_together(judge, [question])
        assert dict(one.first_token) == pytest.approx(dict(alone.first_token), abs=1e-4)
        logprobs = [logprob for _, logprob in one.first_token]
        assert logprobs == sorted(logprobs, reverse=True)
        assert 0.5 < sum(map(math.exp, logprobs)) <= 1.001
    assert batch[0].first_token != batch[1].first_token


def tiny_qwen3_vl(folder: Path) -> Path:
    """A folder of Qwen3-VL's architecture with random weights and the shipped judge's words."""
    words = AutoProcessor.from_pretrained(JUDGE).tokenizer
    ids = {name: words.convert_tokens_to_ids(f"<|{name}|>") for name in ("im_start", "im_end", "endoftext")}
    ends = {"bos_token_id": ids["im_start"], "eos_token_id": ids["im_end"], "pad_token_id": ids["endoftext"]}
    text = {
        "vocab_size": len(words), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 8,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 4096, **ends,
        "rope_parameters": {"rope_type": "default", "mrope_section": [2, 1, 1], "mrope_interleaved": True},
    }  # fmt: skip
    vision = {
        "depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 4, "out_hidden_size": 32,
        "patch_size": 16, "spatial_merge_size": 2, "temporal_patch_size": 2, "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0, 1],
    }  # fmt: skip
    marks = {
        f"{name}_token_id": words.convert_tokens_to_ids(f"<|{mark}|>")
        for name, mark in (
            ("image", "image_pad"), ("video", "video_pad"), ("vision_start", "vision_start"),
            ("vision_end", "vision_end"),
        )
    }  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Qwen3VLForConditionalGeneration(Qwen3VLConfig(text_config=text, vision_config=vision, **marks))
    model.generation_config = GenerationConfig(do_sample=False, **ends)
    side = {"patch_size": 16, "merge_size": 2, "temporal_patch_size": 2}
    size = {"shortest_edge": 64 * 64, "longest_edge": 64 * 64}
    processor = Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=size, **side),
        tokenizer=words,
        video_processor=Qwen3VLVideoProcessor(size=size, **side),
        chat_template=words.chat_template,
    )
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def test_qwen3_vl_sees_the_pixels_and_answers_the_same_alone_and_in_a_batch(tmp_path):
    options = JudgeOptions(device="cpu", dtype="float32", batch_size=4, reply="logits")
    judge = open_judge(f"hf:{tiny_qwen3_vl(tmp_path)}", options)
    assert isinstance(judge, HFLocal)
    asyncio.run(judge.probe())
    longer = replace(PROMPT, points=(*POINTS, *POINTS))
    asked = [request("red"), request("blue"), replace(request("red"), prompt=longer, text=rubric(longer, "en"))]
    batch = together(judge, asked)
    alone = [together(judge, [one])[0] for one in asked]
    for one, other in zip(batch, alone, strict=True):
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-5)
    assert len(batch[2].probabilities) == 6
    assert max(abs(a - b) for a, b in zip(batch[0].probabilities, batch[1].probabilities, strict=True)) > 1e-6
