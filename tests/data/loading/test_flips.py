"""Mirrored images: all of a row together, drawn by seed, row and epoch, stored beside the others."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest
import torch
from own_data import PlainBackbone, write_csv
from PIL import Image, ImageOps

from t2ialign.data.base import Cache
from t2ialign.data.encoding.cache import encode
from t2ialign.data.encoding.dataset import Encoded
from t2ialign.data.kinds.pairs import PairData
from t2ialign.data.loading.loader import Batches
from t2ialign.types import Batch

PAIRS, SIDE = 10, 16
NOTHING_STORED = Cache(latents=False, text=False)


@pytest.fixture
def ramps(tmp_path: Path) -> Path:
    """Pairs of ramps, dark at the left and light at the right; those of a row differ in their range."""
    rows = []
    for row in range(PAIRS):
        for view, steps in (("w", 255), ("l", 100 + 10 * row)):
            ramp = Image.linear_gradient("L").rotate(90).resize((SIDE, SIDE)).point(lambda v, s=steps: v * s // 255)
            ramp.convert("RGB").save(tmp_path / f"{row}_{view}.png")
        rows.append([f"{row}", f"{row}_w.png", f"{row}_l.png"])
    return write_csv(tmp_path / "pairs.csv", ["prompt", "chosen", "rejected"], rows)


@pytest.fixture
def encoded(ramps: Path, backbone: PlainBackbone) -> Callable[..., Encoded]:
    def build(cache: Cache | None = None, **settings) -> Encoded:
        settings = {"flips": True, **settings}
        return encode(
            PairData(path=ramps).open(),
            backbone,  # type: ignore[arg-type]
            resolution=SIDE,
            folder=ramps.parent / "cache",
            device=torch.device("cpu"),
            cache=cache,
            **settings,
        )

    return build


def first(count: int, encoded: Encoded, **settings) -> list[Batch]:
    return list(islice(Batches(encoded, **{"seed": 3, "micro_batch": 5, "flip": 0.5, **settings}), count))


def flips(batches: list[Batch], encoded: Encoded) -> list[tuple[int, bool]]:
    """(row, whether its images are mirrored) of each visit; both views must agree."""
    found = []
    for batch in batches:
        plain = encoded[batch.rows.tolist()].posterior
        # a ramp's right half is lighter; posterior noise is far below the difference
        rises = (batch.latents[..., 1] > batch.latents[..., 0]).flatten(2)
        assert (plain.mean[..., 1] > plain.mean[..., 0]).all()
        assert (rises == rises[:, :1, :1]).all(), "a row's views are not mirrored together"
        found += zip(batch.rows.tolist(), (~rises[:, 0, 0]).tolist(), strict=True)
    return found


@pytest.mark.parametrize("cache", [None, NOTHING_STORED, Cache(text=False)])
def test_chosen_and_rejected_are_mirrored_together_stored_or_not(encoded: Callable[..., Encoded], cache: Cache | None):
    stored = encoded()
    expected = flips(first(20, stored), stored)
    assert flips(first(20, encoded(cache)), stored) == expected
    assert 30 <= sum(flip for _, flip in expected) <= 70  # of 100 visits: four standard deviations of 5 around 50
    for one, other in zip(first(20, encoded(cache)), first(20, stored), strict=True):
        assert torch.equal(one.latents, other.latents)
        assert torch.equal(one.geometry, other.geometry)  # type: ignore[arg-type]


def test_mirrored_images_are_encoded_not_their_latents_turned(
    ramps: Path, backbone: PlainBackbone, encoded: Callable[..., Encoded]
):
    average = backbone.encode_images

    def one_sided(pixels: torch.Tensor):
        """Latents of an encoder that tells left from right, as a VAE's convolutions may."""
        weight = torch.linspace(1, 2, pixels.shape[-1])
        return average(pixels * weight)

    backbone.encode_images = one_sided  # type: ignore[method-assign]
    mirror = ramps.parent / "mirror"
    mirror.mkdir()
    for path in ramps.parent.glob("*.png"):
        ImageOps.mirror(Image.open(path)).save(mirror / path.name)
    (mirror / "pairs.csv").write_bytes(ramps.read_bytes())
    source = PairData(path=mirror / "pairs.csv").open()
    other = encode(source, backbone, resolution=SIDE, folder=mirror, device=torch.device("cpu"))  # type: ignore[arg-type]
    expected = other[[2, 7]].posterior.mean
    stored = encoded()
    assert torch.equal(stored.reader([2, 7], [True, True]).posterior.mean, expected)
    assert not torch.allclose(stored[[2, 7]].posterior.mean.flip(-1), expected)


