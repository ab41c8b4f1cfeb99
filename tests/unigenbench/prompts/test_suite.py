"""The prompt files that come with the package: what is in them, and that they are what their scripts write."""

from __future__ import annotations

import csv
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from unigenbench.prompts import DATA, read_prompts, to_csv, validate_prompts
from unigenbench.taxonomy import BY_ID, THEMES
from unigenbench.types import Language, Point, Prompt

SCRIPTS = Path(__file__).parents[3] / "scripts" / "research"
LANGUAGES: tuple[Language, ...] = ("en", "zh")
QUOTED = {"en": r'"([^"]+)"', "zh": "“([^”]+)”"}
LENGTHS = {"en": (13, 52), "zh": (27, 75)}
"""Words, characters: the range of the official short prompts."""
OVERLAP = {"en": 8, "zh": 8}
"""Runs of words, of Chinese characters, that no prompt may share with an official one."""


@pytest.fixture(autouse=True)
def _scripts(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "path", [str(SCRIPTS), *sys.path])


def suite(language: Language) -> tuple[Prompt, ...]:
    return read_prompts(f"suite_{language}").prompts


def units(text: str, language: Language) -> list[str]:
    """Words of English, characters of Chinese, without punctuation."""
    return re.findall("[a-z0-9']+" if language == "en" else "[\u4e00-\u9fff]", text.lower())


def runs(text: str, language: Language) -> Iterator[tuple[str, ...]]:
    parts = units(text, language)
    return (tuple(parts[i : i + OVERLAP[language]]) for i in range(len(parts) - OVERLAP[language] + 1))


def test_a_written_prompt_file_is_read_back_as_it_was(tmp_path: Path):
    sorts = ("Design", "Logo/Icon Design", "Animal", "Imperative")
    texts = {"en": 'A cat says "A, B", twice.', "zh": "一只猫说“甲，乙”。"}
    points = {
        "en": (Point("text", "Text Generation", 'The word "A, B"'), Point("style", "Style", "Flat")),
        "zh": (Point("text", "文本生成", "文字“甲，乙”"), Point("style", "风格", "扁平")),
    }
    for language in LANGUAGES:
        prompt = Prompt(0, texts[language], *sorts, points[language])
        path = tmp_path / f"mine_{language}.csv"
        path.write_text(to_csv([prompt], language), encoding="utf-8", newline="\n")
        read = read_prompts(path)
        assert read.prompts == (prompt,)
        assert read.language == language
        assert not validate_prompts(path)


def test_a_name_that_is_not_in_the_taxonomy_is_not_written():
    with pytest.raises(KeyError, match="Logos"):
        to_csv([Prompt(0, "A cat.", "Design", "Logos", "Animal", "Descriptive", ())], "en")


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_suite_is_what_its_script_writes(language: Language):
    import build_suite

    written = to_csv(build_suite.suite(language), language)
    assert (DATA / f"suite_{language}.csv").read_bytes() == written.encode()


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_suite_reads_without_a_remark(language: Language):
    assert not validate_prompts(f"suite_{language}")
    prompts = read_prompts(f"suite_{language}")
    assert prompts.version == "suite 1"
    assert prompts.language == language
    assert not any(point.flags for prompt in prompts.prompts for point in prompt.points)


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_suite_covers_the_whole_taxonomy(language: Language):
    prompts = suite(language)
    assert len(prompts) >= 108
    assert [prompt.index for prompt in prompts] == list(range(len(prompts)))
    assert len({prompt.text for prompt in prompts}) == len(prompts)
    kinds = Counter((prompt.theme, prompt.subtheme) for prompt in prompts)
    assert set(kinds) == {(theme.name, label.name) for theme in THEMES for label in theme.subthemes}
    assert len(kinds) == 20
    assert min(kinds.values()) >= 5
    criteria = Counter(point.criterion for prompt in prompts for point in prompt.points)
    assert set(criteria) == set(BY_ID)
    assert min(criteria.values()) >= 8
    assert len({prompt.subject for prompt in prompts}) == 5
    assert {prompt.structure for prompt in prompts} == {"Descriptive", "Imperative"}


