"""The reward `ocr`: what a prompt quotes, how that is compared with what is read."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from t2ialign.errors import EnvironmentProblem
from t2ialign.rewards import ocr
from t2ialign.rewards.catalogue import catalogue
from t2ialign.rewards.ocr import comparable, levenshtein, quoted_text, text_match
from t2ialign.rewards.registry import load_reward, parse_reward

TEXTS = st.text(alphabet="abAB é\n漢", max_size=8)
TARGETS = TEXTS.filter(comparable)


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ('a sign that says "Open late" and "Closed"', "Open late"),
        ("a sign that says “Open late”", "Open late"),
        ("ein Schild: „Geöffnet“", "Geöffnet"),
        ("une enseigne «Ouvert»", "Ouvert"),
        ("a dog's sign that says 'It's open'", "It's open"),
        ("a sign that says ‘It’s open’", "It’s open"),
        ('a \'90s sign that says "OPEN"', "OPEN"),
        ('an empty "" pair, a blank " " one, then "text"', "text"),
        ("a dog's bone and the cats' bowl", None),
        ('a 5" nail', None),
        ('""', None),
        ("", None),
    ],
)
def test_the_target_is_in_the_first_pair_of_quotes(prompt, text):
    assert quoted_text(prompt) == text


@given(TARGETS, TEXTS)
def test_whatever_is_quoted_is_found(text, around):
    assert quoted_text(f'{around}"{text}"{around}"more"') == text


@pytest.mark.parametrize(
    ("target", "read", "score"),
    [
        ("Open late", "OPEN\nLATE", 1.0),
        ("open", "we are open today", 1.0),
        ("open", "0pen", 0.75),  # one replaced of four
        ("open", "opn", 0.75),  # one deleted
        ("open", "", 0.0),
        ("open", "something else altogether", 0.0),  # more edits than letters count as all letters
        ("kitten", "sitting", 0.5),  # two replaced and one inserted, of six
    ],
)
def test_scores_by_hand(target, read, score):
    assert text_match(target, read) == pytest.approx(score)


@given(TARGETS, TEXTS, TEXTS)
def test_a_target_that_is_read_is_1_whatever_stands_around_it(target, before, after):
    assert text_match(target, f"{before} {target.upper()} {after}") == 1.0


@given(TARGETS, TEXTS)
def test_a_score_is_0_to_1_and_blind_to_case_and_space(target, read):
    score = text_match(target, read)
    assert 0 <= score <= 1
    assert (score == 1) == (comparable(target) in comparable(read))
    assert text_match(f" {target.upper()} ", "\n".join(read.upper())) == score


@given(TEXTS, TEXTS, TEXTS)
def test_levenshtein_is_a_distance(a, b, c):
    assert (levenshtein(a, b) == 0) == (a == b)
    assert levenshtein(a, b) == levenshtein(b, a)
    assert levenshtein(a, c) <= levenshtein(a, b) + levenshtein(b, c)
    assert abs(len(a) - len(b)) <= levenshtein(a, b) <= max(len(a), len(b))


def test_each_image_is_read_for_its_own_prompt_and_only_if_it_quotes(monkeypatch):
    seen = []

    class FakeReader:
        def __call__(self, image: Image.Image) -> str:
            seen.append(image.size)
            return {1: "OPEN", 2: "shop"}[image.width]

    monkeypatch.setattr(ocr, "RapidReader", FakeReader)
    images = [Image.new("RGB", (width, 1)) for width in (1, 2, 3)]
    assert load_reward("ocr")(images, ['"open"', '"stop"', "nothing"]) == [1.0, 0.75, None]
    assert seen == [(1, 1), (2, 1)]


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(ocr, "find_spec", lambda name: None if name == "onnxruntime" else object())
    message = r'^reward \'ocr\' needs onnxruntime, not installed: pip install "t2ialign\[ocr\]"$'
    for attempt in (parse_reward("ocr").check, lambda: load_reward("ocr")):
        with pytest.raises(EnvironmentProblem, match=message) as caught:
            attempt()
        assert caught.value.exit_code == 3


def test_the_list_says_whether_the_package_is_here(monkeypatch):
    for spec, said in ((None, "not here: package rapidocr"), (object(), "here")):
        monkeypatch.setattr("t2ialign.rewards.catalogue.find_spec", lambda _, spec=spec: spec)
        assert {listed.name: listed.weights for listed in catalogue()}["ocr"] == said


def test_the_package_gets_blue_green_red_and_its_lines_are_joined(monkeypatch):
    seen = []

    class RapidOCR:
        def __init__(self, params):
            assert params == {"Global.log_level": "error"}

        def __call__(self, pixels):
            seen.append(pixels)
            return SimpleNamespace(txts=("OPEN", "LATE") if len(seen) == 1 else None)

    monkeypatch.setattr(ocr, "find_spec", lambda _: object())
    monkeypatch.setitem(sys.modules, "rapidocr", SimpleNamespace(RapidOCR=RapidOCR))
    image = Image.new("RGB", (3, 2), (1, 2, 3))
    assert load_reward("ocr")([image, image], ['"Open late"', '"Open late"']) == [1.0, 0.0]
    assert seen[0].tolist() == [[[3, 2, 1]] * 3] * 2
