"""Prompt files: what is read, mended, refused, chosen."""

from __future__ import annotations

import json
import random
import tracemalloc
from hashlib import sha256
from pathlib import Path

import pytest
from odd_text import check_prompts
from prompt_files import CHINESE, ENGLISH, FIVE, LABELS, table, without_a_comma

from unigenbench.errors import DataError, InputError
from unigenbench.prompts import (
    OFFICIAL,
    from_json,
    parse_indices,
    prompt_sha256,
    read_prompts,
    select,
    subsets,
    to_json,
    validate_prompts,
)
from unigenbench.taxonomy import BY_ID
from unigenbench.types import Problem, PromptSet, Repair


def found(path: Path, **options) -> list[tuple[str, str]]:
    """(severity, place and fault) of a file, without the folder."""
    problems = validate_prompts(path, **options)
    return [(problem.severity, str(problem).removeprefix(f"{path.parent}/")) for problem in problems]


@pytest.fixture
def three(tmp_path: Path) -> PromptSet:
    text = {**ENGLISH, "Testpoints": ["Text Generation"], "Testpoint Description": [""]}
    other = {**ENGLISH, "Primary Categories": "Design", "Secondary Categories": "Logo/icon design"}
    return read_prompts(table(tmp_path / "three.csv", [ENGLISH, other, text]))


@pytest.mark.parametrize("suffix", ["_en", "_zh", "_en_long", "_zh_long", "", "chinese keys"])
def test_every_ending_of_the_columns_is_read(tmp_path: Path, suffix: str):
    chinese = suffix.startswith(("_zh", "chinese"))
    ending = suffix if suffix.startswith("_") else ""
    read = read_prompts(table(tmp_path / "mine.csv", [CHINESE if chinese else ENGLISH], ending))
    assert (read.name, read.language, read.version) == ("mine", "zh" if chinese else "en", "unknown")
    assert read.sha256 == sha256((tmp_path / "mine.csv").read_bytes()).hexdigest()
    [prompt] = read.prompts
    assert (prompt.theme, prompt.subtheme) == ("Art", "Graphic Art")
    assert (prompt.subject, prompt.structure) == ("Animal", "Descriptive")
    assert [point.criterion for point in prompt.points] == ["style", "attribute.color"]
    assert prompt.points[1].label == ("属性-颜色" if chinese else "Attribute - Color")
    assert prompt.points[1].description == ("红色的狐狸" if chinese else "a red fox")


def test_a_missing_comma_is_put_in_with_a_warning_and_one_repair(tmp_path: Path, caplog):
    path = table(tmp_path / "long.csv", [ENGLISH, without_a_comma(FIVE)], "_en_long")
    read = read_prompts(path)
    assert [point.label for point in read.prompts[1].points] == LABELS
    assert [point.description for point in read.prompts[1].points] == FIVE["Testpoint Description"]
    [repair] = read.repairs
    assert repair == Repair(3, repair.what)  # the header is line 1
    assert "comma was missing" in repair.what
    assert f"{path}:3: {repair.what}" in caplog.text


def test_strict_mends_nothing(tmp_path: Path):
    path = table(tmp_path / "long.csv", [ENGLISH, without_a_comma(FIVE)], "_en_long")
    with pytest.raises(InputError, match=r"long.csv:3: sub_dims_en_long: not JSON") as caught:
        read_prompts(path, strict=True)
    assert caught.value.exit_code == 2


def test_no_comma_is_put_between_strings_that_have_one(tmp_path: Path):
    # `", "` between an item and an empty one looks like a string of its own to a naive search
    content = {**ENGLISH, "Testpoint Description": ["", ""]}
    broken = json.dumps(content).replace('"Style", "Attribute', '"Style" "Attribute')
    read = read_prompts(table(tmp_path / "p.csv", [broken]))
    assert [point.description for point in read.prompts[0].points] == ["", ""]


def test_the_same_criterion_twice_keeps_both_test_points(tmp_path: Path):
    content = {**ENGLISH, "Testpoints": ["Attribute - Color"] * 2}
    [prompt] = read_prompts(table(tmp_path / "p.csv", [content])).prompts
    assert [point.description for point in prompt.points] == ["woodcut", "a red fox"]
    assert all(point.flags == {"duplicate_label"} for point in prompt.points)
    # both can be judged
    assert len(select(read_prompts(tmp_path / "p.csv"), exclude_flagged=True).prompts) == 1


