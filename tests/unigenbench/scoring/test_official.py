"""The official script's files: written by us, read by a reader that was written from their description alone."""

from __future__ import annotations

import ast
import csv
import errno
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hand_made import case_b, files_below, judgement, log, prompt, prompt_set, run

from unigenbench.errors import DataError, TryAgainError
from unigenbench.prompts import read_prompts
from unigenbench.runs.store import open_log
from unigenbench.scoring import official
from unigenbench.scoring.official import ResultRow, counted, export_official, import_official, read_rows
from unigenbench.scoring.scores import summarise
from unigenbench.taxonomy import CRITERIA, DIMENSIONS


def read_as_described(path: Path) -> tuple[dict, dict, int]:
    """Counts of an official CSV, by its description: a row's result is JSON text, its labels are a Python list.

    Returns:
        {part of a label before its first hyphen: [correct, total]}, {label: [correct, total]}, rows without a result.
    """
    primary: dict[str, list[int]] = {}
    sub: dict[str, list[int]] = {}
    without = 0
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            result = json.loads(row["result_json"])
            if result is None:
                without += 1
                continue
            for label, value in zip(ast.literal_eval(row["testpoint"]), result["score"], strict=True):
                for table, name in ((primary, label.partition("-")[0]), (sub, label)):
                    counts = table.setdefault(name, [0, 0])
                    counts[0] += value == 1
                    counts[1] += 1
    return primary, sub, without


def some_failed(language: str = "en"):
    """A run with every kind of label, three failures, and text that is hard on a CSV."""
    names = [criterion.name if language == "en" else criterion.name_zh for criterion in CRITERIA]
    texts = ('says "hi", twice\nand goes', "null", "一只猫，在桌上", "plain", "it's {so}")
    labels = [[names[(i * 3 + k) % 27] for k in range(1 + i % 5)] for i in range(40)]
    asked = [prompt(i, *mine, text=f"{texts[i % 5]} {i}") for i, mine in enumerate(labels)]
    prompts = prompt_set(asked, language=language)
    made = run(prompts, case_b)
    lost = {"made/3/1/0": "refused", "made/7/0/0": "parse_failed", "made/39/3/0": "transport_failed"}
    judgements = [
        judgement(prompts.prompts[old.prompt_index], old.image_index, None, lost[old.key]) if old.key in lost else old
        for old in made.judgements
    ]
    return log(prompts, judgements)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_exported_files_are_read_to_the_numbers_of_the_summary(tmp_path: Path, language: str):
    made = some_failed(language=language)
    summary = summarise(made, bootstrap=10)
    files = export_official(made, tmp_path)
    assert (files.csv, files.json) == (tmp_path / "model_made.csv", tmp_path / "model_made.json")
    assert (files.rows, files.failed) == (160, 3)

    primary, sub, without = read_as_described(files.csv)

    assert without == 3
    name = "name" if language == "en" else "name_zh"
    by_name = {getattr(dimension, name): dimension.id for dimension in DIMENSIONS}
    counts = {id: [entry["correct"], entry["total"]] for id, entry in summary["dimensions"].items() if entry["total"]}
    assert {by_name[found.strip()]: pair for found, pair in primary.items()} == counts
    by_label = {getattr(criterion, name): criterion.id for criterion in CRITERIA}
    counts = {id: [entry["correct"], entry["total"]] for id, entry in summary["criteria"].items() if entry["total"]}
    assert {by_label[label]: pair for label, pair in sub.items()} == counts

    written = json.loads(files.json.read_text(encoding="utf-8"))
    assert list(written) == ["primary_dimensions", "sub_dimensions"]
    for section, expected in (("primary_dimensions", primary), ("sub_dimensions", sub)):
        assert written[section] == {
            key: {"correct": correct, "total": total, "accuracy": round(correct / total, 4)}
            for key, (correct, total) in expected.items()
        }
    assert list(written["primary_dimensions"]) == list(primary)  # in order of appearance
    assert list(written["sub_dimensions"]) == sorted(sub)
    if language == "en":
        assert "Attribute " in written["primary_dimensions"]  # the script does not strip
        assert "Style" in written["primary_dimensions"]


def test_exported_files_look_as_described(tmp_path: Path):
    files = export_official(some_failed(), tmp_path, model="m")
    text = files.csv.read_text(encoding="utf-8")
    assert text.startswith("index,prompt,testpoint,output,result_json,img_path\n")
    assert b"\r" not in files.csv.read_bytes()
    with files.csv.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["index"]) for row in rows] == [i for i in range(40) for _ in range(4)]
    assert rows[5]["img_path"] == "images/model/1_1.png"
    assert list(json.loads(rows[5]["result_json"])) == ["prompt", "testpoint", "analysis", "score"]
    assert rows[5]["result_json"].startswith('{\n    "prompt"')
    assert rows[13]["result_json"] == "null"  # prompt 3, image 1
    # read as Python, as the script does, the JSON text means the same
    assert ast.literal_eval(rows[5]["result_json"]) == json.loads(rows[5]["result_json"])
    assert files.json.read_text(encoding="utf-8").startswith('{\n    "primary_dimensions": {\n        "')


