"""What the calls of a run folder took, over all its starts: a line before each call and a line after it.

A call without its second line was in flight when the process was killed. It counts as a request, with the tokens that
were expected of it.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from unigenbench.errors import DataError
from unigenbench.runs.files import LineLog
from unigenbench.types import Usage

LEDGER = "calls.jsonl"


class OpenCall(NamedTuple):
    """A call in flight."""

    requests: int
    """that it takes, at most"""
    expected: Usage


class Spending(NamedTuple):
    """What calls took."""

    requests: int = 0
    usage: Usage = Usage()
    """as the server counted"""
    expected: Usage = Usage()
    """of the same calls, as expected beforehand"""
    uncounted: int = 0
    """requests whose tokens the server did not count"""
    estimated: Usage = Usage()
    """of those, as expected beforehand"""

    def add(self, call: OpenCall, requests: int, usage: Usage | None) -> Spending:
        """With one more call, whose usage is None where the server did not count."""
        total = self._replace(requests=self.requests + requests)
        if usage is None:
            return total._replace(uncounted=self.uncounted + requests, estimated=self.estimated + call.expected)
        expected = self.expected + call.expected if usage.input else self.expected
        return total._replace(usage=self.usage + usage, expected=expected)


class Ledger:
    """The file of a run folder's calls, open for adding."""

    def __init__(self, path: Path, before: Spending):
        """Reads the file, or begins one.

        Args:
            before: what the judgements of a folder without this file took.

        Raises:
            DataError: a line is damaged.
            TryAgainError: the disk is full.
        """
        self.open_calls: dict[int, OpenCall] = {}
        """in flight, by number"""
        self._log = LineLog(path)
        try:
            self.spent, self._next = _read(path)
            if self._next == 0 and before.requests:
                self.end(self.begin(before.requests, Usage()), before.requests, before.usage)
        except BaseException:
            self._log.close()
            raise

    def begin(self, requests: int, expected: Usage) -> int:
        """Notes a call before it is made; its number.

        Raises:
            TryAgainError: the disk is full.
        """
        number = self._next
        self._write(call=number, requests=requests, expected=asdict(expected))
        self._next += 1
        self.open_calls[number] = OpenCall(requests, expected)
        return number

    def end(self, number: int, requests: int, usage: Usage | None) -> None:
        """Notes what a call took; usage is None where the server did not count.

        Raises:
            TryAgainError: the disk is full.
        """
        self.spent = self.spent.add(self.open_calls.pop(number), requests, usage)
        self._write(call=number, requests=requests, usage=None if usage is None else asdict(usage))

    def close(self) -> None:
        """Forces what was written to disk."""
        self._log.close()

    def _write(self, **fields: Any) -> None:
        self._log.append(json.dumps(fields))


def _read(path: Path) -> tuple[Spending, int]:
    """(what all calls so far took, number of the next call)."""
    spent, open_calls, following = Spending(), dict[int, OpenCall](), 0
    with path.open("rb") as file:
        for line_number, line in enumerate(file, 1):
            try:
                fields = json.loads(line)
                number, requests = int(fields["call"]), int(fields["requests"])
                if "expected" in fields:
                    open_calls[number] = OpenCall(requests, Usage(**fields["expected"]))
                    following = max(following, number + 1)
                else:
                    usage = None if fields["usage"] is None else Usage(**fields["usage"])
                    spent = spent.add(open_calls.pop(number), requests, usage)
            except (ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
                raise DataError(
                    f"{path}:{line_number}: damaged ({error!r}); delete the file: the judgements tell what they took"
                ) from error
    for call in open_calls.values():
        spent = spent.add(call, call.requests, None)
    return spent, following
