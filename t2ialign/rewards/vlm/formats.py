"""What a vision-language model is asked about an image or two, and how its reply becomes a number.

The texts are our own; the replies are those of UnifiedReward's published models (plain, Think and Flex), which its
models give to these questions as well. A reply without exactly one verdict is None: never a tie, never a zero.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, NamedTuple

from unigenbench.judges.chat_completion import Completion
from unigenbench.judges.reply_modes import yes_probability

Score = float | None
PairFormat = Literal["logits", "think", "flex", "plain"]
ScoreFormat = Literal["logits", "think", "plain"]
LEAST_MASS = 0.5
"""Probability that the first token must have for being a verdict at all; below it the model was about to say something
else."""


class Format(NamedTuple):
    """A question, and what reads the reply."""

    question: str
    """CAPTION stands for the prompt of the images."""
    read: Callable[[Completion], Score]
    max_tokens: int = 1024
    logprobs: bool = False

    def text(self, caption: str) -> str:
        """The question about images of this caption."""
        return self.question.replace("CAPTION", caption)


def _text_reader(read: Callable[[str], Score]) -> Callable[[Completion], Score]:
    return lambda completion: read(completion.reply.text)


# Pairs


def first_digit(completion: Completion) -> Score:
    """P(1) / (P(1) + P(2)) of the first token, in [0, 1]."""
    mass = {"1": 0.0, "2": 0.0}
    for token, logprob in completion.first_token or ():
        if token.strip() in mass:
            mass[token.strip()] += math.exp(logprob)
    total = sum(mass.values())
    return min(mass["1"] / total, 1.0) if total >= LEAST_MASS else None


_BETTER = re.compile(r"\bimage\s*([12])\s+is\s+better\b", re.IGNORECASE)
_EQUAL = re.compile(r"\bboth\s+images\s+are\s+equally\s+good\b", re.IGNORECASE)
_NAMED = re.compile(r"(?:\bimage[\s_]*|^\s*)([12])(?!\d)", re.IGNORECASE)


def _after_thoughts(text: str) -> str:
    return re.split(r"</think>", text, flags=re.IGNORECASE)[-1]


def plain_verdict(text: str) -> Score:
    """1 for "Image 1 is better", 0 for "Image 2 is better", 0.5 for "Both images are equally good"."""
    said = _after_thoughts(text)
    verdicts = {1.0 if digit == "1" else 0.0 for digit in _BETTER.findall(said)}
    verdicts |= {0.5} if _EQUAL.search(said) else set()
    return verdicts.pop() if len(verdicts) == 1 else None


def think_verdict(text: str) -> Score:
    """As `plain_verdict`, of the last answer tag, or else of what follows the thoughts; without a tie."""
    answer = _answer(text)
    verdict = None if answer is None else plain_verdict(answer)
    return verdict if verdict in (0.0, 1.0) else None


def _answer(text: str) -> str | None:
    """What is in the last answer tag; where there is none, what follows the thoughts; None where they have no end."""
    closed = re.split(r"</answer>", text, flags=re.IGNORECASE)[:-1]
    opened = re.split(r"<answer>", closed[-1], flags=re.IGNORECASE)[1:] if closed else []
    if opened:
        return opened[-1]
    return _after_thoughts(text) if re.search(r"</think>", text, re.IGNORECASE) else None


def flex_verdict(text: str) -> Score:
    """1 or 0 by the `winner` of a JSON object, which may stand in prose or a code fence, or by that of its part
    `overall`."""
    document = _outermost_object(_after_thoughts(text))
    overall = document.get("overall")
    winner = document.get("winner", overall.get("winner") if isinstance(overall, Mapping) else None)
    named = set(_NAMED.findall(winner)) if isinstance(winner, str) else set()
    return {"1": 1.0, "2": 0.0}[named.pop()] if len(named) == 1 else None


def _outermost_object(text: str) -> Mapping[str, Any]:
    start, end = text.find("{"), text.rfind("}")
    try:
        found = json.loads(text[start : end + 1]) if 0 <= start < end else None
    except (ValueError, RecursionError):
        found = None
    return found if isinstance(found, dict) else {}


_PAIR = "The first image is Image 1, the second is Image 2. Both were made for the caption below."
_ASPECTS = "what the caption asks for and the image shows, how real and whole it looks, and how beautiful it is"
PAIR_FORMATS: dict[PairFormat, Format] = {
    "logits": Format(
        f"{_PAIR}\n\nCaption: CAPTION\n\nWhich image is the better one for this caption? What it shows counts first, "
        "then how real it looks, then its beauty. Answer with one digit and nothing else: 1 or 2.",
        first_digit,
        max_tokens=1,
        logprobs=True,
    ),
    "plain": Format(
        f"{_PAIR} Compare them by {_ASPECTS}. Then end with one of these sentences: 'Image 1 is better', 'Image 2 is "
        "better', 'Both images are equally good'.\n\nCaption: CAPTION",
        _text_reader(plain_verdict),
    ),
    "think": Format(
        f"{_PAIR} Compare them as an impartial and exact judge. Between <think> and </think> give each image from 1 to "
        f"10 points for each of: {_ASPECTS}; say why; then add up the points of each image. Between <answer> and "
        "</answer> write one of two sentences and nothing else: Image 1 is better, or: Image 2 is better.\n\n"
        "Caption: CAPTION",
        _text_reader(think_verdict),
        max_tokens=4096,
    ),
    "flex": Format(
        f"{_PAIR} Compare them in three categories: meaning, quality and realism, beauty and style. In each choose "
        "three to five points that matter for this caption, and share out 10 between the two images for each. Answer "
        'with one JSON object and nothing else: {"categories": [{"name": "…", "points": [{"name": "…", "image_1": 6, '
        '"image_2": 4}], "cat_winner": "Image 1"}], "reason": "…", "winner": "Image 1"}; a winner is "Image 1" or '
        '"Image 2".\n\nCaption: CAPTION',
        _text_reader(flex_verdict),
        max_tokens=4096,
    ),
}

# Single images

ASPECTS = ("Alignment", "Coherence", "Style")


def fits(completion: Completion) -> Score:
    """P(1) / (P(1) + P(0)) of the first token, in [0, 1]."""
    candidates = completion.first_token or ()
    return yes_probability(candidates) if _mass(candidates) >= LEAST_MASS else None


def _mass(candidates: Iterable[tuple[str, float]]) -> float:
    """Probability of the candidates that `yes_probability` counts."""
    return sum(math.exp(logprob) for token, logprob in candidates if yes_probability([(token, 0.0)]) is not None)


def plain_scores(text: str) -> Score:
    """The mean of a line each `Alignment Score (1-5): x`, and the same of Coherence and Style; in [1, 5]."""
    said = _after_thoughts(text)
    found = [_score(aspect, said) for aspect in ASPECTS]
    scores = [score for score in found if score is not None]
    return sum(scores) / len(scores) if len(scores) == len(ASPECTS) else None


def think_scores(text: str) -> Score:
    """As `plain_scores`, of the last answer tag; where there is none, of what follows the thoughts."""
    answer = _answer(text)
    return None if answer is None else plain_scores(answer)


def _score(aspect: str, text: str) -> Score:
    pattern = rf"\b{aspect}\s+Score\s*(?:\(1\s*[-–]\s*5\))?[\s*]*:[\s*]*(\d+(?:\.\d+)?)(?![\d.]*\d)"
    values = {float(value) for value in re.findall(pattern, text, re.IGNORECASE)}
    return value if len(values) == 1 and 1 <= (value := values.pop()) <= 5 else None


_LINES = "\n".join(f"{aspect} Score (1-5): x" for aspect in ASPECTS)
_SCORES = (
    "Rate this image, which was made for the caption below, from 1 (bad) to 5 (excellent), with decimals where needed: "
    "alignment, whether it shows what the caption says; coherence, whether it is whole and free of errors; style, how "
    "beautiful it is whatever the caption."
)
SCORE_FORMATS: dict[ScoreFormat, Format] = {
    "logits": Format(
        "This image was made for the caption below.\n\nCaption: CAPTION\n\nDoes it show all of what the caption says, "
        "and is it free of visible errors? Answer with one digit and nothing else: 1 for yes, 0 for no.",
        fits,
        max_tokens=1,
        logprobs=True,
    ),
    "plain": Format(
        f"{_SCORES} Answer with these three lines and nothing else:\n{_LINES}\n\nCaption: CAPTION",
        _text_reader(plain_scores),
        max_tokens=256,
    ),
    "think": Format(
        f"{_SCORES} Reason between <think> and </think>, then write these three lines between <answer> and "
        f"</answer>:\n{_LINES}\n\nCaption: CAPTION",
        _text_reader(think_scores),
        max_tokens=4096,
    ),
}
