"""Replies of a vision-language model: exactly one verdict, or none."""

from __future__ import annotations

import json
import math

import pytest

from t2ialign.rewards.vlm.formats import (
    PAIR_FORMATS,
    SCORE_FORMATS,
    first_digit,
    fits,
    flex_verdict,
    plain_scores,
    plain_verdict,
    think_scores,
    think_verdict,
)
from unigenbench.judges.chat_completion import Completion
from unigenbench.types import JudgeReply

THOUGHTS = "<think>Image 1 is better in style, but Image 2 is better in meaning: 7+8 < 9+9.</think>"


def candidates(**probabilities: float) -> Completion:
    top = tuple((token, math.log(p)) for token, p in probabilities.items())
    return Completion(JudgeReply("1"), top)


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("Image 1 is better", 1.0),
        ("image 2 IS better.", 0.0),
        ("The colours are right, so **Image 2 is better** — très bien", 0.0),
        ("Image 1 is better than Image 2", 1.0),
        ("Both images are equally good", 0.5),
        (f"{THOUGHTS}\nImage 2 is better", 0.0),
        ("Image 1 is better. Image 2 is better.", None),
        ("Image 1 is better. Both images are equally good.", None),
        ("Image 12 is better", None),
        ("Image B is better", None),
        ("图 1 更好", None),
        ("", None),
    ],
)
def test_a_plain_reply_has_one_verdict_or_none(text, verdict):
    assert plain_verdict(text) == verdict


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        (f"{THOUGHTS}<answer>Image 2 is better</answer>", 0.0),
        (f"{THOUGHTS}<Answer>\nimage 1 is better\n</ANSWER> done", 1.0),
        (f"{THOUGHTS} Image 1 is better", 1.0),
        ("<answer>Image 1 is better</answer> no: <answer>Image 2 is better</answer>", 0.0),
        (f"{THOUGHTS}<answer>Image 1 is better and Image 2 is better</answer>", None),
        (f"{THOUGHTS}<answer>Both images are equally good</answer>", None),
        (f"{THOUGHTS}<answer>neither</answer>", None),
        ("<think>Image 1 is better so far and", None),  # cut
        ("Image 1 is better", None),  # neither thoughts nor an answer
    ],
)
def test_a_thinking_reply_is_read_in_its_answer_alone(text, verdict):
    assert think_verdict(text) == verdict


DOCUMENT = {"categories": [{"name": "style", "cat_winner": "Image 2"}], "winner": "Image 1"}


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        (json.dumps(DOCUMENT), 1.0),
        (f"Here it is:\n```json\n{json.dumps(DOCUMENT | {'winner': 'image 2'}, indent=1)}\n```", 0.0),
        (json.dumps({"overall": {"winner": "Image_2"}}), 0.0),
        (json.dumps({"winner": "1"}), 1.0),
        (json.dumps({"winner": "Image 1 and Image 2"}), None),
        (json.dumps({"winner": "none"}), None),
        (json.dumps({"winner": 1.5}), None),
        (json.dumps({"categories": []}), None),
        ('{"winner": "Image 1"', None),
        ("[" * 100_000, None),
        ("{" * 100_000 + "}", None),
        ("Image 1 is better", None),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_json_reply_has_one_winner_or_none(text, verdict):
    assert flex_verdict(text) == verdict


LINES = "Alignment Score (1-5): 4.5\nCoherence Score (1-5): 3\nStyle Score (1-5): 3"


@pytest.mark.parametrize(
    ("text", "score"),
    [
        (LINES, 3.5),
        ("**Alignment score:** 5/5, **Coherence Score** : 4\nstyle Score (1–5): 3.0.", 4.0),
        (LINES.replace("4.5", "7"), None),
        (LINES.replace("4.5", "-3"), None),
        (LINES.replace("4.5", "x"), None),
        (LINES.replace("Style", "Beauty"), None),
        (f"{LINES}\nAlignment Score (1-5): 2", None),
        (f"<think>Alignment Score (1-5): 2</think>{LINES}", 3.5),
        ("good", None),
    ],
)
def test_points_are_the_mean_of_all_three_or_none(text, score):
    assert plain_scores(text) == score
    assert think_scores(f"<think>…</think><answer>{text.rpartition('</think>')[2]}</answer>") == score


def test_points_outside_the_answer_do_not_count():
    assert think_scores(LINES) is None
    assert think_scores(f"<think>{LINES}") is None


def test_a_soft_verdict_is_a_share_of_the_two_digits():
    assert first_digit(candidates(**{"1": 0.6, " 1": 0.1, "2": 0.2, "T": 0.1})) == pytest.approx(7 / 9)
    assert first_digit(candidates(**{"1": 1.0})) == 1.0
    assert first_digit(candidates(**{"2": 1.0})) == 0.0
    assert fits(candidates(**{"1": 0.2, "0": 0.6})) == pytest.approx(0.25)


@pytest.mark.parametrize("read", [first_digit, fits])
def test_a_model_that_was_about_to_say_something_else_gave_no_verdict(read):
    assert read(candidates(Image=0.7, **{"1": 0.3})) is None
    assert read(candidates(The=1.0)) is None
    assert read(Completion(JudgeReply("1"), None)) is None


@pytest.mark.parametrize("form", [*PAIR_FORMATS.values(), *SCORE_FORMATS.values()])
def test_every_question_holds_its_caption_once_as_it_is(form):
    caption = "a {red} CAPTION \\1 dog"
    assert form.text(caption).count(caption) == 1
