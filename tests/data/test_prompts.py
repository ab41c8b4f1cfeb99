"""Lists of prompts, from text files and tables."""

from __future__ import annotations

from pathlib import Path

import pytest

from t2ialign.data.prompts import read_prompts
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
        ("p.csv", b"prompt,id\n,1\n", DataError, r"p.csv:2: prompt: the prompt is missing"),
        ("p.csv", b"promt\na fox\n", DataError, '"promt" looks like "prompt"'),
        ("p.json", b"[]", InputError, "prompts are read from"),
    ],
)
def test_what_is_wrong_is_told(tmp_path: Path, name: str, content: bytes, error: type[Exception], message: str):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(error, match=message):
        read_prompts(tmp_path / name)


def test_a_missing_file_is_an_input_error(tmp_path: Path):
    with pytest.raises(InputError, match="no such file"):
        read_prompts(tmp_path / "none.txt")
