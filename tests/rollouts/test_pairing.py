"""Regular pairings: everyone has as many partners, nobody twice, at random by the group."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from t2ialign.rng import generator
from t2ialign.rollouts.pairing import pair_count, regular_pairs


@given(st.integers(2, 20), st.integers(1, 20), st.integers(0, 3))
def test_everyone_has_as_many_partners_and_no_pair_comes_twice(count: int, partners: int, seed: int):
    places = [2 * place for place in range(count)]
    pairs = regular_pairs(places, partners, generator(seed))
    assert len(set(pairs)) == len(pairs)
    assert all(low < high for low, high in pairs)
    met = Counter(place for pair in pairs for place in pair)
    each = min(partners, count - 1)
    short = each * count % 2  # somebody has one partner less
    assert sorted(met[place] for place in places) == sorted([each - 1] * short + [each] * (count - short))
    if not short:
        assert len(pairs) == pair_count(count, each)


def test_without_a_number_all_pairs_are_judged():
    assert regular_pairs([0, 2, 3], None, generator(0)) == [(0, 2), (0, 3), (2, 3)]
    assert pair_count(8, None) == 28
    assert pair_count(16, 6) == 48  # instead of 120


def test_groups_are_paired_by_their_own_number_and_every_pair_comes_as_often():
    found = [tuple(regular_pairs(range(6), 2, generator(3, "pairs", group))) for group in range(900)]
    assert found[0] == tuple(regular_pairs(range(6), 2, generator(3, "pairs", 0)))
    assert len(set(found)) == 60  # rings of six: 5! / 2
    often = Counter(pair for pairs in found for pair in pairs)
    assert len(often) == 15
    # 900 * 6 / 15 = 360 each, standard deviation 14.7
    assert all(abs(count - 360) < 60 for count in often.values())
