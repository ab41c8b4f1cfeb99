"""Stored encodings: equal to fresh ones, whole or not there, gone on with after a kill."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from own_data import PlainBackbone, write_csv, write_image
from PIL import Image
from safetensors.torch import load, save

from t2ialign.config import component
from t2ialign.data.base import Cache
from t2ialign.data.encoding import shards as shards_module
from t2ialign.data.encoding import storing
from t2ialign.data.encoding.cache import encode
from t2ialign.data.encoding.dataset import Encoded, LoadedRows
from t2ialign.data.encoding.readers import ImageReader, StoredText
from t2ialign.data.encoding.shards import Shards
from t2ialign.data.kinds.pairs import PairData
from t2ialign.data.kinds.prompts import PromptData
from t2ialign.data.kinds.singles import SingleData
from t2ialign.errors import DataError, EnvironmentProblem, InputError, TryAgainError
from t2ialign.types import Posterior

CPU = torch.device("cpu")
NOTHING_STORED = Cache(latents=False, text=False)


def encoded(path: Path, backbone, *, resolution: int = 16, **settings) -> Encoded:
    """The table's pairs, encoded into cache/ beside it."""
    settings = {"folder": path.parent / "cache", "device": CPU, **settings}
    return encode(PairData(path=path).open(), backbone, resolution=resolution, **settings)


def assert_equal(a: LoadedRows, b: LoadedRows, atol: float = 0.0) -> None:
    for first, second in ((a.posterior.mean, b.posterior.mean), (a.posterior.std, b.posterior.std)):
        torch.testing.assert_close(first, second, atol=atol, rtol=0)
    torch.testing.assert_close(a.cond.tokens, b.cond.tokens, atol=atol, rtol=0)
    assert (a.cond.pooled is None) == (b.cond.pooled is None)
    assert (a.geometry is None) == (b.geometry is None)
    if a.geometry is not None:
        assert torch.equal(a.geometry, b.geometry)


def test_shapes_and_values_by_hand(pair_table: Callable[..., Path], backbone: PlainBackbone):
    path = pair_table(3)
    rows = encoded(path, backbone)[[2, 0]]
    assert rows.posterior.mean.shape == rows.posterior.std.shape == (2, 2, 3, 2, 2)
    assert rows.cond.tokens.shape == (2, 1, 4, 3)
    assert rows.scores is None
    # row 2's chosen image is 22 x 16: the 16 x 16 centre begins at column 3
    assert rows.geometry is not None
    assert rows.geometry[0, 0].tolist() == [16, 22, 0, 3, 16, 16]
    assert "".join(map(chr, rows.cond.tokens[0].flatten().int().tolist())).strip() == "prompt 2"
    fresh = ImageReader(PairData(path=path).open(), 16)([0])[0][0, 1]
    torch.testing.assert_close(rows.posterior.mean[1, 1, 0, 0, 0], fresh[0, :8, :8].mean())


def test_scores_come_with_the_rows(tmp_path: Path, backbone: PlainBackbone):
    write_image(tmp_path / "a.png")
    header = ["prompt", "chosen", "rejected", "score_chosen", "score_rejected"]
    path = write_csv(tmp_path / "t.csv", header, [["f", "a.png", "a.png", 2, 1], ["f", "a.png", "a.png", 3, 0]])
    assert encoded(path, backbone)[[1, 0]].scores.tolist() == [[3, 0], [2, 1]]


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_stored_encodings_equal_fresh_ones(family: str, request, pair_table: Callable[..., Path]):
    folder = request.getfixturevalue(f"{family}_folder")
    section = component.resolve("backbone", family).model_validate({"name": family, "pretrained": str(folder)})
    backbone = section.build(CPU)  # type: ignore[attr-defined]
    path = pair_table(5)
    stored = encoded(path, backbone, resolution=64, batch=4)
    fresh = encoded(path, backbone, resolution=64, batch=3, cache=NOTHING_STORED)
    assert (stored.needs_encoders, fresh.needs_encoders) == (False, True)
    assert_equal(stored[[3, 1]], fresh[[3, 1]], atol=1e-6)  # another batch may sum in another order
    assert (stored[[0]].geometry is None) == (family == "sd15")