def test_sorting_may_be_left_out(tmp_path: Path):
    content = {key: ENGLISH[key] for key in ("Testpoints", "Testpoint Description")}
    path = table(tmp_path / "p.csv", [content])
    [prompt] = read_prompts(path).prompts
    assert (prompt.theme, prompt.subtheme, prompt.subject, prompt.structure) == ("", "", "", "")
    missing = "'Primary Categories', 'Secondary Categories', 'Subjects', 'Sentence Structure'"
    assert found(path) == [("warning", f"p.csv:2: sub_dims_en: no key {missing}; left empty")]


def test_a_table_without_faults_has_no_problems(tmp_path: Path):
    assert found(table(tmp_path / "p.csv", [ENGLISH, FIVE | {"Testpoint Description": ["a"] * 5}])) == []
    assert found(table(tmp_path / "z.csv", [CHINESE], "_zh")) == []


def test_no_such_file_names_the_shipped_ones(tmp_path: Path):
    with pytest.raises(InputError, match="no such prompt file; give a CSV, or one of suite_en"):
        read_prompts(tmp_path / "none.csv")


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "p.csv: is empty"),
        (b"index,prompt_en,sub_dims_en\n", "p.csv: holds no prompts"),
        (b"index,prompt_en,sub_dims_zh\n", "p.csv:1: its columns are index, prompt_en, sub_dims_zh; needs"),
        (b"id,prompt_en,sub_dims_en\n", "p.csv:1: its columns are id, prompt_en, sub_dims_en; needs"),
        (b"index,index,prompt_en,sub_dims_en\n", "p.csv:1: column 'index' is there twice"),
        (b"index,prompt_en,sub_dims_en\n0,a,{}\n1,caf\xe9,{}\n", r"p.csv:3: not UTF-8 (byte 0xe9)"),
        (b"index,prompt_en,sub_dims_en\n0,a\n", "p.csv:2: 2 fields, not 3"),
        (b'index,prompt_en,sub_dims_en\n0,"a"b,{}\n', "p.csv:2: not CSV"),
    ],
)
def test_a_wrong_header_or_encoding_is_an_error(tmp_path: Path, content: bytes, fault: str):
    (tmp_path / "p.csv").write_bytes(content)
    severity, what = found(tmp_path / "p.csv")[0]
    assert severity == "error"
    assert what.startswith(fault)


def test_a_byte_order_mark_is_a_warning(tmp_path: Path):
    path = table(tmp_path / "p.csv", [ENGLISH])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert [severity for severity, what in found(path) if "byte order mark" in what] == ["warning"]
    assert len(read_prompts(path).prompts) == 1


@pytest.mark.parametrize(
    ("index", "severity", "fault"),
    [
        ("0", "error", "p.csv:3: index 0 is that of line 2 too"),
        ("1.0", "error", "p.csv:3: index: '1.0' is no number"),
        ("-1", "error", "p.csv:3: index: '-1' is no number"),
        ("٣", "error", "p.csv:3: index: '٣' is no number"),
        ("3", "warning", "p.csv: indices are not 0 to 3: 1, 2 missing"),
    ],
)
def test_an_index_is_a_number_of_its_own(tmp_path: Path, index: str, severity: str, fault: str):
    path = table(tmp_path / "p.csv", [ENGLISH, ENGLISH])
    path.write_text(path.read_text().replace("\n1,", f"\n{index},"))
    [(seen, what)] = found(path)
    assert seen == severity
    assert what.startswith(fault)


