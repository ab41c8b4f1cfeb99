"""The same drawings in every layout give the same batches; splits and shards are told apart."""

from __future__ import annotations

import gzip
import io
import shutil
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from drawings import LAYOUTS, Drawn, as_arrow, as_hub, as_parquet, as_webdataset, drawn_pairs, pick_a_pic
from huggingface_hub import constants
from own_data import PlainBackbone

from t2ialign.data.base import Cache
from t2ialign.data.encoding.cache import encode
from t2ialign.data.kinds.pairs import PairData
from t2ialign.data.kinds.singles import SingleData
from t2ialign.data.loading.loader import Batches
from t2ialign.data.tables.hub import _wanted
from t2ialign.errors import DataError, InputError
from t2ialign.types import Batch

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pairs() -> list[Drawn]:
    return drawn_pairs()


def batches(data: PairData, cache: Path, count: int = 5, *, stored: bool = True) -> list[Batch]:
    settings = Cache() if stored else Cache(latents=False, text=False)
    encoded = encode(data.open(), PlainBackbone(), resolution=16, folder=cache, device=CPU, cache=settings)
    stream = iter(Batches(encoded, seed=3, micro_batch=16))
    return [next(stream) for _ in range(count)]


def assert_equal(found: Sequence[Batch], expected: Sequence[Batch]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.keys, other.keys)
        assert torch.equal(one.rows, other.rows)
        assert torch.equal(one.latents, other.latents)
        assert torch.equal(one.cond.tokens, other.cond.tokens)
        assert one.geometry is not None
        assert other.geometry is not None
        assert torch.equal(one.geometry, other.geometry)


@pytest.fixture(scope="module")
def expected(pairs: list[Drawn], tmp_path_factory: pytest.TempPathFactory) -> list[Batch]:
    folder = tmp_path_factory.mktemp("expected")
    LAYOUTS["csv"][0](folder, pairs)
    return batches(PairData(path=folder / "pairs.csv"), folder / "cache")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("stored", [True, False])
def test_every_layout_gives_the_same_batches(
    pairs: list[Drawn], expected: list[Batch], layout: str, stored: bool, tmp_path: Path
):
    write, split = LAYOUTS[layout]
    (tmp_path / "data").mkdir()
    write(tmp_path / "data", pairs)
    data = PairData(path=tmp_path / "data", split=split)
    assert_equal(batches(data, tmp_path / "cache", stored=stored), expected)
    account = data.open().account
    assert (account.rows, account.used, account.left_out) == (75, 75, ())