@pytest.mark.parametrize("one", [Cache(text=False), Cache(latents=False)])
def test_latents_and_text_are_stored_independently(
    one: Cache, pair_table: Callable[..., Path], backbone: PlainBackbone
):
    path = pair_table(3)
    partly = encoded(path, backbone, cache=one)
    assert partly.needs_encoders
    assert_equal(partly[[0, 2]], encoded(path, backbone, cache=NOTHING_STORED)[[0, 2]])


def test_float16_halves_the_space_and_reads_as_float32(pair_table: Callable[..., Path], backbone: PlainBackbone):
    path = pair_table(3)
    half = encoded(path, backbone, cache=Cache(dtype="float16"))[[1]]
    assert half.posterior.mean.dtype == half.cond.tokens.dtype == torch.float32
    torch.testing.assert_close(half.posterior.mean, encoded(path, backbone)[[1]].posterior.mean, atol=1e-3, rtol=0)


def test_nothing_is_encoded_twice(pair_table: Callable[..., Path], backbone: PlainBackbone):
    path = pair_table(6, prompts=2)
    encoded(path, backbone)
    assert (backbone.images_encoded, backbone.prompts_encoded) == (12, 2)
    encoded(path, backbone)
    assert (backbone.images_encoded, backbone.prompts_encoded) == (12, 2)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each image file is opened."""
    counts: Counter[str] = Counter()
    real = Path.open

    def counted(path: Path, *args, **settings):
        if path.suffix == ".png":
            counts[path.name] += 1
        return real(path, *args, **settings)

    monkeypatch.setattr(Path, "open", counted)
    return counts


def test_images_are_read_once_on_the_way_into_the_cache(
    small_shards, opened: Counter[str], pair_table: Callable[..., Path], backbone: PlainBackbone
):
    path = pair_table(5)
    source = PairData(path=path).open()
    encode(source, backbone, resolution=16, folder=path.parent / "cache", device=CPU)
    fingerprint = source.fingerprint
    assert opened == {f"{row}_{side}.png": 1 for row in range(5) for side in "wl"}
    opened.clear()
    again = PairData(path=path).open()
    encode(again, backbone, resolution=16, folder=path.parent / "cache", device=CPU)
    assert again.fingerprint == fingerprint
    assert set(opened.values()) == {1}


def test_latents_that_version_1_stored_stay_in_use(
    small_shards, pair_table: Callable[..., Path], backbone: PlainBackbone
):
    path = pair_table(5)
    shards = encoded(path, backbone).reader.latents.shards()
    identity = json.loads((shards.folder / "index.json").read_text())
    identity |= {"version": 1, "rows": 5, "data": PairData(path=path).open().fingerprint}
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    former = shards.folder.with_name(f"latents-{key}")
    former.mkdir()
    (former / "index.json").write_text(json.dumps(identity))
    for shard in (0, 2):  # it was killed before it stored the shard between them
        shards.path(shard).rename(former / f"{shard:06d}.safetensors")
    shutil.rmtree(shards.folder)
    before = backbone.images_encoded
    again = encoded(path, backbone)
    assert backbone.images_encoded == before + 4  # two pairs
    assert_equal(again[[0, 3, 4]], encoded(path, backbone, cache=NOTHING_STORED)[[0, 3, 4]])


def test_what_changes_the_content_changes_the_place(pair_table: Callable[..., Path], backbone: PlainBackbone):
    path = pair_table(3)
    places = set()

    def place(**settings) -> None:
        places.add(encoded(path, backbone, **settings).reader.latents.shards().path(0))

    place()
    place(resolution=8)
    place(cache=Cache(dtype="float16"))
    backbone.fingerprint = "plain-2"
    place()
    write_image(path.parent / "img/0_w.png", seed=99)
    place()
    assert len(places) == 5


def test_a_changed_image_leaves_the_stored_text_in_use(pair_table: Callable[..., Path], backbone: PlainBackbone):
    path = pair_table(3)
    encoded(path, backbone)
    write_image(path.parent / "img/0_w.png", seed=99)
    encoded(path, backbone)
    assert (backbone.images_encoded, backbone.prompts_encoded) == (12, 3)


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards_module, "ROWS", 2)
    monkeypatch.setattr(shards_module, "OPEN_SHARDS", 2)


def test_rows_of_many_shards_are_found(small_shards, pair_table: Callable[..., Path], backbone: PlainBackbone):
    path = pair_table(9)
    order = [8, 0, 5, 3, 3, 7, 1]
    stored = encoded(path, backbone)
    assert len(list(stored.reader.latents.shards().folder.glob("*.safetensors"))) == 5
    assert_equal(stored[order], encoded(path, backbone, cache=NOTHING_STORED)[order])
    assert len(stored.reader.latents.shards()._open) == 2


@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "gone", "a row short"])
def test_a_torn_shard_is_noticed_and_encoded_again(
    damage: str, small_shards, pair_table: Callable[..., Path], backbone: PlainBackbone
):
    path = pair_table(6)
    whole = encoded(path, backbone)
    shard = whole.reader.latents.shards().path(1)
    content = shard.read_bytes()
    first_row = {name: tensor[:1].contiguous() for name, tensor in load(content).items()}
    damaged = {"truncated": content[:-8], "empty": b"", "text": b"x" * 500, "a row short": save(first_row)}
    shard.unlink() if damage == "gone" else shard.write_bytes(damaged[damage])
    before = backbone.images_encoded
    again = encoded(path, backbone)
    assert backbone.images_encoded == before + 4  # two rows of two views, and nothing else
    assert shard.read_bytes() == content
    assert_equal(again[[2, 3]], encoded(path, backbone, cache=NOTHING_STORED)[[2, 3]])


def test_a_full_disk_is_told_keeps_what_is_whole_and_is_gone_on_with(
    small_shards, pair_table: Callable[..., Path], backbone: PlainBackbone, monkeypatch: pytest.MonkeyPatch
):
    path = pair_table(6)
    save_file, written = shards_module.save_file, []

    def full(tensors, where):
        if len(written) == 2:
            Path(where).write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(where)
        save_file(tensors, where)

    monkeypatch.setattr(shards_module, "save_file", full)
    with pytest.raises(TryAgainError) as caught:
        encoded(path, backbone)
    assert caught.value.exit_code == 75
    folder = next((path.parent / "cache").glob("latents-*"))
    assert sorted(p.name[:6] for p in folder.iterdir()) == ["000000", "000001", "index."]
    monkeypatch.setattr(shards_module, "save_file", save_file)
    before = backbone.images_encoded
    again = encoded(path, backbone)
    assert backbone.images_encoded == before + 4
    assert_equal(again[[5]], encoded(path, backbone, cache=NOTHING_STORED)[[5]])


def test_auto_does_not_fill_the_disk(
    pair_table: Callable[..., Path], backbone: PlainBackbone, monkeypatch: pytest.MonkeyPatch, caplog
):
    path = pair_table(3)
    # 3 pairs x 2 views x (mean, std) x 3 x 2 x 2 float32 = 576 bytes; 3 prompts x (4 x 3 + 3) float32 = 180 bytes
    monkeypatch.setattr(storing.shutil, "disk_usage", lambda _: SimpleNamespace(free=2 * 576 - 1))
    found = encoded(path, backbone)
    assert isinstance(found.reader.latents, ImageReader)
    assert isinstance(found.reader.text, StoredText)
    assert "data.cache.latents=true insists" in caplog.text
    monkeypatch.setattr(storing.shutil, "disk_usage", lambda _: SimpleNamespace(free=575))
    with pytest.raises(TryAgainError, match="free some space"):
        encoded(path, backbone, cache=Cache(latents=True))


def test_latents_already_stored_count_as_no_space(
    pair_table: Callable[..., Path], backbone: PlainBackbone, monkeypatch: pytest.MonkeyPatch
):
    path = pair_table(3)
    encoded(path, backbone)
    monkeypatch.setattr(storing.shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    assert not encoded(path, backbone).needs_encoders


def test_two_processes_encode_half_each(small_shards, pair_table: Callable[..., Path], backbone: PlainBackbone):
    path = pair_table(8, prompts=8)
    encoded(path, backbone, rank=0, world_size=2)
    assert (backbone.images_encoded, backbone.prompts_encoded) == (8, 4)
    both = encoded(path, backbone, rank=1, world_size=2)
    assert (backbone.images_encoded, backbone.prompts_encoded) == (16, 8)
    assert_equal(both[[0, 3, 7]], encoded(path, backbone, cache=NOTHING_STORED)[[0, 3, 7]])


def test_latents_that_are_not_finite_name_their_image(pair_table: Callable[..., Path], backbone: PlainBackbone):
    path = pair_table(5)

    def overflow(pixels):
        mean = torch.nn.functional.avg_pool2d(pixels, 8)
        if backbone.images_encoded == 4:  # the second batch of four: rows 2 and 3
            mean[3] = float("nan")
        backbone.images_encoded += len(pixels)
        return Posterior(mean, mean)

    backbone.encode_images = overflow
    with pytest.raises(DataError, match=r"pairs\.csv:5: the VAE makes NaN"):
        encoded(path, backbone, batch=4)


def test_a_vae_that_refuses_a_batch_is_asked_which_image_it_is(
    pair_table: Callable[..., Path], backbone: PlainBackbone
):
    path = pair_table(3)
    encode_images = PlainBackbone.encode_images
    bad = ImageReader(PairData(path=path).open(), 16)([1])[0][0, 1]

    def refuse(pixels):
        if any(torch.equal(image, bad) for image in pixels):
            raise EnvironmentProblem("the VAE overflows in fp16")
        return encode_images(backbone, pixels)

    backbone.encode_images = refuse
    with pytest.raises(EnvironmentProblem, match=r"pairs\.csv:3: the VAE overflows"):
        encoded(path, backbone)


def test_a_damaged_image_is_told_with_all_others(pair_table: Callable[..., Path], backbone: PlainBackbone):
    path = pair_table(6)
    for name in ("1_w", "4_l"):
        image = path.parent / f"img/{name}.png"
        image.write_bytes(image.read_bytes()[:80])
    with pytest.raises(DataError) as caught:
        encoded(path, backbone)
    message = str(caught.value)
    assert "2 of 6 rows cannot be used; correct them, or set data.on_bad=drop to go on with 4" in message
    assert f"2 x image unreadable, first: {path}:3: {path.parent / 'img/1_w.png'}: damaged" in message


def test_a_resolution_that_does_not_fit_is_an_input_error(pair_table: Callable[..., Path], backbone: PlainBackbone):
    with pytest.raises(InputError, match=r"data\.resolution is 20 px; plain needs a multiple of 8: 16 or 24"):
        encoded(pair_table(1), backbone, resolution=20)


def test_singles_have_one_view(pair_table: Callable[..., Path], backbone: PlainBackbone, tmp_path: Path):
    source = SingleData(path=pair_table(3)).open()
    rows = encode(source, backbone, resolution=16, folder=tmp_path / "cache", device=CPU)[[0, 1]]
    assert rows.posterior.mean.shape == (2, 1, 3, 2, 2)


KILLED = """
import sys
sys.path.insert(0, {tests!r})
import time, torch
from pathlib import Path
from own_data import PlainBackbone
from t2ialign.data.encoding import shards
from t2ialign.data.encoding.cache import encode
from t2ialign.data.kinds.pairs import PairData
shards.ROWS = 2
save = shards.save_file
def slowly(tensors, path):
    content = Path(path).with_suffix(".whole")
    save(tensors, content)
    data = content.read_bytes()
    content.unlink()
    with open(path, "wb") as file:
        for at in range(0, len(data), 64):
            file.write(data[at:at + 64]); file.flush(); time.sleep(0.002)
