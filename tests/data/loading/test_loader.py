"""Batches: the same whatever the workers, the ranks, the micro-batch and the restarts."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest
import torch
from own_data import PlainBackbone

from t2ialign.data.base import Cache
from t2ialign.data.encoding.cache import encode
from t2ialign.data.encoding.dataset import Encoded
from t2ialign.data.kinds.pairs import PairData
from t2ialign.data.loading.loader import Batches, _without_prompts
from t2ialign.data.loading.sampler import permutation
from t2ialign.errors import DataError
from t2ialign.rng import Draws
from t2ialign.types import Batch, Conditioning

NOTHING_STORED = Cache(latents=False, text=False)


@pytest.fixture
def encoded(pair_table: Callable[..., Path], backbone: PlainBackbone, tmp_path: Path) -> Callable[..., Encoded]:
    """Encodes the six pairs of a table."""
    source = PairData(path=pair_table(6)).open()

    def build(cache: Cache | None = None) -> Encoded:
        folder = tmp_path / "cache"
        return encode(source, backbone, resolution=16, folder=folder, device=torch.device("cpu"), cache=cache)

    return build


def first(count: int, encoded: Encoded, **settings) -> list[Batch]:
    return list(islice(Batches(encoded, **{"seed": 3, "micro_batch": 2, **settings}), count))


def assert_same(batches: list[Batch], others: list[Batch]) -> None:
    """Equal rows in order, however they are batched."""

    def rows(found: list[Batch], of: Callable[[Batch], torch.Tensor]) -> torch.Tensor:
        return torch.cat([of(batch) for batch in found])

    for of in (
        lambda b: b.keys,
        lambda b: b.latents,
        lambda b: b.cond.tokens,
        lambda b: b.cond.pooled,
        lambda b: b.geometry,
    ):
        assert torch.equal(rows(batches, of), rows(others, of))


def null() -> Conditioning:
    return PlainBackbone().null()


def test_a_batch_by_hand(encoded: Callable[..., Encoded]):
    data = encoded()
    batch = first(5, data)[4]
    # samples 8 and 9 are the third and fourth of the second epoch of six
    order = permutation(3, 0, 1, 6)[2:4].tolist()
    rows = data[order]
    noise = Draws(3, torch.tensor([8, 9])).normal((2, 3, 2, 2), "posterior")
    assert batch.keys.tolist() == [8, 9]
    assert torch.equal(batch.latents, rows.posterior.mean + rows.posterior.std * noise)
    assert torch.equal(batch.cond.tokens, rows.cond.tokens)
    assert (len(batch), batch.views) == (2, 2)


def test_views_get_posterior_noise_of_their_own(encoded: Callable[..., Encoded]):
    data = encoded()
    batch = first(1, data, micro_batch=6)[0]
    rows = data[permutation(3, 0, 0, 6).tolist()]
    noise = (batch.latents - rows.posterior.mean) / rows.posterior.std
    assert not torch.allclose(noise[:, 0], noise[:, 1])


@pytest.mark.parametrize("cache", [None, NOTHING_STORED])
def test_workers_change_nothing(encoded: Callable[..., Encoded], cache: Cache | None):
    settings = {"prompt_dropout": 0.3, "null": null()}
    alone = first(8, encoded(), **settings)
    assert_same(first(8, encoded(cache), workers=2, **settings), alone)
    assert_same(first(8, encoded(cache), workers=0, **settings), alone)


def test_a_cursor_goes_on_where_the_stream_stood(encoded: Callable[..., Encoded]):
    whole = first(8, encoded())
    assert_same(first(3, encoded(), cursor=10), whole[5:])
    assert_same(first(3, encoded(), cursor=10, workers=2), whole[5:])


def test_the_micro_batch_changes_nothing(encoded: Callable[..., Encoded]):
    settings = {"prompt_dropout": 0.3, "null": null()}
    ones = first(8, encoded(), micro_batch=1, **settings)
    fours = first(2, encoded(), micro_batch=4, **settings)
    assert_same(ones, fours)


def test_two_ranks_share_the_stream(encoded: Callable[..., Encoded]):
    ranks = [first(3, encoded(), micro_batch=1, world_size=2, rank=rank) for rank in (0, 1)]
    assert_same([batch for pair in zip(*ranks, strict=True) for batch in pair], first(3, encoded()))


def test_prompts_are_dropped_at_the_stated_rate_with_all_that_belongs_to_them(encoded: Callable[..., Encoded]):
    batch = first(1, encoded(), micro_batch=1000, prompt_dropout=0.25, null=null())[0]
    kept = first(1, encoded(), micro_batch=1000)[0]
    dropped = (batch.cond.tokens == 0).flatten(1).all(1)
    assert abs(dropped.float().mean() - 0.25) < 0.05  # 3.6 standard deviations of 1000 draws
    assert batch.cond.pooled is not None
    assert torch.equal((batch.cond.pooled == 0).flatten(1).all(1), dropped)
    assert torch.equal(batch.cond.tokens[~dropped], kept.cond.tokens[~dropped])
    assert torch.equal(batch.geometry, kept.geometry)
    assert torch.equal(batch.latents, kept.latents)


def test_prompts_of_views_are_dropped_together():
    cond = Conditioning(torch.ones(3, 2, 4, 3))
    found = _without_prompts(cond, torch.tensor([False, True, False]), Conditioning(torch.zeros(1, 4, 3)))
    assert found.tokens.flatten(1).sum(1).tolist() == [24, 0, 24]


def test_dropout_without_null_is_refused(encoded: Callable[..., Encoded]):
    with pytest.raises(ValueError, match="no null conditioning"):
        Batches(encoded(), seed=0, micro_batch=1, prompt_dropout=0.1)


@pytest.mark.parametrize("workers", [0, 2])
def test_global_random_state_is_not_touched(encoded: Callable[..., Encoded], workers: int):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first(2, encoded(), workers=workers)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_image_met_in_a_step_is_told_plainly(encoded: Callable[..., Encoded], tmp_path: Path, workers: int):
    data = encoded(NOTHING_STORED)
    (tmp_path / "img/2_l.png").write_bytes(b"")
    with pytest.raises(DataError) as caught:
        first(4, data, workers=workers)
    assert str(caught.value).startswith(f"{tmp_path / 'pairs.csv'}:4: {tmp_path / 'img/2_l.png'}: not an image")
