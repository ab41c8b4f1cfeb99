"""What the curves of a training run say, in words."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

from t2ialign.report.curves import HELD_OUT, value
from t2ialign.report.outcome import Outcome, outcome
from unigenbench.formatting import with_minus


class Finding(NamedTuple):
    """What the training curves say, in a sentence."""

    kind: Literal["good", "note", "warning"]
    text: str


def findings(rows: list[dict[str, Any]], *, initial_loss: float | None, found: Outcome | None = None) -> list[Finding]:
    """What held-out pairs and the last fifth of a preference run say, with the warning signs of docs/dpo-metrics.md.

    Signs of training pairs are warnings, unless images of held-out prompts, or else held-out pairs, contradict them;
    where images got worse, nothing is called good. A sign that images contradict says what they found.

    Args:
        initial_loss: as for `training_charts`.
        found: by a comparison of images of held-out prompts.
    """
    found = found or outcome(None)
    held_out = _held_out_finding(rows)
    contradiction = found.sentence if found.improved else None
    if contradiction is None and not found.worse:
        contradiction = next((one.text for one in held_out if one.kind == "good"), None)
    rows = [row for row in rows if "margin" in row]
    late = rows[-max(1, len(rows) // 5) :]
    signs = [*held_out]
    if late:
        loss, accuracy, saturated = (_mean(late, key) for key in ("loss", "implicit_accuracy", "saturated"))
        if initial_loss is not None:
            signs.append(_loss_finding(loss, accuracy, initial_loss, contradiction))
        signs += _change_finding(_mean(late, "chosen_change"), _mean(late, "rejected_change"), found)
        if saturated > 0.2:
            signs.append(
                Finding(
                    "warning",
                    f"{saturated:.0%} of the pairs are saturated: beta (of mapo, logit_scale) is large for latents of "
                    "this size, or the pairs are memorised.",
                )
            )
    return [_beside_images(sign, found) for sign in signs]


def _beside_images(sign: Finding, found: Outcome) -> Finding:
    """The sign, with what images say where they say something else."""
    if sign.kind == "warning" and found.better:
        return Finding("note" if found.improved else "warning", f"{sign.text} {found.sentence}")
    if sign.kind == "good" and found.worse:
        return Finding("note", f"{sign.text} {found.sentence}")
    return sign


def _change_finding(chosen: float, rejected: float, found: Outcome) -> Iterator[Finding]:
    """How the denoising errors of both images changed; nothing where nothing follows from it."""
    if chosen > 0 and rejected > 0:
        text = (
            "The policy denoises both images of the training pairs worse than the reference did "
            f"(chosen {_signed(chosen)}, rejected {_signed(rejected)})."
        )
        advice = (
            "The margin can grow that way while images get worse: look at the samples, and try a lower learning rate, "
            "a larger beta, or an earlier checkpoint."
        )
        if found.improved:
            yield Finding("note", f"{text} Images can get worse that way; these did not. {found.sentence}")
        else:
            yield Finding("warning", f"{text} {advice}")
    if chosen <= 0 <= rejected:
        yield Finding(
            "good",
            f"The chosen images are denoised better ({_signed(chosen)}) and the rejected ones worse "
            f"({_signed(rejected)}), as intended.",
        )


def _signed(value: float) -> str:
    return with_minus(f"{value:+.2g}")


def _held_out_finding(rows: list[dict[str, Any]]) -> list[Finding]:
    """The latest held-out pair accuracy, good where its interval lies above one half."""
    measured = [row for row in rows if f"{HELD_OUT}/mean" in row]
    if not measured:
        return []
    mean, low, high = (measured[-1][f"{HELD_OUT}/{key}"] for key in ("mean", "low", "high"))
    text = f"Held-out pair accuracy at step {measured[-1]['step']}: {mean:.1%} (95 % interval {low:.1%} to {high:.1%})."
    if low > 0.5:
        return [Finding("good", f"{text} Pairs it has not seen are ordered as their labels are.")]
    return [Finding("warning", f"{text} The interval holds one half, which is chance, or lies below it.")]


def _loss_finding(loss: float, accuracy: float, initial_loss: float, contradiction: str | None) -> Finding:
    if abs(loss - initial_loss) < 1e-5:
        return Finding("warning", f"The loss is {loss:.4f}, exactly ln 2: the policy has not left the reference.")
    if loss < 0.3:
        text = f"The loss fell to {loss:.3f} with an implicit accuracy of {accuracy:.2f} on the training pairs"
        if contradiction is not None:
            return Finding("note", f"{text}: part of that is memory, but not all. {contradiction}")
        return Finding(
            "warning",
            f"{text}: they are likely being memorised. More pairs, fewer steps or a lower learning rate help.",
        )
    return Finding(
        "note",
        f"The loss of the last fifth of the run is {loss:.3f} (ln 2 is 0.693) at an implicit accuracy of "
        f"{accuracy:.2f} on the training pairs. How much the images changed is in the held-out comparison, not here.",
    )


def _mean(rows: list[dict[str, Any]], key: str) -> float:
    values = [value(row, key) for row in rows]
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.nan
