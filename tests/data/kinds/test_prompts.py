"""Lists of prompts, from text files and tables."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest

from t2ialign.config.reader import validated
from t2ialign.data.base import Example
from t2ialign.data.kinds.prompts import PromptData, read_prompt_list, read_prompts
from t2ialign.errors import DataError, InputError


def test_a_text_file_holds_one_prompt_a_line(tmp_path: Path):
    path = tmp_path / "prompts.txt"
    path.write_bytes("\ufeff# held out\r\n\r\n  a red fox \r\nein Füchslein, «rot»\r\n".encode())
    assert read_prompts(path) == ["a red fox", "ein Füchslein, «rot»"]


def test_a_table_gives_its_prompt_column(tmp_path: Path):
    path = tmp_path / "prompts.csv"
    path.write_text('id,Caption\n1,"a fox, red"\n2,#1 dad mug\n')
    assert read_prompts(path) == ["a fox, red", "#1 dad mug"]
    (tmp_path / "p.jsonl").write_text('{"prompt": "a fox"}\n\n{"prompt": "a \\u2028 hen"}\n')
    assert read_prompts(tmp_path / "p.jsonl") == ["a fox", "a \u2028 hen"]


@pytest.mark.parametrize(
    ("name", "content", "error", "message"),
    [
        ("p.txt", b"# only a comment\n", DataError, "holds no prompts"),
        ("p.txt", b"\xff\xfe\x00", DataError, "not UTF-8"),
        ("p.csv", b"prompt,id\n,1\n", DataError, r"p.csv:2: prompt is empty"),
        ("p.csv", b"promt\na fox\n", DataError, '"promt" looks like "prompt"'),
        ("p.json", b"[]", DataError, "has no rows"),
        ("p.xlsx", b"PK", InputError, "prompts are read from"),
    ],
)
def test_what_is_wrong_is_told(tmp_path: Path, name: str, content: bytes, error: type[Exception], message: str):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(error, match=message):
        read_prompts(tmp_path / name)


def test_a_missing_file_is_an_input_error(tmp_path: Path):
    with pytest.raises(InputError, match="no such file"):
        read_prompts(tmp_path / "none.txt")


ROW = '{}{},a fox,"{{""Testpoints"": [""Style""], ""Testpoint Description"": [""woodcut""]}}"\n'


def test_a_unigenbench_file_gives_its_own_numbers(tmp_path: Path):
    path = tmp_path / "p.csv"
    path.write_text("index,prompt_en,sub_dims_en\n" + ROW.format("", 7) + ROW.format("", 3))
    found = read_prompt_list(path)
    assert (found.prompts, found.indices) == (["a fox", "a fox"], [7, 3])
    assert found.sha256 == sha256(path.read_bytes()).hexdigest()
    assert read_prompts(path) == ["a fox", "a fox"]


def test_other_files_are_numbered_from_0(tmp_path: Path):
    (tmp_path / "p.txt").write_text("a fox\na hen\n")
    assert read_prompt_list(tmp_path / "p.txt").indices == [0, 1]
    with pytest.raises(InputError, match="subset 'testmini60' is of UniGenBench prompt files"):
        read_prompt_list(tmp_path / "p.txt", "testmini60")


def test_a_shipped_suite_is_named_without_a_path():
    found = read_prompt_list("suite_en")
    assert found.indices == list(range(len(found.prompts)))


def test_what_is_wrong_with_a_unigenbench_file_is_an_input_error(tmp_path: Path):
    path = tmp_path / "p.csv"
    path.write_text("index,prompt_en,sub_dims_en\n" + ROW.format("", 0) + ROW.format("x", 1))
    with pytest.raises(InputError, match=r"p.csv:3: index: 'x1' is no number"):
        read_prompts(path)
    path.write_text("index,prompt_en,sub_dims_en\n" + ROW.format("", 0))
    with pytest.raises(InputError, match=r"subset testmini60: 3, 37, .* not in the file"):
        read_prompt_list(path, "testmini60")


def examples(data: PromptData) -> list[Example]:
    source = data.open()
    return [source[row] for row in range(len(source))]


def test_as_data_each_prompt_is_an_example_without_images(tmp_path: Path):
    path = tmp_path / "p.txt"
    path.write_text("# two\n\na fox\n  a hen \n")
    data = validated("data", {"name": "prompts", "path": path})
    assert isinstance(data, PromptData)
    assert examples(data) == [Example((p,), (), origin=f"{path}:{line}") for p, line in (("a fox", 3), ("a hen", 4))]
    source = data.open()
    assert (source.views, source.account.rows, source.account.used) == (1, 2, 2)
    path.write_text("a fox\na hen\n")
    assert data.open().fingerprint == source.fingerprint
    path.write_text("a fox\na cat\n")
    assert data.open().fingerprint != source.fingerprint


def test_as_data_a_table_gives_a_column_and_an_account_of_its_rows(tmp_path: Path):
    path = tmp_path / "pairs.csv"
    path.write_text("words,chosen,rejected\na fox,a.png,b.png\n,c.png,d.png\n")
    content = {"name": "prompts", "path": path, "columns": {"prompt": "words"}}
    with pytest.raises(DataError, match=r"1 of 2 rows cannot be used.*\n.*pairs.csv:3: words is empty"):
        PromptData.model_validate(content).open()
    data = PromptData.model_validate({**content, "on_bad": "drop"})
    assert [example.prompts for example in examples(data)] == [("a fox",)]


def test_prompts_of_a_list_are_left_out_whole_and_counted(tmp_path: Path):
    path, exclude = tmp_path / "p.txt", tmp_path / "benchmark.txt"
    path.write_text("a fox\nA  Hen\na hen in a box\n")
    exclude.write_text("# of a benchmark\na hen\na cow\n")
    data = PromptData(path=path, exclude=exclude)
    assert [example.prompts for example in examples(data)] == [("a fox",), ("a hen in a box",)]
    account = data.open().account
    assert (account.rows, account.used) == (3, 2)
    assert account.lines()[1] == f"  left out: 1 x prompt of data.exclude, first: {path}:2: A  Hen"
    assert data.open().fingerprint != PromptData(path=path).open().fingerprint


def test_a_shipped_suite_can_be_left_out(tmp_path: Path):
    (tmp_path / "p.txt").write_text(read_prompt_list("suite_en").prompts[0] + "\na fox\n")
    data = validated("data", {"name": "prompts", "path": tmp_path / "p.txt", "exclude": "suite_en"})
    assert isinstance(data, PromptData)
    assert [example.prompts for example in examples(data)] == [("a fox",)]


def test_a_list_that_leaves_nothing_or_does_not_exist_is_refused(tmp_path: Path):
    path = tmp_path / "p.txt"
    path.write_text("a fox\na hen\n")
    with pytest.raises(DataError, match=r"all 2 prompts are in data.exclude.*first: .*p.txt:1: a fox. Give other"):
        PromptData(path=path, exclude=path).open()
    with pytest.raises(InputError, match=r"none.txt: no such file of prompts"):
        PromptData(path=path, exclude=tmp_path / "none.txt").open()


@pytest.mark.parametrize(
    ("name", "content", "error", "message"),
    [
        ("p.txt", "# only a comment\n", DataError, "holds no prompts"),
        ("p.json", "[]", DataError, "has no rows"),
        ("p.xlsx", "PK", InputError, r"prompts are read from .txt \(one a line\), .csv"),
        ("p.csv", "words\na fox\n", DataError, "need a column for the prompt"),
    ],
)
def test_data_that_holds_no_prompts_is_refused(
    tmp_path: Path, name: str, content: str, error: type[Exception], message: str
):
    (tmp_path / name).write_text(content)
    with pytest.raises(error, match=message):
        PromptData(path=tmp_path / name).open()
    with pytest.raises(InputError, match=r"none.txt: no such file or folder \(data.path\)"):
        PromptData(path=tmp_path / "none.txt").open()