def test_the_first_40_prompts_already_cover_all_sub_themes_and_criteria():
    first = suite("en")[:40]
    assert len({(prompt.theme, prompt.subtheme) for prompt in first}) == 20
    assert {point.criterion for prompt in first for point in prompt.points} == set(BY_ID)


@pytest.mark.parametrize("language", LANGUAGES)
def test_prompts_are_as_long_as_official_short_ones(language: Language):
    low, high = LENGTHS[language]
    for prompt in suite(language):
        assert low <= len(prompt.text.split() if language == "en" else prompt.text) <= high, prompt.text


@pytest.mark.parametrize("language", LANGUAGES)
def test_each_prompt_has_1_to_5_different_points_that_say_what_they_mean(language: Language):
    for prompt in suite(language):
        assert 1 <= len(prompt.points) <= 5
        assert len({point.criterion for point in prompt.points}) == len(prompt.points)
        for point in prompt.points:
            assert len(units(point.description, language)) >= 3, point
            assert not re.search("[\u4e00-\u9fff]" if language == "en" else "[a-zA-Z]{3}", point.description), point


def test_english_and_chinese_test_the_same_in_the_same_order():
    for english, chinese in zip(suite("en"), suite("zh"), strict=True):
        assert [point.criterion for point in english.points] == [point.criterion for point in chinese.points]
        assert (english.theme, english.subtheme, english.subject, english.structure) == (
            chinese.theme, chinese.subtheme, chinese.subject, chinese.structure,
        )  # fmt: skip


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_is_to_be_written_is_quoted_by_the_prompt_and_by_its_point(language: Language):
    for prompt in suite(language):
        asked = re.findall(QUOTED[language], prompt.text)
        points = [point for point in prompt.points if point.criterion == "text"]
        told = [words for point in points for words in re.findall(QUOTED[language], point.description)]
        if points:
            assert told == asked[:1], prompt.text
            assert language == "en" or re.fullmatch("[\u4e00-\u9fff，]+", told[0]), prompt.text
        else:
            assert not asked or language == "zh", prompt.text


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_prompt_repeats_a_run_of_words_of_an_official_one(language: Language):
    folder = os.environ.get("UNIGENBENCH_DATA")
    if not folder:
        pytest.skip("UNIGENBENCH_DATA is not set: the suite is not compared with the official prompts")
    with (Path(folder) / f"test_prompts_{language}.csv").open(encoding="utf-8", newline="") as file:
        official = {run for row in csv.DictReader(file) for run in runs(row[f"prompt_{language}"], language)}
    assert official
    for prompt in suite(language):
        assert not official.intersection(runs(prompt.text, language)), prompt.text


@pytest.mark.slow
def test_the_shapes_suite_is_what_its_script_writes():
    import build_shapes_suite

    assert (DATA / "shapes.csv").read_bytes() == to_csv(build_shapes_suite.shapes_suite(), "en").encode()


def test_the_shapes_suite_reads_without_a_remark():
    assert not validate_prompts("shapes")
    prompts = read_prompts("shapes")
    assert prompts.version == "shapes 1"
    assert len(prompts.prompts) >= 300
    assert len({prompt.text for prompt in prompts.prompts}) == len(prompts.prompts)


def test_shapes_prompts_are_held_out_and_their_points_are_the_verdicts_in_order():
    from t2ialign.shapes.caption import split_of
    from t2ialign.shapes.constraint import CRITERIA
    from t2ialign.shapes.verify import Unreadable, verify

    prompts = read_prompts("shapes").prompts
    for prompt in prompts:
        assert split_of(prompt.text) == "test"
        verdicts = verify(prompt.text, Unreadable("no picture")).verdicts
        assert [point.label for point in prompt.points] == [verdict.criterion for verdict in verdicts]
        claims = [str(verdict.constraint) for verdict in verdicts]
        assert [point.description for point in prompt.points] == claims
    counts = Counter(point.label for prompt in prompts for point in prompt.points)
    assert set(counts) == set(CRITERIA)
    assert min(counts.values()) >= 20


@pytest.mark.parametrize("first", [16, 64])
def test_the_first_shapes_prompts_already_test_every_criterion_of_shapes(first: int):
    from t2ialign.shapes.constraint import CRITERIA

    tested = {point.label for prompt in read_prompts("shapes").prompts[:first] for point in prompt.points}
    assert tested == set(CRITERIA)