@pytest.mark.parametrize(
    ("row", "severity", "fault"),
    [
        ('{"Testpoints": [}', "error", "sub_dims_en: not JSON"),
        ('["Style"]', "error", "sub_dims_en: is a list, not an object"),
        ("[" * 5000, "error", "sub_dims_en: not JSON (nested too deeply)"),
        (
            '{"Testpoints": ["Style"], "Testpoints": []}',
            "error",
            "sub_dims_en: not JSON (key 'Testpoints' is there twice",
        ),
        (json.dumps({**ENGLISH, "Subjects": "\ud83d"}), "error", "sub_dims_en: holds half a character (\\ud83d)"),
        ({"Testpoints": ["Style"]}, "error", "sub_dims_en: no key 'Testpoint Description'"),
        (CHINESE, "error", "sub_dims_en: its keys are 'zh'"),
        ({**ENGLISH, "Comment": ""}, "warning", "sub_dims_en: unknown key 'Comment'"),
        ({**ENGLISH, "Testpoints": "Style"}, "error", "Testpoints: 'Style' is not a list of strings"),
        ({**ENGLISH, "Testpoint Description": [1, 2]}, "error", "Testpoint Description: [1, 2] is not a list"),
        ({**ENGLISH, "Testpoints": ["Style"]}, "error", "1 in Testpoints but 2 in Testpoint Description"),
        ({**ENGLISH, "Testpoints": [], "Testpoint Description": []}, "error", "Testpoints: is empty"),
        (
            {**ENGLISH, "Testpoints": ["Style", "Attribute - Colour"]},
            "error",
            "'Attribute - Colour' is no criterion; did you mean 'Attribute - Color'?",
        ),
        (
            {**ENGLISH, "Primary Categories": "Weather", "Secondary Categories": ""},
            "warning",
            "Primary Categories: 'Weather'",
        ),
        ({**ENGLISH, "Secondary Categories": "Sci-Fi"}, "warning", "Secondary Categories: 'Sci-Fi' is not known"),
        ({**ENGLISH, "Subjects": "Robot"}, "warning", "Subjects: 'Robot' is not known"),
        ({**ENGLISH, "Sentence Structure": "Question"}, "warning", "Sentence Structure: 'Question' is not known"),
        (
            {**ENGLISH, "Testpoint Description": ["woodcut", " "]},
            "warning",
            "'Attribute - Color' has an empty description",
        ),
        (
            {**ENGLISH, "Testpoints": ["Style", "Text Generation"]},
            "warning",
            "'Text Generation' is tested but no words are quoted",
        ),
        (
            {**ENGLISH, "Testpoints": ["Style", "Style"], "Testpoint Description": ["woodcut"] * 2},
            "warning",
            "Testpoints: 'Style' is there 2 times with one description",
        ),
    ],
)
def test_a_wrong_row_is_named_with_its_line(tmp_path: Path, row: dict | str, severity: str, fault: str):
    assert [(seen, what[: len(fault) + 8]) for seen, what in found(table(tmp_path / "p.csv", [ENGLISH, row]))] == [
        (severity, f"p.csv:3: {fault}"[: len(fault) + 8])
    ]


def test_memory_follows_the_prompts_and_never_their_numbers(tmp_path: Path):
    path = table(tmp_path / "ids.csv", [ENGLISH])
    path.write_text(path.read_text().replace("\n0,", "\n1234567890,"))
    tracemalloc.start()
    [(severity, what)] = found(path)
    chosen = select(read_prompts(path), indices=parse_indices("1234567890-1234567890"))
    with pytest.raises(InputError, match=r"indices: 0, 1, .*, 19 and 9999999979 more not in the file"):
        select(read_prompts(path), indices=parse_indices("0-9999999999"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert severity == "warning"
    assert what.endswith("0 to 1234567890: " + ", ".join(map(str, range(20))) + " and 1234567870 more missing")
    assert len(chosen.prompts) == 1
    assert peak < 5_000_000


def test_a_field_without_an_end_is_one_error(tmp_path: Path):
    path = table(tmp_path / "p.csv", [ENGLISH])
    path.write_text(path.read_text() + '1,"' + "a" * 200_000)
    assert found(path) == [("error", "p.csv:3: a field of more than 131,072 characters; is a quote left open?")]


@pytest.mark.parametrize("name", ["iVBORw0KGgo" * 100, "a\0b", "[bold]:smile:.csv"])
def test_what_cannot_be_a_path_is_no_such_file(name: str):
    with pytest.raises(InputError, match="no such prompt file"):
        read_prompts(name)


def test_empty_and_repeated_prompts_are_found(tmp_path: Path):
    path = table(tmp_path / "p.csv", [ENGLISH] * 3, texts=["a fox", " ", "a fox"])
    assert found(path) == [
        ("error", "p.csv:3: prompt_en: is empty"),
        ("warning", "p.csv:4: the prompt is that of line 2 too"),
    ]


def test_reading_names_the_first_error_and_counts_the_others(tmp_path: Path):
    path = table(tmp_path / "p.csv", ["{", ENGLISH, "["])
    with pytest.raises(InputError, match=r"p.csv:2: sub_dims_en: not JSON.*\(1 more; see them all with"):
        read_prompts(path)


def test_a_line_number_counts_lines_of_the_file_not_rows(tmp_path: Path):
    path = table(tmp_path / "p.csv", [ENGLISH, "{"], texts=["two\nlines", "one"])
    assert found(path)[0][1].startswith("p.csv:4: ")


def test_words_are_quoted_by_marks_and_not_by_an_apostrophe(tmp_path: Path):
    text = {**ENGLISH, "Testpoints": ["Text Generation"], "Testpoint Description": ["a sign"]}
    texts = ["the dog's sign", "a sign 'OPEN'", 'a sign "OPEN"', "招牌「开」"]
    read = read_prompts(table(tmp_path / "p.csv", [text] * 4, texts=texts))
    assert [prompt.points[0].flags for prompt in read.prompts] == [{"ungrounded"}, set(), set(), set()]


def test_a_choice_says_how_it_was_made(three: PromptSet):
    assert select(three) == three
    assert select(three, limit=2).selection == "first 2"
    assert [prompt.index for prompt in select(three, indices=[2, 0]).prompts] == [0, 2]
    chosen = select(three, indices=[0, 1, 2], theme="设计", dimension="attribute", limit=5)
    assert [prompt.index for prompt in chosen.prompts] == [1]
    assert chosen.selection == "indices 0-2, theme Design, dimension Attribute, first 5"
    assert len(chosen.prompts[0].points) == 2  # whole
    assert [prompt.index for prompt in select(three, exclude_flagged=True).prompts] == [0, 1]
    assert select(select(three, limit=2), theme="Art").selection == "first 2, theme Art"


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"subset": "mini"}, "subset 'mini' is unknown; there are testmini60, testmini120"),
        ({"subset": "testmini60"}, "subset testmini60: 3, 37, .* not in the file"),
        ({"indices": [0, 7]}, "indices: 7 not in the file"),
        ({"theme": "Film & Story"}, "no prompt is left of: theme Film & Story"),
        ({"dimension": "colour"}, "'colour' is no dimension; give one of style, "),
        ({"limit": 0}, "no prompt is left"),
    ],
)
def test_a_choice_that_cannot_be_is_an_input_error(three: PromptSet, choice: dict, message: str):
    with pytest.raises(InputError, match=message):
        select(three, **choice)


