"""Single liked and disliked images, from labels, pairs and text pairs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from own_data import PlainBackbone, write_csv, write_image

from t2ialign.data.encoding.cache import encode
from t2ialign.data.kinds.labelled import LabelledData, balanced
from t2ialign.data.loading.loader import Batches
from t2ialign.errors import DataError, InputError


def labels_of(data: LabelledData) -> list[tuple[str, str, float]]:
    """(prompt, file name, label) of every row."""
    source = data.open()
    rows = [source[row] for row in range(len(source))]
    return [(row.prompts[0], Path(str(row.images[0])).name, (row.scores or (-1.0,))[0]) for row in rows]


def table(folder: Path, header: list[str], rows: list[list[str]]) -> Path:
    for name in {cell for row in rows for cell in row if cell.endswith(".png")}:
        write_image(folder / name, seed=len(name))
    return write_csv(folder / "table.csv", header, rows)


def test_labels_are_read_in_any_usual_spelling(tmp_path: Path):
    spellings = ["1", "0", "true", "False", "1.0"]
    rows = [[f"p{index}", f"{index}.png", spelling] for index, spelling in enumerate(spellings)]
    data = LabelledData(path=table(tmp_path, ["prompt", "image", "label"], rows))
    assert [label for _, _, label in labels_of(data)] == [1, 0, 1, 0, 1]


def test_what_is_no_label_is_a_problem_with_its_line(tmp_path: Path):
    data = LabelledData(
        path=table(tmp_path, ["prompt", "image", "liked"], [["p", "0.png", "1"], ["p", "1.png", "0.5"]])
    )
    with pytest.raises(DataError, match=r"table\.csv:3: liked is '0\.5'; known are 1 and 0"):
        data.open()


def test_of_pairs_every_image_is_taken_once_and_is_liked_if_it_ever_was_preferred(tmp_path: Path):
    # b lost to a and won over c: liked. a under another prompt is another image
    rows = [["p", "a.png", "b.png"], ["p", "b.png", "c.png"], ["q", "d.png", "a.png"]]
    data = LabelledData(path=table(tmp_path, ["prompt", "chosen", "rejected"], rows))
    assert labels_of(data) == [
        ("p", "a.png", 1.0),
        ("p", "b.png", 1.0),
        ("p", "c.png", 0.0),
        ("q", "d.png", 1.0),
        ("q", "a.png", 0.0),
    ]


def test_of_pairs_inside_a_table_images_of_equal_bytes_are_one(tmp_path: Path):
    a, b, c = (write_image(tmp_path / f"{name}.png", seed=ord(name)).read_bytes() for name in "abc")
    pairs = {"prompt": ["p", "p"], "chosen": [a, b], "rejected": [b, c]}
    pq.write_table(pa.table(pairs), tmp_path / "pairs.parquet")
    source = LabelledData(path=tmp_path / "pairs.parquet").open()
    rows = [source[row] for row in range(len(source))]
    assert [(row.images[0].read(), row.scores) for row in rows] == [(a, (1.0,)), (b, (1.0,)), (c, (0.0,))]  # type: ignore[union-attr]


def test_an_image_that_a_table_of_pairs_lacks_is_named(tmp_path: Path):
    pairs = {"prompt": ["p"], "chosen": [write_image(tmp_path / "a.png").read_bytes()], "rejected": [b""]}
    pq.write_table(pa.table(pairs), tmp_path / "pairs.parquet")
    with pytest.raises(DataError, match=r"pairs\.parquet:row 1: rejected in row 1: no image stored"):
        LabelledData(path=tmp_path / "pairs.parquet").open()


def test_of_text_pairs_the_image_is_liked_under_the_prompt_that_fits(tmp_path: Path):
    rows = [["a.png", "a red circle", "a blue circle"]]
    data = LabelledData(path=table(tmp_path, ["image", "prompt", "mismatched"], rows))
    assert labels_of(data) == [("a red circle", "a.png", 1.0), ("a blue circle", "a.png", 0.0)]


def test_prompts_of_text_pairs_cannot_be_dropped(tmp_path: Path):
    # without its prompt the image would be liked and disliked at once
    path = table(tmp_path, ["image", "prompt", "mismatched"], [["a.png", "a red circle", "a blue circle"]])
    with pytest.raises(InputError, match=r"data\.prompt_dropout is 0\.1, but .*table\.csv holds text pairs"):
        LabelledData(path=path, prompt_dropout=0.1).open()


@pytest.mark.parametrize(
    ("first", "second", "share", "expected"),
    [
        (3, 6, 0.8, (24, 6)),  # 6 * 0.8 / 0.2 = 24 liked: 8 copies of 3
        (3, 5, 0.5, (5, 5)),  # one whole copy of 3, and 2 more spread over them
        (10, 2, 0.5, (10, 10)),  # too many liked: the others are repeated
        (4, 4, 0.5, (4, 4)),
        (4, 0, 0.5, (4, 0)),
    ],
)
def test_shares_are_made_by_repeating_and_nothing_is_thrown_away(
    first: int, second: int, share: float, expected: tuple[int, int]
):
    found = balanced(range(first), range(100, 100 + second), share)
    assert (sum(row < 100 for row in found), sum(row >= 100 for row in found)) == expected
    assert set(found) == {*range(first), *range(100, 100 + second)}
    counts = [found.count(row) for row in range(first)]
    assert max(counts) - min(counts) <= 1


def test_an_epoch_has_the_share_that_was_asked_for(
    pair_table: Callable[..., Path], backbone: PlainBackbone, tmp_path: Path
):
    data = LabelledData(path=pair_table(4), desirable_share=0.75)
    source = data.open()
    encoded = encode(source, backbone, resolution=16, folder=tmp_path / "cache", device=torch.device("cpu"))  # type: ignore[arg-type]
    batches = iter(Batches(encoded, seed=0, micro_batch=4, epoch_indices=data.epoch_indices(source)))
    scores = torch.cat([next(batches).scores for _ in range(4)])  # type: ignore[arg-type]
    # 4 disliked images ask for 12 liked: an epoch of 16
    assert scores.shape == (16, 1)
    assert scores.sum() == 12
