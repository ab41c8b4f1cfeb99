"""Numbers and counts as text for readers."""

from __future__ import annotations


def with_minus(number: str) -> str:
    """A written number with minus signs instead of hyphens, and without a sign where it is 0."""
    return number.lstrip("+-") if not number.strip("+-0.") else number.replace("-", "−")


def plural(count: int, noun: str) -> str:
    """For example "1 prompt", "1,200 prompts"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
