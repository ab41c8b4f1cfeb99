"""Pick-a-Pic's true columns, and twelve rows of the kinds that go wrong in it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from drawings import drawing

from t2ialign.cli import main as cli
from t2ialign.data.account import DataAccount
from t2ialign.data.images import open_image
from t2ialign.data.inspect.summary import render, summarise
from t2ialign.data.kinds.pairs import PairData
from t2ialign.errors import DataError

SCHEMA = pa.schema(
    {
        "are_different": pa.bool_(),
        "best_image_uid": pa.string(),
        "caption": pa.string(),
        "created_at": pa.timestamp("ns"),
        "has_label": pa.bool_(),
        "image_0_uid": pa.string(),
        "image_0_url": pa.string(),
        "image_1_uid": pa.string(),
        "image_1_url": pa.string(),
        "jpg_0": pa.binary(),
        "jpg_1": pa.binary(),
        "label_0": pa.float64(),
        "label_1": pa.float64(),
        "model_0": pa.string(),
        "model_1": pa.string(),
        "ranking_id": pa.int64(),
        "user_id": pa.int64(),
        "num_example_per_prompt": pa.int64(),
        "__index_level_0__": pa.int64(),
    }
)
FIRST, SECOND, THIRD = drawing(1), drawing(2), drawing(3)
TINY = drawing(4, side=6)


def row(number: int, **cells: Any) -> dict[str, Any]:
    """A good row, the first image better, with some cells changed."""
    return {
        "are_different": True,
        "best_image_uid": f"u{number}a",
        "caption": f"prompt {number}",
        "created_at": 1_672_531_200_123_456_789,
        "has_label": True,
        "image_0_uid": f"u{number}a",
        "image_0_url": f"https://images.example/{number}a.png",
        "image_1_uid": f"u{number}b",
        "image_1_url": f"https://images.example/{number}b.png",
        "jpg_0": FIRST,
        "jpg_1": SECOND,
        "label_0": 1.0,
        "label_1": 0.0,
        "model_0": "stabilityai/stable-diffusion-2-1",
        "model_1": "dreamlike-art/dreamlike-photoreal-2.0",
        "ranking_id": number,
        "user_id": 7,
        "num_example_per_prompt": 1,
        "__index_level_0__": number,
        **cells,
    }


GOOD = [row(0), row(1, label_0=0.0, label_1=1.0, best_image_uid="u1b")]
NASTY = [
    row(2, label_0=0.5, label_1=0.5, best_image_uid="tie"),
    row(3, label_1=1.0),
    row(4, label_0=0.0),
    row(5, has_label=False),
    row(6, caption="nan"),
    row(7, caption=None),
    row(8, jpg_1=FIRST),
    row(9, are_different=False, jpg_1=THIRD),
    row(10, jpg_1=SECOND[:80]),
    row(11, best_image_uid="u11b"),
    row(12, jpg_0=TINY),
    row(13, caption="prompt 0"),
]
LEFT_OUT = {
    "tie": 1,
    "both images liked": 1,
    "neither image liked": 1,
    "row without a label": 1,
    "prompt missing": 2,
    "image unreadable": 1,
    "label not understood": 1,
}


def table(path: Path, rows: list[dict[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), path, row_group_size=5)
    return path


@pytest.fixture
def pick_a_pic(tmp_path: Path) -> Path:
    return table(tmp_path / "train-00000-of-00001.parquet", [*GOOD, *NASTY])


def counts(found: DataAccount, part: str) -> dict[str, int]:
    assert found.used + len(found.left_out) == found.rows == 14
    return {reason: some["count"] for reason, some in found.as_dict()[part].items()}


def test_two_good_rows_are_read_in_the_order_of_their_labels(pick_a_pic: Path):
    source = PairData(path=table(pick_a_pic, GOOD)).open()
    contents = [tuple(image.read() for image in source[index].images) for index in (0, 1)]  # type: ignore[union-attr]
    assert contents == [(FIRST, SECOND), (SECOND, FIRST)]
    assert source.account.is_unremarkable


def test_nasty_rows_are_refused_by_name(pick_a_pic: Path):
    with pytest.raises(DataError) as refused:
        PairData(path=pick_a_pic).open()
    message = str(refused.value)
    assert "3 of 14 rows cannot be used; correct them, or set data.on_bad=drop to go on with 11" in message
    assert "row 7: caption is 'nan', which pandas writes for an empty cell" in message
    assert "row 12: best_image_uid is 'u11b', the worse image by its label" in message


def test_rows_are_left_out_or_remarked_upon_and_the_totals_reconcile(pick_a_pic: Path):
    source = PairData(path=pick_a_pic, on_bad="drop").open()
    assert counts(source.account, "left_out") == LEFT_OUT
    assert counts(source.account, "remarks") == {"both images are the same": 2, "row twice": 1}
    assert len(source) == source.account.used == 6
    for index in range(6):
        for image in source[index].images:
            open_image(image)


def test_each_kind_is_left_out_as_the_config_says(pick_a_pic: Path):
    drop = {"on_bad": "drop", "identical": "drop", "duplicates": "drop", "min_side": 12}
    source = PairData.model_validate({"path": pick_a_pic, **drop}).open()
    more = {"both images are the same": 2, "image too small": 1, "row twice": 1}
    assert counts(source.account, "left_out") == {**LEFT_OUT, **more}
    assert [source[index].prompts[0] for index in range(len(source))] == ["prompt 0", "prompt 1"]
    assert counts(source.account, "remarks") == {}


def test_flags_of_unsafe_rows_are_counted_and_obeyed(pick_a_pic: Path):
    flags = pa.array(["SFW", "NSFW", None, "0.9", "0.2", "false"])
    small = pa.Table.from_pylist([row(number) for number in range(6)], SCHEMA).append_column("nsfw", flags)
    pq.write_table(small, pick_a_pic)
    kept = PairData(path=pick_a_pic).open()
    assert (len(kept), kept.account.as_dict()["remarks"]["not safe for work"]["count"]) == (6, 2)
    assert "2 x not safe for work, first: " in kept.account.lines()[1]
    assert kept.account.lines()[1].endswith("; data.nsfw=drop leaves them out")
    dropped = PairData(path=pick_a_pic, nsfw="drop").open()
    assert (len(dropped), dropped.account.rows) == (4, 6)


def test_inspect_says_it_all_with_advice_to_paste(pick_a_pic: Path):
    text = " ".join(render(summarise(PairData(path=pick_a_pic))).split())
    assert "read as a Parquet table" in text
    lost = "1 tie + 1 both images liked + 1 neither image liked + 1 row without a label + 2 prompt missing"
    assert f"14 = 6 usable + {lost}" in text
    assert "data.identical=drop leaves them out" in text
    assert "advice data.on_bad=drop goes on with the 6 usable rows" in text
    assert "12 of 12 at 512 px, 12 of 12 at 1024 px" in text


def inspect(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["t2ialign", "data", "inspect", *arguments])
    with pytest.raises(SystemExit) as left:
        cli.main()
    return left.value.code if isinstance(left.value.code, int) else 0


def test_advice_can_be_pasted_behind_inspect(
    pick_a_pic: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    assert inspect(monkeypatch, str(pick_a_pic), "data.identical=drop", "data.min_side=12") == 0
    assert "14 = 3 usable" in " ".join(capsys.readouterr().out.split())


def test_inspect_of_nothing_usable_exits_with_4(
    pick_a_pic: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    table(pick_a_pic, NASTY[:1] * 3)
    assert inspect(monkeypatch, str(pick_a_pic)) == 4
    said = capsys.readouterr()
    assert "3 = 0 usable + 3 tie" in " ".join(said.out.split())
    assert "all 3 rows are ties, so there is nothing to learn from" in " ".join(said.err.split())
