"""Ways to ask for a reply (as the rubric says, as JSON, one digit a test point) and the tiny question of a probe."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

RETRY_TEMPERATURE = 0.5
"""of parse retries: at temperature 0 another seed gives the same unreadable answer again"""
PROBE_TEXT = "Is there anything in this picture? Answer with one digit: 1 for yes, 0 for no."
PROBE_TOKENS = 256
JSON_INSTRUCTION = (
    "Instead of those lines, answer with one JSON object and nothing else: "
    '{"checks": [{"id": 1, "evidence": "…", "pass": true}, …]}, one entry for each check, ids from 1 in order.'
)
LOGPROBS = {"logprobs": True, "top_logprobs": 20}
"""Fields of a request for the probabilities of the first token."""
YES, NO = {"1", "yes", "true", "是"}, {"0", "no", "false", "否"}
_CHECK = {
    "type": "object",
    "properties": {"id": {"type": "integer"}, "evidence": {"type": "string"}, "pass": {"type": "boolean"}},
    "required": ["id", "evidence", "pass"],
    "additionalProperties": False,
}
RESPONSE_FORMAT: dict[str, Any] = {
    "type": "json_schema",
    "json_schema": {
        "name": "checks",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {"checks": {"type": "array", "items": _CHECK}},
            "required": ["checks"],
            "additionalProperties": False,
        },
    },
}
"""A request for the object of JSON_INSTRUCTION."""


def logit_instruction(k: int) -> str:
    """What follows the rubric where one digit is asked for, about the k-th test point (from 1)."""
    return f"Now decide check {k} alone. Answer with a single digit, 1 or 0, and nothing else."


def yes_probability(candidates: Iterable[tuple[str, float]]) -> float | None:
    """P(yes) / (P(yes) + P(no)) over the candidates for one token, in [0, 1]; None if neither is among them.

    Args:
        candidates: (token, log-probability), at most 0 each.
    """
    p_yes = p_no = 0.0
    for token, logprob in candidates:
        word = token.strip().strip("\"'").lower()
        if word in YES:
            p_yes += math.exp(logprob)
        elif word in NO:
            p_no += math.exp(logprob)
    total = p_yes + p_no
    return p_yes / total if total > 0 else None
