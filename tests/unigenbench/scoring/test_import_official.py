"""Results of the official script made into run folders, or refused with their line."""

from __future__ import annotations

import csv
import json
import os
from hashlib import sha256
from pathlib import Path

import pytest
from hand_made import CASE_A, case_a_prompts, files_below, write_case_a

from unigenbench.errors import DataError, InputError
from unigenbench.runs.store import MANIFEST, RunStore, open_log
from unigenbench.scoring.official import COLUMNS, export_official, import_official, read_rows
from unigenbench.scoring.scores import summarise


def test_import_keeps_why_a_row_has_no_verdicts(tmp_path: Path):
    made = import_official(write_case_a(tmp_path / "a.csv"), case_a_prompts(), tmp_path / "run", judge="someone")
    failed = [judgement for judgement in made.judgements if judgement.status != "ok"]
    assert [(j.prompt_index, j.image_index, j.verdicts) for j in failed] == [(1, 3, None), (2, 2, None)]
    assert "0.5" in failed[1].error
    assert failed[0].error.startswith("a.csv:")
    assert made.manifest["comparable"] is False
    assert "unknown" in made.manifest["banner"]


def test_an_import_that_breaks_leaves_no_run_and_the_mended_one_goes_in(tmp_path: Path, monkeypatch):
    table, before = write_case_a(tmp_path / "a.csv"), files_below(tmp_path)
    for broken in ("append", "__enter__", "__exit__"):
        with monkeypatch.context() as patched:
            patched.setattr(RunStore, broken, lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
            with pytest.raises(OSError, match="No space"):
                import_official(table, case_a_prompts(), tmp_path / "run", judge="x")
        assert files_below(tmp_path) == before, broken
    assert len(import_official(table, case_a_prompts(), tmp_path / "run", judge="x").judgements) == 12


def test_an_import_that_breaks_while_it_gets_its_name_is_no_run_and_can_be_repeated(tmp_path: Path, monkeypatch):
    table, folder, rename = write_case_a(tmp_path / "a.csv"), tmp_path / "run", os.replace
    for moves in range(10):
        left = iter(range(moves))

        def move(path: Path, to: Path, left=left) -> None:
            if Path(to).parent == folder and next(left, None) is None:
                raise OSError(28, "No space left on device")
            rename(path, to)

        with monkeypatch.context() as patched:
            patched.setattr(os, "replace", move)
            try:
                made = import_official(table, case_a_prompts(), folder, judge="x")
                break
            except OSError:
                assert not (folder / MANIFEST).exists(), moves
                assert not list(tmp_path.glob(".*")), moves
    assert moves > 3
    assert len(made.judgements) == 12


def test_an_import_starts_anew_after_one_that_was_killed(tmp_path: Path):
    table, left = write_case_a(tmp_path / "a.csv"), tmp_path / ".run.partial"
    other = import_official(table, case_a_prompts(), tmp_path / "other", judge="another")
    (tmp_path / "other").rename(left)
    made = import_official(table, case_a_prompts(), tmp_path / "run", judge="x")
    assert (
        {one.judge_id for one in made.judgements} == {made.manifest["judge"]["id"]} != {other.manifest["judge"]["id"]}
    )
    assert not left.exists()


def test_an_import_into_a_place_that_cannot_be_is_refused_with_its_name(tmp_path: Path):
    table = write_case_a(tmp_path / "a.csv")
    with pytest.raises(InputError, match=r"a\.csv/\.run\.partial"):
        import_official(table, case_a_prompts(), table / "run", judge="x")


def test_an_import_makes_the_folders_above_it(tmp_path: Path):
    made = import_official(write_case_a(tmp_path / "a.csv"), case_a_prompts(), tmp_path / "a/b/run", judge="x")
    assert open_log(tmp_path / "a/b/run") == made


def test_an_import_knows_what_its_file_says(tmp_path: Path):
    made = import_official(write_case_a(tmp_path / "a.csv"), case_a_prompts(), tmp_path / "run", judge="x")
    assert (made.manifest["images"]["root"], made.manifest["images"]["found"]) == ("eval_data/en/m", 12)
    assert {(one.raw, one.parse_note) for one in made.judgements} == {("the reply", "imported")}


def test_a_table_without_rows_is_a_run_without_judgements(tmp_path: Path):
    (tmp_path / "a.csv").write_text(",".join(COLUMNS) + "\n")
    made = import_official(tmp_path / "a.csv", case_a_prompts(), tmp_path / "run", judge="x")
    assert (made.judgements, made.manifest["images"]["per_prompt"], made.manifest["images"]["root"]) == ((), 4, "")
    assert export_official(made, tmp_path).csv.name == "run_made.csv"


def test_a_kept_table_that_was_changed_is_named(tmp_path: Path):
    made = import_official(write_case_a(tmp_path / "a.csv"), case_a_prompts(), tmp_path / "run", judge="x")
    kept = tmp_path / "run" / made.manifest["imported"]["file"]
    kept.write_text(kept.read_text().replace("\n2,", "\n9,"))
    with pytest.raises(DataError, match=r"run: row \d+: the run's prompts have no index 9"):
        summarise(made, compat="official", bootstrap=5)


def test_an_import_keeps_what_else_lies_in_its_folder(tmp_path: Path):
    (tmp_path / "run/official").mkdir(parents=True)
    (tmp_path / "run/notes.txt").write_text("mine")
    (tmp_path / "run/official/old.csv").write_text("from before")
    made = import_official(write_case_a(tmp_path / "a.csv"), case_a_prompts(), tmp_path / "run", judge="x")
    assert (tmp_path / "run/notes.txt").read_text() == "mine"
    assert open_log(tmp_path / "run") == made
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("image", ["0_1234567890.png", "0_99999.png", "elsewhere.png", "7_3.png"])
def test_the_number_of_an_image_takes_no_memory(tmp_path: Path, image: str):
    made = import_official(damaged(tmp_path, img_path=image), case_a_prompts(), tmp_path / "run", judge="x")
    assert made.manifest["images"]["per_prompt"] == 2


def test_half_a_character_in_a_table_is_imported_as_a_replacement(tmp_path: Path):
    result = json.dumps({"score": [1] * len(CASE_A[0][0]), "analysis": ["a \ud83d"] * len(CASE_A[0][0])})
    made = import_official(damaged(tmp_path, result_json=result), case_a_prompts(), tmp_path / "run", judge="x")
    assert set(made.judgements[0].analyses) == {"a \ufffd"}


def test_import_hashes_the_images_where_they_are(tmp_path: Path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures/0_1.png").write_bytes(b"an image")
    made = import_official(
        write_case_a(tmp_path / "a.csv"), case_a_prompts(), tmp_path / "run", judge="x", images=tmp_path / "pictures"
    )
    assert [j.image_sha256 for j in made.judgements[:3]] == ["", sha256(b"an image").hexdigest(), ""]
    assert made.manifest["images"]["root"] == str(tmp_path / "pictures")


def damaged(tmp_path: Path, **cells: str) -> Path:
    row = {
        "index": "0", "prompt": "prompt 0", "testpoint": repr(list(CASE_A[0][0])), "output": "", "result_json": "null",
        "img_path": "0_0.png",
    }  # fmt: skip
    path = tmp_path / "damaged.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerow(row | cells)
        writer.writerow(row | {"img_path": "0_1.png"})
    return path


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({"index": "zero"}, r"damaged.csv:2: index: 'zero' is no number"),
        ({"index": "9"}, r"damaged.csv:2: index 9: not in made.csv"),
        ({"img_path": "0_1.png"}, r"damaged.csv:3: image 1 of prompt 0 is that of line 2 too"),
        ({"testpoint": "Style"}, r"testpoint: 'Style' is no list"),
        ({"testpoint": "[1]"}, r"row 2, prompt 0: testpoint: '\[1\]' is no list of labels"),
        ({"output": "x" * 200_000}, r"damaged.csv:2: field larger than field limit"),
        ({"testpoint": "['Style']"}, r"damaged.csv:2: index 0: test points \['Style'\], but made.csv has"),
    ],
)
def test_a_damaged_import_is_refused_with_its_line(tmp_path: Path, cells: dict[str, str], message: str):
    with pytest.raises(DataError, match=message):
        import_official(damaged(tmp_path, **cells), case_a_prompts(), tmp_path / "run", judge="x")
    assert not (tmp_path / "run").exists()


