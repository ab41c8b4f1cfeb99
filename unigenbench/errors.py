"""Errors that a user can act on, with the exit code of each.

0 done · 1 done, but below a stated quality · 2 input · 3 environment or server · 4 data · 75 try again later ·
130 interrupted with state saved. Everything else is a defect of ours and shows a traceback.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Sequence
from itertools import islice

_FILE_PROBLEMS = {
    errno.EACCES: "no permission; change the rights, or use another place",
    errno.EPERM: "no permission; change the rights, or use another place",
    errno.EROFS: "the file system is read-only; use another place",
    errno.EEXIST: "a file stands where a folder is needed; remove it, or use another name",
    errno.ENOTDIR: "a file stands where a folder is needed; remove it, or use another name",
    errno.EISDIR: "a folder stands where a file is needed; remove it, or use another name",
    errno.ENAMETOOLONG: "the name is too long for the file system",
    errno.ENOENT: "no such file or folder",
}
_FULL = (errno.ENOSPC, errno.EDQUOT)
_NO_RIGHTS = (errno.EACCES, errno.EPERM, errno.EROFS)


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


def file_problem(error: OSError) -> BenchError | None:
    """What the file system refused, as an error that the user can act on; None where no file is concerned."""
    if error.errno in _FULL:
        place = "" if error.filename is None else f"{_shown(error.filename)}: "
        return TryAgainError(f"{place}the disk is full; free some space and run the same command again")
    if error.filename is None:
        return None
    kind = ServerError if error.errno in _NO_RIGHTS else InputError
    return kind(f"{_shown(error.filename)}: {_FILE_PROBLEMS.get(error.errno or 0, error.strerror)}")


def _shown(filename: object, longest: int = 200) -> str:
    """A path as messages show it: what was given as a path may be the content of a file."""
    text = str(filename)
    return text if len(text) <= longest else f"{text[:longest]}…"