def test_the_draw_is_a_function_of_seed_row_and_epoch(encoded: Callable[..., Encoded]):
    data = encoded()
    seen = flips(first(8, data), data)  # four epochs
    for other in (
        flips(first(40, data, micro_batch=1), data),
        flips(first(8, data, workers=2), data),
        flips(first(4, data, micro_batch=10), data),
    ):
        assert other == seen
    assert flips(first(5, data, cursor=15), data) == seen[15:]  # as after a restart
    ranks = [flips(first(4, data, world_size=2, rank=rank), data) for rank in (0, 1)]
    assert [visit for at in range(0, 20, 5) for rank in ranks for visit in rank[at : at + 5]] == seen
    epochs = [tuple(flip for _, flip in sorted(seen[at : at + PAIRS])) for at in range(0, 40, PAIRS)]
    assert len(set(epochs)) == 4
    assert flips(first(8, data, seed=4), data) != seen


def test_a_fixed_draw_is_always_mirrored_or_never(encoded: Callable[..., Encoded]):
    data = encoded()
    epochs = [flips(first(2, data, draws=2, cursor=at), data) for at in range(0, 60, PAIRS)]
    by_row = [[flip for _, flip in sorted(epoch)] for epoch in epochs]
    assert by_row[0] == by_row[2] == by_row[4]
    assert by_row[1] == by_row[3] == by_row[5]
    assert by_row[0] != by_row[1]


def test_mirrored_latents_are_stored_beside_those_that_are_there(
    encoded: Callable[..., Encoded], backbone: PlainBackbone, ramps: Path
):
    encoded(flips=False)
    assert backbone.images_encoded == 2 * PAIRS
    (plain,) = ramps.parent.glob("cache/latents-*")
    encoded()
    assert backbone.images_encoded == 4 * PAIRS  # the mirrored ones, and no other again
    assert len(list(ramps.parent.glob("cache/latents-*"))) == 2
    encoded()
    encoded(flips=False)
    assert backbone.images_encoded == 4 * PAIRS
    assert plain.is_dir()


def test_without_flips_none_is_stored_and_none_can_be_asked_for(encoded: Callable[..., Encoded], ramps: Path):
    data = encoded(flips=False)
    assert len(list(ramps.parent.glob("cache/latents-*"))) == 1
    with pytest.raises(ValueError, match="mirrored images are not stored"):
        first(20, data)


@pytest.mark.parametrize("crop", ["center", "random"])
def test_a_mirrored_square_shows_the_same_part_and_its_place_is_told_from_the_other_side(
    tmp_path: Path, backbone: PlainBackbone, crop: str
):
    Image.linear_gradient("L").rotate(90).resize((48, 16)).convert("RGB").save(tmp_path / "a.png")
    path = write_csv(tmp_path / "t.csv", ["prompt", "chosen", "rejected"], [["f", "a.png", "a.png"]])
    data = encode(
        PairData(path=path).open(),
        backbone,  # type: ignore[arg-type]
        resolution=32,
        folder=tmp_path / "cache",
        device=torch.device("cpu"),
        crop=crop,  # type: ignore[arg-type]
        flips=True,
    )
    plain, mirrored = data[[0]], data.reader([0], [True])
    torch.testing.assert_close(mirrored.posterior.mean, plain.posterior.mean.flip(-1))  # this encoder is an average
    assert plain.geometry is not None
    assert mirrored.geometry is not None
    # the resized image is 96 x 32, the square 32 x 32: what is left of it and what is right of it make 64
    height, width, top, left, *target = plain.geometry[0, 0].tolist()
    assert abs(mirrored.geometry[0, 0, 3] - (64 - left)) <= 1  # each rounded
    assert (height, width, top, target) == (16, 48, 0, [32, 32])
    assert mirrored.geometry[0, 0, [0, 1, 2, 4, 5]].tolist() == [16, 48, 0, 32, 32]
