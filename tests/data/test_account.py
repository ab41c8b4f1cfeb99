"""Nothing is dropped, merged or swapped silently: what is there is used, or counted with a reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from own_data import write_csv, write_image
from PIL import Image

from t2ialign.data.account import DataAccount, write_accounts
from t2ialign.data.inspect.summary import render, summarise
from t2ialign.data.kinds.labelled import LabelledData
from t2ialign.data.kinds.lists import ListData
from t2ialign.data.kinds.pairs import PairData
from t2ialign.data.kinds.singles import SingleData
from t2ialign.data.tables.source import TableData
from t2ialign.errors import DataError

prompts = st.sampled_from(["a fox", "hen", "", "  ", "half \ud83d of a pair"])
paths = st.sampled_from(["a.png", "b.png", "none.png", "", "bad.png", "a" * 3000, "\0", "\udcff.png", "..", "b.PNG"])
labels = st.sampled_from([1, 0, 0.5, "", "left", "1e400", 10**400])
scores = st.sampled_from([1, 2.5, 2.6, 3, "nan", "", None, 10**400])


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for seed, name in enumerate(("a.png", "b.png")):
        write_image(folder / name, seed)
    (folder / "bad.png").write_bytes((folder / "a.png").read_bytes()[:60])
    return folder


def account(data: TableData) -> DataAccount:
    return data.read(decode=True).source.account


def reasons(found: DataAccount) -> set[tuple[str, str]]:
    """(reason, name of the file or line) of everything that is not read."""
    return {(problem.reason, Path(problem.origin).name) for problem in found.unused}


def jsonl(path: Path, columns: tuple[str, ...], rows: list[tuple]) -> Path:
    path.write_text("".join(json.dumps(dict(zip(columns, row, strict=True))) + "\n" for row in rows), encoding="utf-8")
    return path


def assert_reconciles(found: DataAccount) -> None:
    assert found.used + len(found.left_out) == found.rows
    assert len({problem.origin for problem in found.left_out}) == len(found.left_out)  # no row twice
    content = found.as_dict()
    assert found.rows == content["used"] + sum(some["count"] for some in content["left_out"].values())
    assert f"{found.used:,} of {found.rows:,} rows used" in found.lines()[0]


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.tuples(prompts, paths, paths, labels), min_size=1, max_size=12))
def test_rows_of_pairs_are_used_or_left_out_for_a_reason(images: Path, rows: list[tuple]):
    table = jsonl(images / "pairs.jsonl", ("prompt", "image_0", "image_1", "label_0"), rows)
    for kind in (PairData, SingleData, LabelledData):
        found = account(kind(path=table))
        assert_reconciles(found)
    fine = [
        row for row in rows if row[0] in ("a fox", "hen") and {*row[1:3]} <= {"a.png", "b.png"} and row[3] in (0, 1)
    ]
    assert account(PairData(path=table)).used == len(fine)


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.tuples(prompts, paths, scores, st.sampled_from("xy")), min_size=1, max_size=24))
def test_rows_of_lists_are_used_or_left_out_for_a_reason(images: Path, rows: list[tuple]):
    table = jsonl(images / "lists.jsonl", ("prompt", "image", "score", "reward"), [*rows, ("a", "a.png", 1, "x")])
    found = account(ListData(path=table, views=2, margin=0.2, reward="x"))
    assert_reconciles(found)
    others = sum(row[3] == "y" for row in rows)
    assert found.as_dict()["left_out"].get("score of another reward", {"count": 0})["count"] == others
    assert found.used == 2 * found.examples


@pytest.fixture
def pair_folder(tmp_path: Path) -> Path:
    """Two pairs with prompts in prompts.csv."""
    for name in ("w/0.png", "w/1.png", "l/0.png", "l/1.png"):
        write_image(tmp_path / name)
    write_csv(tmp_path / "prompts.csv", ["file_name", "prompt"], [["0.png", "zero"], ["1.png", "one"]])
    return tmp_path


def test_a_folder_of_which_everything_is_read_has_a_complete_account(pair_folder: Path):
    assert account(PairData(path=pair_folder)).is_complete


def test_files_of_a_folder_that_are_not_read_are_named(pair_folder: Path):
    write_image(pair_folder / "w/more/9.png")
    write_image(pair_folder / "stray.png")
    for name in ("w/2.heic", "l/notes.txt", "pairs.csv", ".DS_Store", "w/._0.png"):
        (pair_folder / name).write_bytes(b"?")
    assert reasons(account(PairData(path=pair_folder))) == {
        ("folder that is not read", "more"),
        ("image that no row names", "stray.png"),
        ("file of a kind that is not read", "2.heic"),
        ("file of a kind that is not read", "pairs.csv"),
        ("prompt without an image", "notes.txt"),
    }


@pytest.mark.parametrize("suffix", ["jfif", "jpe", "JPEG", "avif", "Tiff", "webp"])
def test_every_usual_suffix_is_read(pair_folder: Path, suffix: str):
    for side in "wl":
        (pair_folder / side / "1.png").unlink()
        Image.new("RGB", (16, 16)).save(pair_folder / side / f"1.{suffix}")
    found = account(PairData(path=pair_folder))
    assert (found.used, found.is_complete) == (2, True)


def test_rows_of_a_prompt_file_without_an_image_and_second_prompts_are_named(pair_folder: Path):
    rows = [["0.png", "zero"], ["w/1.png", "one"], ["8", "eight"], ["0.png", "another"], ["more/1.png", "no"]]
    write_csv(pair_folder / "prompts.csv", ["file_name", "prompt"], rows)
    source = PairData(path=pair_folder).open()
    assert [source[index].prompts[0] for index in range(2)] == ["another", "one"]
    assert reasons(source.account) == {
        ("prompt without an image", "prompts.csv:4"),
        ("another prompt for the same image", "prompts.csv:2"),
        ("prompt without an image", "prompts.csv:6"),
    }


def test_prompts_that_others_stand_in_for_are_named(pair_folder: Path):
    for name in ("prompts.txt", "w/0.txt"):
        (pair_folder / name).write_text("other\n")
    assert reasons(account(PairData(path=pair_folder))) == {
        ("prompts that are not read", "prompts.txt"),
        ("prompts that are not read", "0.txt"),
    }


def test_captions_and_files_beside_captioned_images_are_named(tmp_path: Path):
    write_image(tmp_path / "0.png")
    for name in ("0.txt", "1.txt", "2.heic"):
        (tmp_path / name).write_text("a fox")
    assert reasons(account(SingleData(path=tmp_path))) == {
        ("prompt without an image", "1.txt"),
        ("file of a kind that is not read", "2.heic"),
    }


def test_images_of_a_folder_that_its_table_does_not_name_are_named(pair_table: Callable[..., Path]):
    folder = pair_table(2).parent
    write_image(folder / "img/stray.png")
    assert reasons(account(PairData(path=folder))) == {("image that no row names", "stray.png")}
    assert account(PairData(path=folder / "pairs.csv")).is_complete  # the folder was not given


def test_of_several_splits_one_must_be_named(pair_table: Callable[..., Path]):
    folder = pair_table(1).parent
    (folder / "pairs.csv").unlink()
    for name in ("train-00000-of-00001", "test-00000-of-00001", "validation"):
        columns = {"prompt": [name], "chosen": ["img/0_w.png"], "rejected": ["img/0_l.png"]}
        pq.write_table(pa.table(columns), folder / f"{name}.parquet")
    with pytest.raises(DataError, match=r"several splits \(test, train, validation\); set data\.split to one of them"):
        PairData(path=folder).open()
    with pytest.raises(DataError, match=r"data\.split is 'dev'; it holds shards of test, train, validation"):
        PairData(path=folder, split="dev").open()
    source = PairData(path=folder, split="train").open()
    assert [source[index].prompts[0] for index in range(len(source))] == ["train-00000-of-00001"]
    assert {reason for reason, _ in reasons(source.account)} == {"file of another split"}


def test_inspect_says_what_is_not_read(pair_folder: Path):
    (pair_folder / "w/2.heic").write_bytes(b"?")
    text = " ".join(render(summarise(PairData(path=pair_folder))).split())
    assert "not read 1 x file of a kind that is not read, first: " in text


def test_accounts_are_written_as_json(tmp_path: Path, pair_folder: Path):
    found = account(PairData(path=pair_folder))
    write_accounts(tmp_path / "data.json", {"data": found})
    assert json.loads((tmp_path / "data.json").read_text())["data"]["used"] == 2
