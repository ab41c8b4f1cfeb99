"""Pairs and singles of a user's own: what is understood, what is refused, and in which words."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from own_data import write_csv, write_image

from t2ialign.config import component
from t2ialign.data.images import open_image
from t2ialign.data.kinds.pairs import PairData
from t2ialign.data.kinds.singles import SingleData
from t2ialign.data.tables.columns import Columns
from t2ialign.errors import DataError, InputError

HEADER = ["prompt", "chosen", "rejected"]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """The folder of two images, a.png and b.png."""
    for seed, name in enumerate(("a.png", "b.png")):
        write_image(tmp_path / name, seed)
    return tmp_path


def names(source) -> list[tuple[str, ...]]:
    return [tuple(path.name for path in source[index].images) for index in range(len(source))]


def refused(data: PairData | SingleData) -> str:
    with pytest.raises(DataError) as caught:
        data.open()
    assert caught.value.exit_code == 4
    return str(caught.value)


# what is understood


def test_a_csv_gives_chosen_before_rejected_with_paths_relative_to_it(pair_table: Callable[..., Path]):
    path = pair_table(2)
    source = PairData(path=path).open()
    assert (source.views, len(source)) == (2, 2)
    assert source[1].prompts == ("prompt 1",)
    assert source[1].images == (path.parent / "img/1_w.png", path.parent / "img/1_l.png")
    assert source[1].origin == f"{path}:3"


def test_it_is_the_data_component_of_a_config(pair_table: Callable[..., Path]):
    found = component.resolve("data", "pairs").model_validate({"name": "pairs", "path": str(pair_table(2))})
    assert isinstance(found, PairData)
    assert len(found.open()) == 2


@pytest.mark.parametrize(
    "header",
    [
        ["caption", "jpg_w", "jpg_l"],
        ["Text", "Win", "Lose"],
        ["prompt", "winner", "loser"],
        ["prompt", "image-w", "image l"],
    ],
)
def test_columns_are_found_by_what_they_mean(images: Path, header: list[str]):
    source = PairData(path=write_csv(images / "t.csv", header, [["fox", "a.png", "b.png"]])).open()
    assert names(source) == [("a.png", "b.png")]


def test_columns_can_be_named(images: Path):
    path = write_csv(images / "t.csv", ["p", "x", "y"], [["fox", "a.png", "b.png"]])
    source = PairData(path=path, columns={"prompt": "p", "chosen": "y", "rejected": "x"}).open()
    assert names(source) == [("b.png", "a.png")]


def test_quoted_commas_newlines_byte_order_mark_and_crlf_are_read(images: Path):
    path = images / "t.csv"
    text = '\ufeffprompt,chosen,rejected\r\n"a fox,\r\nred",a.png,b.png\r\n\r\n"sagt ""hü"" 狐",b.png,a.png\r\n'
    path.write_bytes(text.encode())
    source = PairData(path=path).open()
    assert [source[0].prompts[0], source[1].prompts[0]] == ["a fox,\r\nred", 'sagt "hü" 狐']
    assert [source[0].origin, source[1].origin] == [f"{path}:2", f"{path}:5"]


def test_tsv_and_jsonl_are_read(images: Path):
    (images / "t.tsv").write_text("prompt\tchosen\trejected\nfox, red\ta.png\tb.png\n")
    (images / "t.jsonl").write_text('{"prompt": "fox", "chosen": {"path": "b.png"}, "rejected": "a.png"}\n')
    assert PairData(path=images / "t.tsv").open()[0].prompts == ("fox, red",)
    assert names(PairData(path=images / "t.jsonl").open()) == [("b.png", "a.png")]


def test_scores_are_kept(images: Path):
    path = write_csv(images / "t.csv", [*HEADER, "score_chosen", "score_rejected"], [["fox", "a.png", "b.png", 2, 0.5]])
    assert PairData(path=path).open()[0].scores == (2.0, 0.5)


@pytest.mark.parametrize("wrapped", [False, True])
def test_parquet_with_embedded_images_follows_pick_a_pics_rule(images: Path, wrapped: bool):
    # label_0 = 1: the first is better; 0: swapped; 0.5: a tie
    a, b = (images / "a.png").read_bytes(), (images / "b.png").read_bytes()
    first, second = ([{"bytes": x, "path": None}] * 3 if wrapped else [x] * 3 for x in (a, b))
    table = {"caption": ["f"] * 3, "jpg_0": first, "jpg_1": second, "label_0": [1, 0.5, 0], "label_1": [0, 0.5, 1]}
    pq.write_table(pa.table(table), images / "t.parquet", row_group_size=2)
    source = PairData(path=images / "t.parquet").open()
    assert len(source) == 2
    contents = [tuple(image.read() for image in source[index].images) for index in (0, 1)]
    assert contents == [(a, b), (b, a)]
    assert source[1].origin == f"{images / 't.parquet'}:row 3"


def test_parquet_shards_of_a_folder_are_one_table(images: Path):
    for shard in range(2):
        columns = {"prompt": [f"fox {shard}"], "chosen": ["a.png"], "rejected": ["b.png"]}
        pq.write_table(pa.table(columns), images / f"train-{shard}.parquet")
    source = PairData(path=images).open()
    assert [source[index].prompts[0] for index in range(2)] == ["fox 0", "fox 1"]


def test_preferred_is_the_number_of_the_better_image(images: Path):
    rows = [["f", "a.png", "b.png", 0], ["f", "a.png", "b.png", 1]]
    path = write_csv(images / "t.csv", ["prompt", "image_0", "image_1", "preferred"], rows)
    assert names(PairData(path=path).open()) == [("a.png", "b.png"), ("b.png", "a.png")]


def pair_folders(folder: Path, count: int = 3) -> Path:
    for index in range(1, count + 1):
        write_image(folder / f"w/{index}.png", index)
        write_image(folder / f"l/{index}.png", 100 + index)
    return folder


def test_two_folders_are_paired_by_stem_with_a_table_of_prompts(tmp_path: Path):
    folder = pair_folders(tmp_path)
    write_csv(folder / "prompts.csv", ["file_name", "prompt"], [["2.png", "two"], ["1", "one"], ["3", "three"]])
    source = PairData(path=folder).open()
    assert [source[index].prompts[0] for index in range(3)] == ["one", "two", "three"]
    assert [path.parent.name for path in source[0].images] == ["w", "l"]


def test_lines_of_prompts_belong_to_the_images_in_natural_order(tmp_path: Path):
    folder = pair_folders(tmp_path, 11)
    (folder / "prompts.txt").write_text("".join(f"number {index}\n" for index in range(1, 12)))
    source = PairData(path=folder).open()
    assert [(source[index].prompts[0], source[index].images[0].stem) for index in (1, 9, 10)] == [
        ("number 2", "2"),
        ("number 10", "10"),
        ("number 11", "11"),
    ]


def test_captions_beside_the_chosen_images_are_read(tmp_path: Path):
    folder = pair_folders(tmp_path, 1)
    (folder / "w/1.txt").write_text("a fox\n")
    assert PairData(path=folder).open()[0].prompts == ("a fox",)


def test_a_folder_with_one_table_is_that_table(pair_table: Callable[..., Path]):
    assert len(PairData(path=pair_table(4).parent).open()) == 4


def test_singles_read_images_with_prompts(images: Path):
    path = write_csv(images / "t.csv", ["file_name", "text"], [["a.png", "fox"]])
    source = SingleData(path=path).open()
    assert (source.views, names(source), source[0].prompts) == (1, [("a.png",)], ("fox",))


def test_singles_read_captioned_images(images: Path):
    for name in ("a", "b"):
        (images / f"{name}.txt").write_text(f"prompt {name}")
    source = SingleData(path=images).open()
    assert [source[index].prompts[0] for index in range(2)] == ["prompt a", "prompt b"]


def test_singles_of_pairs_are_the_chosen_images(pair_table: Callable[..., Path], tmp_path: Path):
    assert names(SingleData(path=pair_table(2)).open()) == [("0_w.png",), ("1_w.png",)]
    rows = [["f", "img/0_w.png", "img/0_l.png", 0], ["f", "img/0_w.png", "img/0_l.png", 0.5]]
    labelled = write_csv(tmp_path / "labelled.csv", ["prompt", "image_0", "image_1", "label"], rows)
    assert names(SingleData(path=labelled).open()) == [("0_l.png",)]
    assert names(SingleData(path=pair_folders_with_prompts(tmp_path / "two")).open()) == [("1.png",)]


def pair_folders_with_prompts(folder: Path) -> Path:
    pair_folders(folder, 1)
    (folder / "prompts.txt").write_text("one\n")
    return folder


def test_reversed_pairs_exchange_images_and_scores_and_drop_the_same_ties(images: Path):
    write_csv(
        images / "t.csv",
        ["prompt", "image_0", "image_1", "label_0"],
        [["p", "a.png", "b.png", "1"], ["q", "a.png", "b.png", "0"], ["r", "a.png", "b.png", "0.5"]],
    )
    straight, reverse = (PairData(path=images / "t.csv", reverse=value).open() for value in (False, True))
    assert names(straight) == [("a.png", "b.png"), ("b.png", "a.png")]
    assert names(reverse) == [("b.png", "a.png"), ("a.png", "b.png")]
    assert straight.account.left_out == reverse.account.left_out != {}
    assert straight.fingerprint != reverse.fingerprint
    write_csv(
        images / "s.csv",
        ["prompt", "chosen", "rejected", "score_chosen", "score_rejected"],
        [["p", "a.png", "b.png", "0.9", "0.5"], ["q", "a.png", "b.png", "0.9", "0.1"]],
    )
    data = PairData(path=images / "s.csv", reverse=True, order="easy_first")
    assert data.open()[0].scores == (-0.5, -0.9)
    assert data.curriculum_scores(data.open()) == pytest.approx([0.4, 0.8])


# what is refused


def test_a_missing_column_is_named_with_the_likely_typo(images: Path):
    path = write_csv(images / "pairs.csv", ["prompt", "choosen", "rejected"], [["fox", "a.png", "b.png"]])
    message = refused(PairData(path=path))
    assert message == (
        f'{path}: has columns prompt, choosen, rejected; need a column for the chosen image; "choosen" looks like '
        '"chosen": rename it or set data.columns.chosen=choosen'
    )


def test_a_named_column_must_be_there(images: Path):
    path = write_csv(images / "pairs.csv", HEADER, [["fox", "a.png", "b.png"]])
    message = refused(PairData(path=path, columns={"chosen": "chosn"}))
    assert (
        "data.columns.chosen is 'chosn', but columns are prompt, chosen, rejected; did you mean \"chosen\"?" in message
    )


@pytest.mark.parametrize("role", list(Columns.model_fields))
def test_a_named_column_must_be_there_even_where_it_is_not_read(images: Path, role: str):
    path = write_csv(images / "pairs.csv", HEADER, [["fox", "a.png", "b.png"]])
    message = refused(PairData(path=path, columns=Columns.model_validate({role: "rejcted"})))
    assert f"data.columns.{role} is 'rejcted', but columns are " in message
    assert message.endswith('; did you mean "rejected"?')


def test_two_columns_that_mean_the_same_are_not_guessed_between(images: Path):
    path = write_csv(images / "t.csv", ["prompt", "caption", "chosen", "rejected"], [["x", "y", "a.png", "b.png"]])
    assert "prompt and caption both look like the prompt; set data.columns.prompt" in refused(PairData(path=path))


def test_an_empty_table_is_refused(tmp_path: Path):
    assert "has no rows below its header" in refused(PairData(path=write_csv(tmp_path / "t.csv", HEADER, [])))
    (tmp_path / "e.jsonl").write_text("\n")
    assert "has no rows" in refused(PairData(path=tmp_path / "e.jsonl"))


def labelled(images: Path, labels: list[Any]) -> Path:
    rows = [["fox", "a.png", "b.png", label] for label in labels]
    return write_csv(images / "t.csv", ["prompt", "image_0", "image_1", "label"], rows)


def test_all_ties_are_refused(images: Path):
    message = refused(PairData(path=labelled(images, [0.5, "0.5"])))
    assert "all 2 rows are ties" in message
    assert "data.columns.label" in message


def test_ties_can_be_an_error(images: Path):
    message = refused(PairData(path=labelled(images, [1, 0.5]), ties="error"))
    assert re.search(r"1 of 2 rows are ties, first: .*t.csv:3: label is 0.5; set data.ties=drop", message)


@pytest.mark.parametrize("label", ["", "left", "2", "nan"])
def test_a_label_that_is_not_understood_is_refused(images: Path, label: str):
    message = refused(PairData(path=labelled(images, [1, label])))
    assert "t.csv:3: label is " + repr(label) + "; known are 1, 0 and 0.5" in message


def test_labels_that_contradict_each_other_are_refused(images: Path):
    header = ["prompt", "image_0", "image_1", "label_0", "label_1"]
    path = write_csv(images / "t.csv", header, [["fox", "a.png", "b.png", 1, 0.5]])
    assert "label_0 is 1, but label_1 is '0.5'" in refused(PairData(path=path))


def mixed(images: Path) -> Path:
    """One good row, two missing images, a missing prompt, and a damaged image."""
    (images / "bad.png").write_bytes((images / "a.png").read_bytes()[:60])
    rows = [
        ["fox", "a.png", "b.png"],
        ["fox", "none.png", "b.png"],
        ["fox", "a.png", ""],
        [" ", "a.png", "b.png"],
        ["fox", "a.png", "bad.png"],
    ]
    return write_csv(images / "t.csv", HEADER, rows)


def test_unusable_rows_are_counted_and_the_first_of_each_kind_named(images: Path):
    path = mixed(images)
    message = refused(PairData(path=path))
    assert "3 of 5 rows cannot be used; correct them, or set data.on_bad=drop to go on with 2" in message
    assert f"2 x image missing, first: {path}:3: chosen: no such image {images / 'none.png'}" in message
    assert f"1 x prompt missing, first: {path}:5: prompt is empty" in message


def test_on_bad_drop_keeps_the_usable_rows_alone(images: Path):
    source = PairData(path=mixed(images), on_bad="drop").open()
    assert names(source) == [("a.png", "b.png")]


def test_nothing_usable_is_refused_even_when_dropping(images: Path):
    path = write_csv(images / "t.csv", HEADER, [["fox", "none.png", "b.png"]])
    assert "none of 1 rows can be used" in refused(PairData(path=path, on_bad="drop"))


def test_an_image_missing_from_one_of_two_folders_is_refused(tmp_path: Path):
    folder = pair_folders(tmp_path, 2)
    (folder / "prompts.txt").write_text("one\ntwo\n")
    (folder / "l/2.png").unlink()
    assert f"{folder}/w/2: rejected is empty" in refused(PairData(path=folder))


@pytest.mark.parametrize(
    ("prompts", "message"),
    [(None, "has no prompts; add prompts.csv"), ("one\n", "has 1 prompts, but there are 2 images")],
)
def test_folders_need_a_prompt_for_each_pair(tmp_path: Path, prompts: str | None, message: str):
    folder = pair_folders(tmp_path, 2)
    if prompts is not None:
        (folder / "prompts.txt").write_text(prompts)
    assert message in refused(PairData(path=folder))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"prompt,chosen,rejected\nfox, red,a.png,b.png\n", "t.csv:2: has 4 cells, the header has 3"),
        ("t.csv", b'prompt,chosen,rejected\n"fox,a.png,b.png\n', "t.csv:2: not a table"),
        ("t.csv", b"prompt;chosen;rejected\nfox;a.png;b.png\n", "separated by ';'"),
        ("t.csv", b"prompt,prompt\n1,2\n", "'prompt' stands twice"),
        ("t.csv", "prompt,chosen,rejected\nfüchsin,a.png,b.png\n".encode("latin-1"), "not UTF-8"),
        ("t.jsonl", b'{"prompt": "fox"}\n{"prompt" "fox"}\n', "t.jsonl:2: not JSON"),
        ("t.jsonl", b"[1, 2]\n", "t.jsonl:1: holds list"),
        ("t.parquet", b"PAR1 not really", "not a readable Parquet file"),
    ],
)
def test_a_damaged_table_is_refused_at_its_line(tmp_path: Path, name: str, content: bytes, message: str):
    (tmp_path / name).write_bytes(content)
    assert message in refused(PairData(path=tmp_path / name))


def test_a_folder_of_several_tables_or_none_is_refused(tmp_path: Path):
    assert "holds no table" in refused(PairData(path=tmp_path))
    for name in ("a.csv", "b.csv"):
        write_csv(tmp_path / name, HEADER, [])
    assert "holds 2 tables (a.csv, b.csv); set data.path to one" in refused(PairData(path=tmp_path))


@pytest.mark.parametrize("name", ["none.csv", "folder/none"])
def test_a_path_that_does_not_exist_is_an_input_error(tmp_path: Path, name: str):
    with pytest.raises(InputError, match="no such file or folder"):
        PairData(path=tmp_path / name).open()


def test_a_file_that_is_no_table_is_an_input_error(tmp_path: Path):
    (tmp_path / "t.xlsx").write_bytes(b"PK")
    with pytest.raises(InputError, match=r"tables end in \.csv"):
        PairData(path=tmp_path / "t.xlsx").open()


# identity


def test_the_fingerprint_follows_content_and_not_place(pair_table: Callable[..., Path], tmp_path: Path):
    path = pair_table(2)
    before = PairData(path=path).open().fingerprint
    assert PairData(path=path).open().fingerprint == before
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    (tmp_path / "img").rename(moved / "img")
    path = path.rename(moved / "renamed.csv")
    assert PairData(path=path).open().fingerprint == before


def test_the_fingerprint_changes_with_an_image_a_prompt_an_order_or_a_swap(pair_table: Callable[..., Path]):
    path = pair_table(2)
    seen = {PairData(path=path).open().fingerprint}
    rows = [line.split(",") for line in path.read_text().splitlines()[1:]]
    swapped = [[rows[0][0], rows[0][2], rows[0][1]], rows[1]]
    reworded = [["other", *rows[0][1:]], rows[1]]
    for changed in (rows[::-1], swapped, reworded):
        seen.add(PairData(path=write_csv(path, HEADER, changed)).open().fingerprint)
    write_csv(path, HEADER, rows)
    image = path.parent / "img/1_l.png"
    size = image.stat().st_size
    content = bytearray(image.read_bytes())
    content[-20] ^= 1  # same size, same name: content alone
    image.write_bytes(bytes(content))
    assert image.stat().st_size == size
    seen.add(PairData(path=path).open().fingerprint)
    assert len(seen) == 5


def test_the_fingerprint_of_parquet_changes_with_an_embedded_image(images: Path):
    found = set()
    for content in ((images / "a.png").read_bytes(), (images / "b.png").read_bytes()):
        table = {"prompt": ["f"], "chosen": [content], "rejected": [content]}
        pq.write_table(pa.table(table), images / "t.parquet")
        found.add(PairData(path=images / "t.parquet").open().fingerprint)
    assert len(found) == 2


def test_a_source_can_be_sent_to_another_process(images: Path):
    import pickle

    content = (images / "a.png").read_bytes()
    pq.write_table(pa.table({"prompt": ["f"], "chosen": [content], "rejected": [content]}), images / "t.parquet")
    source = PairData(path=images / "t.parquet").open()
    open_image(source[0].images[0])
    sent = pickle.dumps(source)
    assert len(sent) < len(content) + 2000  # without the row group that was read
    assert pickle.loads(sent)[0].images[0].read() == content


def test_a_jsonl_row_without_a_key_lacks_what_it_names(images: Path):
    lines = [{"prompt": "f", "chosen": "a.png", "rejected": "b.png"}, {"prompt": "f", "chosen": "a.png"}]
    (images / "t.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert "t.jsonl:2: rejected is empty" in refused(PairData(path=images / "t.jsonl"))