shards.save_file = slowly
print("ready", flush=True)
source = PairData(path=Path({table!r})).open()
encode(source, PlainBackbone(), resolution=16, folder=Path({folder!r}), device=torch.device("cpu"))
"""


def test_killed_while_caching_it_goes_on_with_equal_content(
    small_shards, pair_table: Callable[..., Path], backbone: PlainBackbone, tmp_path: Path
):
    path = pair_table(12)
    script = KILLED.format(
        tests=str(Path(__file__).parents[2] / "support"), table=str(path), folder=str(tmp_path / "killed")
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    latents = Shards(tmp_path, 12)
    while process.poll() is None and not list((tmp_path / "killed").glob("latents-*/000002-*.safetensors")):
        time.sleep(0.005)
    time.sleep(0.01)  # into the writing of the next one
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    left = [p.name for p in (tmp_path / "killed").glob("latents-*/0*.safetensors")]
    assert 3 <= len(left) < len(latents)
    resumed = encoded(path, backbone, folder=tmp_path / "killed")
    assert backbone.images_encoded == 4 * (6 - len(left))
    assert_equal(resumed[list(range(12))], encoded(path, backbone)[list(range(12))])
    assert not list((tmp_path / "killed").glob("**/*.partial"))


@pytest.mark.parametrize("stored", [True, False, "auto"])
def test_prompts_alone_encode_no_image_and_have_the_shape_of_latents(
    stored: Any, tmp_path: Path, backbone: PlainBackbone
):
    (tmp_path / "p.txt").write_text("a fox\na hen\na fox\n")
    source = PromptData(path=tmp_path / "p.txt").open()
    cache = Cache(latents=stored, text=stored)
    found = encode(source, backbone, resolution=24, folder=tmp_path / "cache", device=CPU, cache=cache)
    rows = found[[2, 1]]
    assert rows.posterior.mean.shape == (2, 1, 3, 3, 3)
    assert rows.posterior.mean.isnan().all()  # whatever reads them shows
    assert rows.geometry is not None
    assert rows.geometry.tolist() == [[[24, 24, 0, 0, 24, 24]]] * 2
    torch.testing.assert_close(rows.cond.tokens[:, 0], backbone.encode_prompts(["a fox", "a hen"]).tokens)
    assert backbone.images_encoded == 0
    assert found.needs_encoders == (stored is False)
    assert [path.name.split("-")[0] for path in (tmp_path / "cache").glob("*")] == ([] if stored is False else ["text"])


def test_images_that_are_enlarged_beyond_a_factor_are_warned_of(
    pair_table: Callable[..., Path], backbone: PlainBackbone, caplog: pytest.LogCaptureFixture
):
    path = pair_table(3)  # 16 px at their shorter side
    encoded(path, backbone, resolution=32)
    assert caplog.text == ""
    encoded(path, backbone, resolution=40)
    assert "6 of 6 images are enlarged by more than 2 to 40 px (the smallest side is 16 px)" in caplog.text
    assert "data.min_side=20 to leave small images out" in caplog.text


def test_a_random_crop_is_one_square_a_row_at_the_same_place_of_both_images(tmp_path: Path, backbone: PlainBackbone):
    for name, size in (("a.png", (48, 16)), ("b.png", (96, 32))):  # the same picture in two sizes
        Image.linear_gradient("L").rotate(90).resize(size, Image.Resampling.BILINEAR).save(tmp_path / name)
    path = write_csv(tmp_path / "t.csv", ["prompt", "chosen", "rejected"], [["f", "a.png", "b.png"]] * 4)
    found = encoded(path, backbone, crop="random")[[0, 1, 2, 3]]
    torch.testing.assert_close(found.posterior.mean[:, 0], found.posterior.mean[:, 1], atol=0.02, rtol=0)
    assert found.geometry is not None
    lefts = found.geometry[:, 0, 3].tolist()
    assert len(set(lefts)) == 4
    assert all(0 <= left <= 32 for left in lefts)
    fresh = encoded(path, backbone, crop="random", cache=NOTHING_STORED)
    assert_equal(found, fresh[[0, 1, 2, 3]])
    centred = encoded(path, backbone)[[0]]  # in a folder of its own beside the other's
    assert centred.geometry is not None
    assert centred.geometry[0, :, 3].tolist() == [16, 16]
