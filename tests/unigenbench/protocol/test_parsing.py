"""The parser against the replies that the official script accepts and rejects, and against any rendered one."""

from __future__ import annotations

import json
import random
import re
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from odd_text import check_reply

from unigenbench.protocol.parsing import Parsed, ParseFailure, parse

TWO = "<analysis>['a', 'b']</analysis><score>[1, 0]</score>"
REASONING = "<think>The format is <analysis>['x', 'y']</analysis><score>[0, 0]</score>.</think>"
# what is seen, reply about two test points, verdicts or the reason: robust, official
TABLE = [
    ("single quotes", TWO, (1, 0), (1, 0)),
    ("double quotes", '<analysis>["a", "b"]</analysis>\n<score>[1, 0]</score>', (1, 0), (1, 0)),
    ("trailing commas", "<analysis>['a', 'b',]</analysis><score>[1, 0,]</score>", (1, 0), (1, 0)),
    ("fence around everything", f"```xml\n{TWO}\n```", (1, 0), (1, 0)),
    ("fence in a tag", "<analysis>['a', 'b']</analysis><score>```json\n[1, 0]\n```</score>", (1, 0), "unreadable"),
    ("words without quotes", "<analysis>[good, bad]</analysis><score>[1, 0]</score>", (1, 0), "unreadable"),
    ("apostrophe", "<analysis>['the cat's', 'b']</analysis><score>[1, 0]</score>", (1, 0), "unreadable"),
    ("line end in a string", "<analysis>['a\nb', 'c']</analysis><score>[1, 0]</score>", (1, 0), "unreadable"),
    ("true and false", "<analysis>['a', 'b']</analysis><score>[true, false]</score>", (1, 0), "unreadable"),
    ("full-width brackets", "<analysis>【'a'，'b'】</analysis><score>【1，0】</score>", (1, 0), "unreadable"),
    ("full-width digits", "<analysis>['a', 'b']</analysis><score>［１，０］</score>", (1, 0), "unreadable"),
    ("capital tags", "<Analysis>['a', 'b']</Analysis><SCORE>[1, 0]</SCORE>", (1, 0), "no_answer"),
    ("unclosed last tag", "<analysis>['a', 'b']</analysis><score>[1, 0]", (1, 0), "no_answer"),
    ("unclosed list", "<analysis>['a', 'b']</analysis><score>[1, 0", "no_answer", "no_answer"),
    ("reasoning that quotes the tags", f"{REASONING}\n{TWO}", (1, 0), (0, 0)),
    ("reasoning without a beginning", f"{REASONING.removeprefix('<think>')}\n{TWO}", (1, 0), (0, 0)),
    ("reasoning without an end", REASONING.removesuffix("</think>"), "no_answer", (0, 0)),
    ("scalar", "<analysis>['a', 'b']</analysis><score>1</score>", "wrong_length", "wrong_length"),
    ("tuple", "<analysis>['a', 'b']</analysis><score>(1, 0)</score>", (1, 0), (1, 0)),
    ("string of digits", "<analysis>['a', 'b']</analysis><score>'10'</score>", "wrong_length", (0, 0)),
    ("dictionary", "<analysis>['a', 'b']</analysis><score>{1: 1, 2: 0}</score>", "unreadable", (0, 0)),
    ("digits as strings", "<analysis>['a', 'b']</analysis><score>['1', '0']</score>", (1, 0), (0, 0)),
    ("Python bools", "<analysis>['a', 'b']</analysis><score>[True, False]</score>", (1, 0), "not_counted"),
    ("a half", "<analysis>['a', 'b']</analysis><score>[1.0, 0.5]</score>", "bad_value", (1, 0)),
    ("a two", "<analysis>['a', 'b']</analysis><score>[1, 2]</score>", "bad_value", (1, 0)),
    ("null", "<analysis>['a', 'b']</analysis><score>[1, None]</score>", "bad_value", "not_counted"),
    ("analysis of the right length", "<analysis>'ab'</analysis><score>[1, 0]</score>", (1, 0), (1, 0)),
    ("two answers", f"{TWO}<analysis>['a', 'b']</analysis><score>[0, 0]</score>", (0, 0), (1, 0)),
    ("too many", "<analysis>['a', 'b']</analysis><score>[1, 0, 1]</score>", "wrong_length", "wrong_length"),
    ("too few", "<analysis>['a', 'b']</analysis><score>[1]</score>", "wrong_length", "wrong_length"),
    ("no analysis", "<score>[1, 0]</score>", (1, 0), "no_answer"),
    ("one a line", "<score>\n1\n0\n</score>", (1, 0), "no_answer"),
    ("yes and no", "<score>[yes, No]</score>", (1, 0), "no_answer"),
    ("one of one", "<score>1/1</score>", "unreadable", "no_answer"),
    ("numbered", "<score>1: 1, 2: 0</score>", "unreadable", "no_answer"),
    ("prose", "Both are fine, I would give 2 of 2.", "no_answer", "no_answer"),
    ("nothing", " \n", "empty", "empty"),
    ("an object of lists", '{"analysis": ["a", "b"], "score": [1, 0]}', (1, 0), "no_answer"),
    (
        "checks",
        'Sure:\n{"checks": [{"id": 2, "evidence": "b", "pass": false}, {"id": 1, "evidence": "a", "pass": true}]}',
        (1, 0),
        "no_answer",
    ),
    ("a check missing", '{"checks": [{"id": 1, "pass": true}]}', "wrong_length", "no_answer"),
    ("a check twice", '{"checks": [{"id": 1, "pass": true}, {"id": 1, "pass": true}]}', "wrong_length", "no_answer"),
    ("checks from 0", '{"checks": [{"id": 0, "pass": true}, {"id": 1, "pass": true}]}', "wrong_length", "no_answer"),
    ("a key twice", '{"score": [1, 0], "score": [0, 0]}', "unreadable", "no_answer"),
    ("a key twice in Python", "{'score': [1, 0], 'score': [0, 0]}", "no_answer", "no_answer"),
    ("a pass twice", '{"checks": [{"id": 1, "pass": 1, "pass": 0}, {"id": 2, "pass": 1}]}', "bad_value", "no_answer"),
    ("nearly one", '{"score": [0.99999999999999999999, 0]}', "bad_value", "no_answer"),
    ("nearly nothing", '{"score": [1e-400, 1.0]}', "bad_value", "no_answer"),
    ("a number beyond computing", '{"score": [1e99999999999999999999, 0]}', "bad_value", "no_answer"),
    ("exact decimals", '{"score": [1.0, 0.0]}', (1, 0), "no_answer"),
    ("a quoted object", 'The caption says {"score": [1, 0]}, which I cannot see.', "no_answer", "no_answer"),
    ("a quoted object at the end", 'The caption says {"score": [1, 0]}', "no_answer", "no_answer"),
    ("a quoted object in an object", '{"caption": {"score": [1, 0]}, "checks": "none"}', "no_answer", "no_answer"),
    ("an object in an analysis", '<analysis>\n{"score": [1, 0]}\n</analysis>', "no_answer", "no_answer"),
    ("a label before an object", 'Final answer: {"score": [1, 0]}', (1, 0), "no_answer"),
    ("a quoted score", "The caption says <score>[1, 0]</score>, but I see nothing.", "no_answer", "no_answer"),
    ("a score only in an analysis", "<analysis>['<score>[1, 0]</score>', 'b']</analysis>", "no_answer", (1, 0)),
    ("a score in an open analysis", "<analysis>['a\n<score>[1, 0]</score>\n", "no_answer", "no_answer"),
    (
        "checks that quote a score",
        'Sure:\n{"checks": [{"id": 1, "evidence": "<score>[0, 0]</score>", "pass": 1}, {"id": 2, "pass": 0}]}',
        (1, 0),
        "no_answer",
    ),
    (
        "an answer, then a quotation",
        f"{TWO}\nThe caption asked for <score>[0, 0]</score>.",
        (1, 0),
        (1, 0),
    ),
    (
        "two ends of a thought",
        f"First thought.</think>\n<score>[0, 0]</score>\nNo, again.</think>\n{TWO}",
        (1, 0),
        (0, 0),
    ),
    (
        "a draft between two ends of a thought",
        "Hm.</think>\n<score>[0, 0]</score>\nNo, again.</think>\nI cannot say.",
        "no_answer",
        "no_answer",
    ),
    (
        "a thought that quotes its end",
        "<think>It ends with </think>\n<score>[0, 0]</score>\nso</think>\nI cannot say.",
        "no_answer",
        "no_answer",
    ),
    ("checks without a pass", '{"checks": [{"id": 1}, {"id": 2}]}', "unreadable", "no_answer"),
    ("a thought in capitals", "<THINK>\n<score>[0, 0]</score>\n</Think>\nI cannot say.", "no_answer", "no_answer"),
    (
        "the end of a thought in capitals",
        "Hm.\n<score>[0, 0]</score>\n</THINK>\nI cannot say.",
        "no_answer",
        "no_answer",
    ),
    ("a thought in capitals without an end", "<THINK>\n<score>[1, 0]</score>", "no_answer", "no_answer"),
    (
        "an end of a thought quoted in the answer",
        '{"analysis": ["</think>", ""], "score": [1, 0]}',
        (1, 0),
        "no_answer",
    ),
    (
        "an end of a thought quoted in the answer after it",
        '<think>Hm.</think>{"analysis": ["</think>", ""], "score": [1, 0]}',
        (1, 0),
        "no_answer",
    ),
    ("unclosed last tag in capitals", "<Score>[1, 0]", (1, 0), "no_answer"),
    ("unclosed last tag after İ, which is longer in lower case", "İ:\n<score>[1, 0]", (1, 0), "no_answer"),
    (
        "checks that quote a score on a line of its own",
        'Sure:\n{"checks": [{"id": 1, "evidence": "\n<score>[0, 0]</score>\n", "pass": 1}, {"id": 2, "pass": 0}]}',
        (1, 0),
        "no_answer",
    ),
    ("a score that begins a sentence", "<score>[1, 0]</score> is what the caption asks for.", "no_answer", "no_answer"),
    ("a score that ends an analysis", "<score>[1, 0]</score></Analysis>", "no_answer", "no_answer"),
    ("a score that ends an answer", "<answer><score>[1, 0]</score></answer>", (1, 0), "no_answer"),
    ("a bold score", "**<score>[1, 0]</score>**", (1, 0), "no_answer"),
    ("an empty score", "<analysis>['a', 'b']</analysis><score> </score>", "unreadable", "unreadable"),
    ("words with blanks and full-width digits", '{"score": [" yes ", "０"]}', (1, 0), "no_answer"),
    ("nearly one in Python", "<score>(0.99999999999999999999, 0)</score>", "bad_value", "no_answer"),
    ("a complex one in Python", "<score>(1+0j, 0)</score>", "bad_value", "no_answer"),
    (
        "checks 1, 2 and 2",
        '{"checks": [{"id": 1, "pass": 1}, {"id": 2, "pass": 1}, {"id": 2, "pass": 0}]}',
        "wrong_length",
        "no_answer",
    ),
    (
        "blanks before each literal",
        "<analysis>\n ['a', 'b']\n</analysis><score>\n [1, 0]\n</score>",
        (1, 0),
        (1, 0),
    ),
    ("an end before the tag", f"</analysis></score>{TWO}", (1, 0), (1, 0)),
    (
        "half a character",
        r'<analysis>["a \ud83d", "b"]</analysis><score>[1, 0]</score>',
        (1, 0),
        "not_counted",
    ),
    ("an object in Python", "{'analysis': ['a', 'b'], 'score': [1, 0]}", (1, 0), "no_answer"),
    ("an object in Python in a fence", "```python\n  {'score': [1, 0]}\n```", (1, 0), "no_answer"),
    ("an object, then a sentence", '{"score": [1, 0]}\nThat is all.', (1, 0), "no_answer"),
    ("an object after a brace of no object", 'A set {x} first.\n{"score": [1, 0]}', (1, 0), "no_answer"),
    ("a fence that only ends", "<score>no 1, 0\n```</score>", "unreadable", "no_answer"),
    ("a fence that only begins", "<score>```1, 0, no</score>", "unreadable", "no_answer"),
    ("a fence on the lines of the list", "<score>```[1,\n0]```</score>", (1, 0), "no_answer"),
    ("a fence of a language after a blank", "<score>``` json\n[1, 0]\n```</score>", (1, 0), "no_answer"),
    ("a fence of a language with a hyphen", "<score>```x-json\n[1, 0]\n```</score>", (1, 0), "no_answer"),
]