def test_import_refuses_a_file_of_another_kind_and_a_folder_in_use(tmp_path: Path):
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="no column 'index'; columns are a, b"):
        import_official(tmp_path / "other.csv", case_a_prompts(), tmp_path / "run", judge="x")
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(DataError, match="no column 'index'; columns are none"):
        import_official(tmp_path / "empty.csv", case_a_prompts(), tmp_path / "run", judge="x")
    with pytest.raises(InputError, match="cannot be read"):
        import_official(tmp_path / "none.csv", case_a_prompts(), tmp_path / "run", judge="x")
    file = write_case_a(tmp_path / "a.csv")
    import_official(file, case_a_prompts(), tmp_path / "run", judge="x")
    with pytest.raises(InputError, match="holds a run"):
        import_official(file, case_a_prompts(), tmp_path / "run", judge="x")


def test_a_row_of_too_few_cells_is_named(tmp_path: Path):
    (tmp_path / "a.csv").write_text(",".join(COLUMNS) + '\n0,"two\nlines",[],,null,0_0.png\n1,p\n')
    with pytest.raises(DataError, match=r"a\.csv:4: 2 cells, the header has 6"):
        read_rows(tmp_path / "a.csv")


def test_images_without_numbers_are_numbered_in_order(tmp_path: Path):
    rows = [f"{index},p,[],,null,{name}.png" for index, name in ((0, "a"), (1, "b"), (0, "c"), (0, "d"), (0, "0_3"))]
    (tmp_path / "a.csv").write_text("\n".join([",".join(COLUMNS), *rows]) + "\n", encoding="utf-8-sig")  # as Excel does
    assert [(row.index, row.image) for row in read_rows(tmp_path / "a.csv")] == [(0, 0), (1, 0), (0, 1), (0, 2), (0, 3)]
