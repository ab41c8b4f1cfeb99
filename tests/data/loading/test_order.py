"""The order of training data, as promised whatever the batch, the ranks and the restarts."""

from __future__ import annotations

from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t2ialign.data.loading.sampler import Order, permutation

sizes = st.lists(st.integers(1, 13), min_size=1, max_size=4)
seeds = st.integers(0, 1000)
micro_batches = st.integers(1, 5)


def buckets_of(counts: list[int]) -> list[list[int]]:
    """Disjoint buckets of these many members, numbered through."""
    numbers = iter(range(sum(counts)))
    return [list(islice(numbers, count)) for count in counts]


def examples(order: Order, groups: int, cursor: int = 0) -> list[int]:
    return [index for group in islice(order.groups(cursor=cursor), groups) for index in group.examples]


@given(seed=seeds, n=st.integers(1, 20), micro_batch=micro_batches)
def test_with_one_bucket_the_kth_sample_is_the_permutations_kth(seed: int, n: int, micro_batch: int):
    seen = examples(Order([range(n)], seed=seed, micro_batch=micro_batch), groups=3 * n)
    expected = [int(permutation(seed, 0, k // n, n)[k % n]) for k in range(len(seen))]
    assert seen == expected


@given(seed=seeds, n=st.integers(1, 20), epochs=st.integers(1, 3))
def test_every_example_is_seen_once_an_epoch(seed: int, n: int, epochs: int):
    seen = examples(Order([range(n)], seed=seed, micro_batch=1), groups=epochs * n)
    for epoch in range(epochs):
        assert sorted(seen[epoch * n : (epoch + 1) * n]) == list(range(n))


def test_epochs_differ_from_each_other():
    assert permutation(0, 0, 0, 50).tolist() != permutation(0, 0, 1, 50).tolist()


@settings(max_examples=50)
@given(seed=seeds, counts=sizes, micro_batch=micro_batches)
def test_each_buckets_members_come_once_a_permutation_in_groups_of_their_own(seed, counts, micro_batch):
    buckets = buckets_of(counts)
    order = Order(buckets, seed=seed, micro_batch=micro_batch)
    streams: dict[int, list[int]] = {bucket: [] for bucket in range(len(buckets))}
    for group in islice(order.groups(), 12 * sum(counts)):
        assert set(group.examples) <= set(buckets[group.bucket])
        streams[group.bucket] += group.examples
    for bucket, stream in streams.items():
        size = counts[bucket]
        for at in range(0, len(stream) - size + 1, size):
            assert sorted(stream[at : at + size]) == buckets[bucket]


@settings(max_examples=50)
@given(seed=seeds, counts=sizes, micro_batch=micro_batches)
def test_after_an_epoch_at_most_a_remainder_of_each_bucket_is_carried_over(seed, counts, micro_batch):
    order = Order(buckets_of(counts), seed=seed, micro_batch=micro_batch)
    epochs = 3
    groups = sum(epochs * count // micro_batch for count in counts)
    planned = [group.bucket for group in islice(order.groups(), groups)]
    assert [planned.count(bucket) for bucket in range(len(counts))] == [epochs * c // micro_batch for c in counts]


@settings(max_examples=50)
@given(seed=seeds, counts=sizes, micro_batch=micro_batches, done=st.integers(0, 60))
def test_a_resumed_stream_equals_the_uninterrupted_one(seed, counts, micro_batch, done):
    whole = list(islice(Order(buckets_of(counts), seed=seed, micro_batch=micro_batch).groups(), done + 20))
    resumed = Order(buckets_of(counts), seed=seed, micro_batch=micro_batch).groups(cursor=done * micro_batch)
    assert list(islice(resumed, 20)) == whole[done:]


@settings(max_examples=50)
@given(seed=seeds, n=st.integers(1, 20), windows=st.integers(1, 6))
def test_four_by_one_one_by_four_and_two_ranks_see_the_same_samples(seed: int, n: int, windows: int):
    accumulated = Order([range(n)], seed=seed, micro_batch=1)
    batched = Order([range(n)], seed=seed, micro_batch=4)
    ranked = Order([range(n)], seed=seed, micro_batch=2)
    for window in range(windows):
        cursor = 4 * window
        one_by_one = [g.examples[0] for g in islice(accumulated.groups(cursor=cursor), 4)]
        at_once = next(batched.groups(cursor=cursor))
        halves = [next(ranked.groups(cursor=cursor, rank=rank, world_size=2)) for rank in (0, 1)]
        assert at_once.examples == one_by_one
        assert [*halves[0].examples, *halves[1].examples] == one_by_one
        assert [*halves[0].keys, *halves[1].keys] == at_once.keys == list(range(cursor, cursor + 4))


@settings(max_examples=50)
@given(seed=seeds, counts=sizes, micro_batch=micro_batches, groups=st.integers(0, 60))
def test_the_visits_of_each_bucket_are_known_without_walking(seed, counts, micro_batch, groups):
    order = Order(buckets_of(counts), seed=seed, micro_batch=micro_batch)
    walked = [0] * len(counts)
    for group in islice(order.groups(), groups):
        walked[group.bucket] += len(group.examples)
    assert order.visits(groups) == walked


def test_a_far_position_is_reached_at_once():
    order = Order([range(1000), range(1000, 1003)], seed=0, micro_batch=2)
    assert order.group(10**12).keys == [2 * 10**12, 2 * 10**12 + 1]


def test_a_cursor_within_a_group_is_refused():
    with pytest.raises(ValueError, match="cursor 3 is not a multiple of micro_batch 2"):
        next(Order([range(4)], seed=0, micro_batch=2).groups(cursor=3))


def test_an_empty_bucket_is_refused():
    with pytest.raises(ValueError, match="buckets have"):
        Order([[]], seed=0, micro_batch=1)


# --- a curriculum

easinesses = st.lists(st.integers(0, 3), min_size=1, max_size=20)


@given(seed=seeds, curriculum_scores=easinesses)
def test_a_curriculum_starts_with_the_easiest_and_goes_on_at_random(seed: int, curriculum_scores: list[int]):
    n = len(curriculum_scores)
    plain = Order([range(n)], seed=seed, micro_batch=1)
    order = Order([range(n)], seed=seed, micro_batch=1, curriculum_scores=curriculum_scores)
    seen = examples(order, groups=3 * n)
    assert [curriculum_scores[index] for index in seen[:n]] == sorted(curriculum_scores, reverse=True)
    assert sorted(seen[:n]) == list(range(n))
    assert seen[n:] == examples(plain, groups=3 * n)[n:]


def test_what_is_equally_easy_comes_in_the_order_of_the_seed():
    drawn = {
        tuple(examples(Order([range(6)], seed=s, micro_batch=1, curriculum_scores=[1.0] * 6), 6)) for s in range(20)
    }
    assert len(drawn) > 10
    equal = Order([range(6)], seed=3, micro_batch=1, curriculum_scores=[1.0] * 6)
    assert examples(equal, 6) == examples(Order([range(6)], seed=3, micro_batch=1), 6)


@settings(max_examples=50)
@given(seed=seeds, counts=sizes, micro_batch=micro_batches, done=st.integers(0, 60))
def test_a_resumed_curriculum_equals_the_uninterrupted_one(seed, counts, micro_batch, done):
    curriculum_scores = [(7 * index) % 5 for index in range(sum(counts))]

    def order() -> Order:
        return Order(buckets_of(counts), seed=seed, micro_batch=micro_batch, curriculum_scores=curriculum_scores)

    whole = list(islice(order().groups(), done + 20))
    assert list(islice(order().groups(cursor=done * micro_batch), 20)) == whole[done:]


@given(seed=seeds, curriculum_scores=easinesses, done=st.integers(0, 12))
def test_a_curriculum_is_the_same_on_two_ranks_and_by_its_members(seed: int, curriculum_scores: list[int], done: int):
    members = [index for index in range(len(curriculum_scores)) for _ in range(1 + index % 2)]  # some rows stand twice
    one = Order([members], seed=seed, micro_batch=1, curriculum_scores=curriculum_scores)
    two = Order([members], seed=seed, micro_batch=2, curriculum_scores=curriculum_scores)
    singles = [group.examples[0] for group in islice(one.groups(cursor=4 * done), 4)]
    halves = [next(two.groups(cursor=4 * done, rank=rank, world_size=2)).examples for rank in (0, 1)]
    assert [*halves[0], *halves[1]] == singles