def test_an_imported_export_gives_the_same_summary(tmp_path: Path):
    made = some_failed()
    files = export_official(made, tmp_path)
    back = import_official(files.csv, made.prompts, tmp_path / "run", judge="gemini-2.5-pro")
    before, after = summarise(made, bootstrap=100), summarise(back, bootstrap=100)
    for section in ("overall", "dimensions", "criteria", "themes", "per_prompt"):
        assert before[section] == after[section]
    assert after["coverage"]["judged"] == 157
    assert [j.analyses for j in back.judgements] == [j.analyses for j in made.judgements]
    assert (tmp_path / "run" / back.manifest["imported"]["file"]).read_bytes() == files.csv.read_bytes()
    assert open_log(tmp_path / "run") == back


def test_an_export_that_breaks_leaves_neither_file(tmp_path: Path, monkeypatch):
    made, synced, fsync = some_failed(), [], os.fsync

    def full(descriptor: int) -> None:
        if synced:
            raise OSError(errno.ENOSPC, "No space left on device")
        synced.append(descriptor)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(TryAgainError, match=r"\.json: the disk is full"):
        export_official(made, tmp_path)
    assert files_below(tmp_path) == set()


def test_an_export_that_is_refused_makes_no_folder(tmp_path: Path):
    odd = log(prompt_set([prompt(0, "Style")]), [judgement(prompt(9, "Style"), 0, [1])])
    with pytest.raises(DataError, match="made/9/0/0: the run's prompts have no index 9"):
        export_official(odd, tmp_path / "out")
    assert files_below(tmp_path) == set()


def test_an_export_goes_into_any_folder_and_by_default_into_that_of_the_run(tmp_path: Path):
    prompts = prompt_set([prompt(0, "Style")])
    made = replace(run(prompts, case_b, folder={"root": ".", "pattern": "{index}-{image}.jpg"}), path=tmp_path / "r1")
    files = export_official(made, tmp_path / "new" / "folder")
    assert files.csv == tmp_path / "new/folder/r1_made.csv"
    assert read_rows(files.csv)[3].img_path == "0-3.jpg"
    assert export_official(made, model="m").csv == tmp_path / "r1/official/m_made.csv"


def row(result: str, labels: str = "['Style', 'Text Generation']") -> ResultRow:
    return ResultRow(2, 0, 0, "p", labels, "", result, "0_0.png")


@pytest.mark.parametrize(
    ("result", "met"),
    [
        ('{"score": [1, 0]}', [True, False]),
        ('{"score": [1.0, 0.5]}', [True, False]),
        ('{"score": ["1", 2]}', [False, False]),
        ('{"score": [1]}', [True]),  # pairs end with the shorter list
        ('{"score": [1, 1, 1]}', [True, True]),
        ('{"score": "10"}', [False, False]),
        ('{"score": {"a": 1, "b": 1}}', [False, False]),
        ('{"score": [true, false]}', None),  # JSON that is no Python
        ('{"score": [1, 1], "analysis": [null, "a"]}', None),
        ("null", None),
        ("", None),
        ('{"analysis": []}', None),
        ('{"score": 1}', None),  # the script dies of this one
    ],
)
def test_a_row_counts_as_the_official_script_counts_it(result: str, met: list[bool] | None):
    pairs = counted(row(result))
    assert (None if pairs is None else [value for _, value in pairs]) == met


def test_a_label_belongs_to_what_is_before_its_first_hyphen():
    labels = ["Action - Full-body (Character/Anthropomorphic)", "Entity Layout - Two-Dimensional Space", "属性-数量"]
    scores = official.count_rows([row('{"score": [1, 0, 1]}', repr(labels))])
    assert list(scores.primary) == ["Action ", "Entity Layout ", "属性"]
    assert list(scores.sub) == sorted(labels)


@pytest.mark.skipif(not os.environ.get("UNIGENBENCH_DATA"), reason="UNIGENBENCH_DATA is not set")
def test_an_export_over_the_official_prompts_counts_4606_of_7252(tmp_path: Path):
    prompts = read_prompts(Path(os.environ["UNIGENBENCH_DATA"]) / "test_prompts_en.csv")
    primary, sub, without = read_as_described(export_official(run(prompts, case_b), tmp_path).csv)
    assert [sum(pair[place] for pair in primary.values()) for place in (0, 1)] == [4606, 7252]
    assert (len(primary), len(sub), without) == (10, 27, 0)
    assert primary["Attribute "] == [601, 936]
