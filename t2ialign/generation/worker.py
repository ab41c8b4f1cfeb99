"""A second process that works beside this one, for machines with a core to spare."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from t2ialign.errors import EnvironmentProblem


class WorkerProcess:
    """Runs one task at a time in a process of its own, which ends with this one, however this one ends.

    Use as a context manager; leaving it stops the process, even within a task.
    """

    def __enter__(self) -> WorkerProcess:
        context = multiprocessing.get_context("spawn")  # fork is not safe once torch has started threads
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._connection.close()  # a task that ends by itself when it is asked to, as training does, is the last
        self._process.join()

    def start(self, function: Callable[..., None], *arguments: Any) -> None:
        """Starts `function(*arguments)`, both picklable; `finish` says how it went."""
        self._connection.send((function, arguments))

    def is_done(self, timeout_seconds: float) -> bool:
        """Whether the task has ended, waiting at most this long."""
        return self._connection.poll(timeout_seconds)

    def finish(self) -> None:
        """Waits for the task, and raises what it raised.

        Raises:
            EnvironmentProblem: the process died, for example for want of memory.
        """
        try:
            error = self._connection.recv()
        except EOFError:
            self._process.join()
            raise EnvironmentProblem(
                f"the second process died (exit code {self._process.exitcode}; -9 is often a want of memory). "
                "The same command goes on from what is saved."
            ) from None
        if error is not None:
            raise error


def _serve(connection: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches both; the first process decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the first process wants nothing more
        while True:
            function, arguments = connection.recv()
            connection.send(_failure(function, arguments))


def _failure(function: Callable[..., None], arguments: tuple[Any, ...]) -> Exception | None:
    """Runs a task; what it raised."""
    try:
        function(*arguments)
    except Exception as error:
        return error
    return None


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
