"""The prompt files that come with the package: what is in them, and that they are what their scripts write."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest

from unigenbench.prompts import DATA, read_prompts, validate_prompts

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))


def test_the_shapes_suite_is_what_its_script_writes():
    import build_shapes_suite

    written = build_shapes_suite.to_csv(build_shapes_suite.shapes_suite(), "en")
    assert (DATA / "shapes.csv").read_text(encoding="utf-8") == written


def test_the_shapes_suite_reads_without_a_remark():
    assert not validate_prompts("shapes")
    prompts = read_prompts("shapes")
    assert prompts.version == "shapes 1"
    assert len(prompts.prompts) >= 300
    assert len({prompt.text for prompt in prompts.prompts}) == len(prompts.prompts)


def test_shapes_prompts_are_held_out_and_their_points_are_the_verdicts_in_order():
    from t2ialign.shapes.caption import split_of
    from t2ialign.shapes.constraint import CRITERIA
    from t2ialign.shapes.verify import Unreadable, verify

    prompts = read_prompts("shapes").prompts
    for prompt in prompts:
        assert split_of(prompt.text) == "test"
        verdicts = verify(prompt.text, Unreadable("no picture")).verdicts
        assert [point.label for point in prompt.points] == [verdict.criterion for verdict in verdicts]
        claims = [str(verdict.constraint).replace("a orange", "an orange") for verdict in verdicts]
        assert [point.description for point in prompt.points] == claims
    counts = Counter(point.label for prompt in prompts for point in prompt.points)
    assert set(counts) == set(CRITERIA)
    assert min(counts.values()) >= 20


@pytest.mark.parametrize("first", [16, 64])
def test_the_first_shapes_prompts_already_test_every_criterion_of_shapes(first: int):
    from t2ialign.shapes.constraint import CRITERIA

    tested = {point.label for prompt in read_prompts("shapes").prompts[:first] for point in prompt.points}
    assert tested == set(CRITERIA)