def cached_hub(folder: Path, name: str, write_to: Path) -> Path:
    """Puts a repository into a hub cache as a download leaves it, and returns its snapshot."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    place = folder / f"datasets--{name.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text(commit)
    shutil.copytree(write_to, place / "snapshots" / commit)
    return place / "snapshots" / commit


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, which is offline."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    (tmp_path / "hub").mkdir()
    return tmp_path / "hub"


def test_a_hub_data_set_is_read_from_the_cache_by_its_id(
    pairs: list[Drawn], expected: list[Batch], hub: Path, tmp_path: Path
):
    (tmp_path / "made").mkdir()
    as_hub(tmp_path / "made", pairs)
    cached_hub(hub, "who/drawings", tmp_path / "made")
    data = PairData(path="hf://who/drawings", split="train")
    assert_equal(batches(data, tmp_path / "cache"), expected)
    words = data.open().account.format
    assert words == (
        "hub data set who/drawings, revision 0123456789ab: a hub data set (README.md), 2 files, each a Parquet table, "
        "split 'train'"
    )


def test_mirrors_are_asked_in_order(pairs: list[Drawn], hub: Path, tmp_path: Path):
    (tmp_path / "made").mkdir()
    as_parquet(tmp_path / "made", pairs[:6])
    cached_hub(hub, "other/copy", tmp_path / "made")
    gone = "hf://yuvalkirstain/pickapic_v2"
    for mirror in ("other/copy", str(tmp_path / "made"), (tmp_path / "made").as_uri()):
        data = PairData(path=gone, mirrors=["none/there", mirror])
        assert len(data.open()) == 6
        assert data.open().account.format.startswith(f"mirror {mirror}")
    with pytest.raises(Exception, match=r"neither it nor a mirror is there[\s\S]*pickapic_v2[\s\S]*none/there: not in"):
        PairData(path=gone, mirrors=["none/there"]).open()
    assert len(PairData(path=(tmp_path / "made").as_uri()).open()) == 6


def test_of_a_hub_data_set_only_the_shards_asked_for_are_downloaded():
    files = ["README.md", *(f"data/{s}-{n:05d}-of-00003.parquet" for s in ("train", "test") for n in range(3))]
    assert _wanted(files, "train", 2) == [
        "README.md",
        "data/train-00000-of-00003.parquet",
        "data/train-00001-of-00003.parquet",
    ]
    assert len(_wanted(files, None, None)) == 7


def test_splits_are_told_apart_and_named(pairs: list[Drawn], tmp_path: Path):
    as_hub(tmp_path, pairs[:6])
    with pytest.raises(DataError, match=r"several splits \(train, validation_unique\); set data\.split to one"):
        PairData(path=tmp_path).open()
    source = PairData(path=tmp_path, split="validation_unique").open()
    assert len(source) == 4
    assert {problem.reason for problem in source.account.unused} == {"file of another split"}
    (tmp_path / "README.md").unlink()  # names alone say the same
    assert len(PairData(path=tmp_path, split="validation_unique").open()) == 4
    assert len(PairData(path=tmp_path, split="train").open()) == 6


def test_shards_that_are_missing_are_named(pairs: list[Drawn], tmp_path: Path):
    as_parquet(tmp_path, pairs[:6])
    assert len(PairData(path=tmp_path, shards=1).open()) == 3
    (tmp_path / "train-00001-of-00002.parquet").unlink()
    with pytest.raises(DataError, match=r"has 1 of 2 shards like train-00000-of-00002.parquet; number 1 is missing"):
        PairData(path=tmp_path).open()
    assert len(PairData(path=tmp_path, shards=1).open()) == 3


def test_saved_splits_need_their_folders(pairs: list[Drawn], tmp_path: Path):
    as_arrow(tmp_path, pairs[:4])
    assert len(PairData(path=tmp_path / "train").open()) == 4
    (tmp_path / "test" / "state.json").unlink()
    with pytest.raises(DataError, match=r"test: has no state\.json"):
        PairData(path=tmp_path, split="train").open()


def test_a_compressed_tar_is_refused_with_what_to_do(pairs: list[Drawn], tmp_path: Path):
    as_webdataset(tmp_path, pairs[:4])
    packed = tmp_path / "train-00000-of-00002.tar"
    packed.with_suffix(".tar.gz").write_bytes(gzip.compress(packed.read_bytes()))
    with pytest.raises(InputError, match=r"this ends in '.gz'; unpack it and give the .tar"):
        PairData(path=packed.with_suffix(".tar.gz")).open()
    packed.write_bytes(gzip.compress(packed.read_bytes()))
    with pytest.raises(DataError, match=r"not a readable tar file .* must be unpacked first"):
        PairData(path=packed).open()


def test_single_images_of_a_webdataset_have_captions(pairs: list[Drawn], tmp_path: Path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, content in {"0.png": pairs[0].chosen, "0.json": b'{"caption": "a disc"}', "0.xyz": b"?"}.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    source = SingleData(path=tmp_path).open()
    assert source[0].prompts == ("a disc",)
    assert [problem.reason for problem in source.account.unused] == ["file of a kind that is not read"]


def test_columns_that_no_one_asks_for_are_not_read(pairs: list[Drawn], tmp_path: Path):
    table = pick_a_pic(pairs[:4], wrapped=False)
    moments = pa.array([1_700_000_000_123_456_789] * 4, pa.timestamp("ns"))  # no Python object holds nanoseconds
    table = table.append_column("created_at", moments)
    pq.write_table(table, tmp_path / "t.parquet")
    source = PairData(path=tmp_path / "t.parquet").open()
    assert len(source) == 4
    assert len(PairData(path=tmp_path).open()) == 4  # looks through all cells for paths