def test_indices_are_written_as_numbers_and_ranges():
    assert parse_indices("7, 0-2,2") == (range(3), range(7, 8))
    assert parse_indices("4,0-9,10") == (range(11),)
    for wrong in ("", "a", "3-1", "1,,2", "-1", "٣", "9" * 30):
        with pytest.raises(InputError, match="neither a number nor a range"):
            parse_indices(wrong)


def test_the_named_subsets_have_as_many_prompts_as_they_say():
    assert {name: len(set(indices)) for name, indices in subsets().items()} == {"testmini60": 60, "testmini120": 120}
    assert all(0 <= index < 600 for indices in subsets().values() for index in indices)


def test_a_prompt_set_survives_json(three: PromptSet):
    assert from_json(json.loads(json.dumps(to_json(three)))) == three
    content = to_json(three)
    del content["sha256"]
    with pytest.raises(DataError, match="not a prompt set"):
        from_json(content)


def test_a_prompts_digest_changes_with_what_the_judge_is_told(three: PromptSet):
    digests = [prompt_sha256(prompt) for prompt in three.prompts]
    assert len(set(digests)) == 3
    # the two differ in number and sorting only once their texts agree
    assert prompt_sha256(select(three, indices=[0]).prompts[0]) == digests[0]


@pytest.mark.parametrize(
    ("language", "remarks"), [("en", {385: "empty description", 577: "no words are quoted"}), ("zh", {})]
)
def test_the_official_short_files_are_read_whole(official: Path, language: str, remarks: dict[int, str]):
    path = official / f"test_prompts_{language}.csv"
    digest = sha256(path.read_bytes()).hexdigest()
    assert OFFICIAL[digest] == language
    read = read_prompts(path, strict=True)
    assert (read.name, read.language, read.version, read.sha256) == (language, language, "official v1", digest)
    assert [prompt.index for prompt in read.prompts] == list(range(600))
    problems = validate_prompts(path)
    assert [problem.severity for problem in problems] == ["warning"] * len(remarks)
    for (line, words), problem in zip(remarks.items(), problems, strict=True):  # index 383 and 575
        assert isinstance(problem, Problem)
        assert problem.place == f"{path}:{line}"
        assert words in problem.what


@pytest.mark.parametrize(
    ("name", "prompts", "points", "least"), [("testmini60", 60, 209, 4), ("testmini120", 120, 410, 7)]
)
def test_the_subsets_hold_every_criterion(official: Path, name: str, prompts: int, points: int, least: int):
    chosen = select(read_prompts(official / "test_prompts_en.csv"), subset=name)
    tested = [point.criterion for prompt in chosen.prompts for point in prompt.points]
    assert (len(chosen.prompts), len(tested)) == (prompts, points)
    assert min(tested.count(criterion) for criterion in BY_ID) == least


def test_any_prompt_file_is_read_or_refused_in_sentences(tmp_path: Path):
    for seed in range(150):
        check_prompts(tmp_path, random.Random(seed))
