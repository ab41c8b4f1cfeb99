"""Errors that a user can act on, with the exit code of each.

0 done · 1 done, but below a stated quality · 2 input · 3 environment or server · 4 data · 75 try again later ·
130 interrupted with state saved. Everything else is a defect of ours and shows a traceback.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice


class BenchError(Exception):
    """Something outside the program is wrong; the message names it, says what was seen and what to do."""

    exit_code = 2


class InputError(BenchError):
    """A command, a prompt file or a path is wrong."""

    exit_code = 2


class ServerError(BenchError):
    """A judge cannot be reached, refuses to serve, or the machine is not as needed."""

    exit_code = 3


class DataError(BenchError):
    """Images or a run folder are missing, damaged or of no use."""

    exit_code = 4


class TryAgainError(BenchError):
    """What stopped the run passes by itself or by freeing space; the same command goes on from the saved state."""

    exit_code = 75


class Interrupted(BenchError):
    """The user stopped the run; its state is saved."""

    exit_code = 130


SHOWN = 20
"""Things that a message lists before it only counts."""


def listed(items: Sequence[object]) -> str:
    """The first of some things, separated by commas, and how many more there are."""
    return listed_of(items, len(items))


def listed_of(items: Iterable[object], count: int) -> str:
    """`listed` of `count` things, of which no more are asked for than are shown."""
    shown = ", ".join(map(str, islice(items, SHOWN)))
    return shown if count <= SHOWN else f"{shown} and {count - SHOWN} more"
