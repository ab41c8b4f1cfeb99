"""Numbers and counts as text."""

from __future__ import annotations

import pytest

from unigenbench.formatting import plural, with_minus


@pytest.mark.parametrize(
    ("number", "text"),
    [("-1.50", "−1.50"), ("+1.50", "+1.50"), ("-0.00", "0.00"), ("+0.0", "0.0"), ("0", "0"), ("-10", "−10")],
)
def test_minus_signs_are_no_hyphens_and_zero_has_no_sign(number: str, text: str):
    assert with_minus(number) == text


@pytest.mark.parametrize(("count", "text"), [(0, "0 prompts"), (1, "1 prompt"), (1200, "1,200 prompts")])
def test_one_is_singular(count: int, text: str):
    assert plural(count, "prompt") == text