@pytest.mark.parametrize(("reply", "robust", "official"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_a_reply_is_read_as_the_table_says(reply, robust, official):
    for mode, wanted in (("robust", robust), ("official", official)):
        found = parse(reply, 2, mode)
        assert (found.reason if isinstance(found, ParseFailure) else found.verdicts) == wanted, (mode, found)


def test_a_scalar_answers_one_test_point_and_no_more():
    assert parse("<score>1</score>", 1).verdicts == (1,)
    assert parse("<score>yes</score>", 1).verdicts == (1,)
    assert parse("<score>10</score>", 1).reason == "bad_value"
    assert parse("<score>```1```</score>", 1).verdicts == (1,)
    assert parse("<score>```10```</score>", 1).reason == "bad_value"
    assert parse("<analysis>['a']</analysis><score>1</score>", 1, "official").reason == "wrong_length"


def test_verdicts_stand_without_readable_analyses():
    assert parse(TWO, 2) == Parsed((1, 0), ("a", "b"))
    unquoted = parse("<analysis>[good, bad]</analysis><score>[1, 0]</score>", 2)
    assert unquoted == Parsed((1, 0), ("[good, bad]",), "analysis_unparsed")
    assert parse("<analysis>['a']</analysis><score>[1, 0]</score>", 2).note == "analysis_length"
    assert parse("<score>[1, 0]</score>", 2).note == "analysis_missing"
    assert parse("<score>[1, 0]</score>\n<analysis>['a', 'b']</analysis>", 2).analyses == ("a", "b")


def test_an_object_of_lists_notes_which_analyses_it_lacks():
    for analysis, analyses, note in (
        ('"analysis": ["a", "b"],', ("a", "b"), ""),
        ('"analysis": ["a"],', ("a",), "analysis_length"),
        ("", (), "analysis_missing"),
    ):
        assert parse(f'{{{analysis} "score": [1, 0]}}', 2) == Parsed((1, 0), analyses, note)


@pytest.mark.parametrize(
    ("analyses", "found", "note"),
    [
        ("<analysis></analysis>", (), "analysis_unparsed"),
        ("<analysis>\ngood, bad\n</analysis>", ("good, bad",), "analysis_unparsed"),
        ("<analysis>good</analysis></analysis>", ("good</analysis>",), "analysis_unparsed"),
        ("<analysis>good, bad</analysis>\n<analysis>cut off", ("good, bad",), "analysis_unparsed"),
        ("<analysis>cut off", (), "analysis_missing"),
        ("<analysis>: <analysis>['a', 'no <analysis>']</analysis>", ("a", "no <analysis>"), ""),
    ],
)
def test_analyses_are_the_text_between_their_tags_where_it_is_no_list(analyses, found, note):
    assert parse(f"<score>[1, 0]</score>\n{analyses}", 2) == Parsed((1, 0), found, note)


def test_the_official_rules_keep_the_analyses_and_refuse_one_of_more_than_200_000_characters():
    assert parse(TWO, 2, "official") == Parsed((1, 0), ("a", "b"))
    refused = parse(TWO.replace("a'", "a" * 200_000 + "'"), 2, "official")
    assert isinstance(refused, ParseFailure)
    assert (refused.reason, refused.detail[:33]) == ("unreadable", "<analysis> has 200,009 characters")


def test_an_analysis_that_is_no_text_is_written_as_json():
    found = parse('{"analysis": [{"é": 0.25}, ["b"]], "score": [1, 0]}', 2)
    assert found == Parsed((1, 0), ('{"é": "0.25"}', '["b"]'))


def test_a_reply_is_about_something():
    with pytest.raises(ValueError, match="at least 1"):
        parse(TWO, 0)


def in_tags(verdicts, analyses):
    return f"<analysis>{json.dumps(analyses, ensure_ascii=False)}</analysis>\n<score>{json.dumps(verdicts)}</score>"


def in_python(verdicts, analyses):
    return f"<analysis>{analyses!r}</analysis><score>{verdicts!r}</score>"


def in_fenced_tags(verdicts, analyses):
    return f"<analysis>\n```json\n{json.dumps(analyses)}\n```\n</analysis>\n<score>```\n{verdicts}\n```</score>"


def in_capitals(verdicts, analyses):
    return f"<ANALYSIS>{json.dumps(analyses)}</ANALYSIS> <Score> {[bool(v) for v in verdicts]} </Score>"


def in_words(verdicts, analyses):
    words = "，".join("yes" if verdict else "no" for verdict in verdicts)
    return f"<analysis>{json.dumps(analyses)}</analysis><score>【{words}】</score>"


def in_checks(verdicts, analyses):
    pairs = reversed(list(enumerate(zip(verdicts, analyses, strict=True), 1)))
    checks = [{"id": k, "evidence": analysis, "pass": bool(verdict)} for k, (verdict, analysis) in pairs]
    return json.dumps({"checks": checks}, indent=1)


def in_lists(verdicts, analyses):
    return json.dumps({"analysis": analyses, "score": verdicts})


FORMS = [in_tags, in_python, in_fenced_tags, in_capitals, in_words, in_checks, in_lists]
AROUND = [
    "{}",
    "```\n{}\n```",
    "Here is my answer.\n\n{}\n",
    "<think>Maybe <score>[0]</score> or {{not}}?</think>\n{}",
    "Let me see: <score>[1, 1]</score>.\n</think>\n\n{}",
    "<thinking>\n</thinking>```json\n{}\n```",
]
plain = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
nasty = st.sampled_from(
    ["<score>", "</score>", "<analysis>", "</analysis>", "<score>[0]</score>", "```", "'", "]", "{}"]
)


@st.composite
def answers(draw, words):
    verdicts = draw(st.lists(st.sampled_from([0, 1]), min_size=1, max_size=10))
    return verdicts, draw(st.lists(words, min_size=len(verdicts), max_size=len(verdicts)))


@settings(max_examples=300, deadline=None)
@given(answers(plain), st.sampled_from(FORMS), st.sampled_from(AROUND))
def test_any_rendered_reply_parses_back(answer, form, around):
    verdicts, analyses = answer
    found = parse(around.replace("{}", form(verdicts, analyses)), len(verdicts))
    assert isinstance(found, Parsed), found
    assert found.verdicts == tuple(verdicts)
    if not any("</think" in analysis.lower() for analysis in analyses):
        assert found.analyses == tuple(analyses)


@settings(max_examples=300, deadline=None)
@given(answers(st.lists(st.one_of(nasty, plain), max_size=4).map("".join)), st.sampled_from(FORMS))
@example(([1], ["<score>[0]</score>"]), in_checks)
@example(([1, 0], ["<score>", "<analysis>["]), in_tags)
def test_what_an_analysis_quotes_is_no_verdict(answer, form):
    verdicts, analyses = answer
    found = parse(form(verdicts, analyses), len(verdicts))
    assert isinstance(found, Parsed), found
    assert found.verdicts == tuple(verdicts)


@settings(max_examples=200, deadline=None)
@given(answers(plain), st.sampled_from(FORMS), st.integers(1, 12))
def test_verdicts_are_never_padded_or_cut(answer, form, n):
    verdicts, analyses = answer
    found = parse(form(verdicts, analyses), n)
    if n == len(verdicts):
        assert isinstance(found, Parsed)
    else:
        assert isinstance(found, ParseFailure)
        assert found.reason == "wrong_length"


def test_half_characters_never_reach_a_file():
    for reply in (r'{"analysis": ["a \ud83d"], "score": [1]}', r'<analysis>["a \ud83d"]</analysis><score>[1]</score>'):
        assert parse(reply, 1).analyses == ("a \ufffd",)
    assert parse("<analysis>[a \ud83d]</analysis><score>[1]</score>", 1).analyses == ("[a \ufffd]",)
    assert parse(r'{"analysis": ["a \ud83d\ude00"], "score": [1]}', 1).analyses == ("a 😀",)


MB = 1_000_000
LARGE = [
    "<score>" * 100_000,
    "<analysis>" * 100_000 + "</analysis><score>[1, 0]</score>",
    "<analysis>[" * 100_000 + "</analysis><score>[1, 0]</score>",
    "<think>" * 100_000,
    "</think>" * 100_000,
    "<score>[1, 0]</score>" * 100_000,
    "x <score>[1, 0]</score>" * 100_000,
    "{" * 5 * MB,
    '{"a":' * MB,
    '{"a": [' * 100 + "1, " * MB,
    "[" * 5 * MB,
    "-" * 5 * MB,
    "-" * 150_000,
    "1+" * 75_000 + "1",
    "(" * 150_000,
    "```" + " " * 5 * MB + "x```",
    "```" + "\n" * 5 * MB,
    "<score>" + "[1, " * MB + "</score>",
    "<score>" + "1 " * 2 * MB + "</score>",
    "<score>" + "9" * 5 * MB + "</score>",
    "<analysis>" + "'" * 5 * MB + "</analysis><score>[1, 0]</score>",
    '{"score": [1, 0], "a": "' + "x" * 5 * MB + '"}',
    " " * 5 * MB,
]


@pytest.mark.parametrize("reply", LARGE, ids=[f"{text[:12]!r}" for text in LARGE])
@pytest.mark.parametrize("mode", ["robust", "official"])
def test_five_megabytes_are_read_in_seconds(reply, mode):
    begun = time.process_time()
    found = parse(reply, 2, mode)
    assert time.process_time() - begun < 5  # of the processor; quadratic ones take minutes
    if isinstance(found, Parsed):
        assert found.verdicts == (1, 0)
        assert "[1, 0]" in reply
    else:
        assert len(found.detail) < 1000


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["yes", "0", "1"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["checks", "score", "analysis", "id", "pass"]) | st.text(max_size=4), inner)
    ),
    max_leaves=12,
)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(json_values, st.integers(1, 3), st.sampled_from(["{}", "Sure:\n{}", "the caption says {}", "<score>{}</score>"]))
def test_verdicts_of_any_json_are_written_in_it(value, n, around):
    text = json.dumps(value)
    found = parse(around.replace("{}", text), n)
    if isinstance(found, Parsed):
        assert not around.startswith("the")
        words = re.findall(r"\w+(?:\.\w+)?", text.lower())
        for verdict in set(found.verdicts):
            assert set(words) & ({"1", "1.0", "true", "yes"} if verdict else {"0", "0.0", "false", "no"})


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=60), st.integers(1, 3), st.sampled_from(["robust", "official"]))
def test_any_text_is_read_or_refused_without_an_error(text, n, mode):
    for reply in (text, f"<analysis>{text}</analysis><score>{text}</score>", f'{{"checks": {text}}}'):
        found = parse(reply, n, mode)
        assert isinstance(found, ParseFailure) or len(found.verdicts) == n


@pytest.mark.parametrize(("met", "failed"), [("1", "0"), ("true", "false"), ("Yes", "no"), ("是", "否")])
def test_every_word_for_a_verdict_is_1_or_0(met: str, failed: str):
    for score in (f"[{met}, {failed}]", f'["{met}", "{failed}"]'):
        read = parse(f"<analysis>['a', 'b']</analysis><score>{score}</score>", 2)
        assert isinstance(read, Parsed)
        assert read.verdicts == (1, 0)


def test_checks_without_any_evidence_are_noted_and_with_some_are_not():
    bare = [{"id": 1, "pass": True}, {"id": 2, "pass": False}]
    read = parse(json.dumps({"checks": bare}), 2)
    assert read == Parsed((1, 0), (), "analysis_missing")
    assert parse(json.dumps({"checks": [{**bare[0], "evidence": "seen"}, bare[1]]}), 2) == Parsed(
        (1, 0), ("seen", ""), ""
    )


def test_a_failure_quotes_the_reply_on_one_line():
    read = parse("nothing\n  of   use", 2)
    assert isinstance(read, ParseFailure)
    assert "nothing of use" in read.detail


def test_replies_of_any_parts_are_read_or_refused():
    for seed in range(500):
        check_reply(random.Random(seed))
