"""As `killed.py`, but each start is a run of two processes over gloo; a moment is followed by @ and the one that dies.

The first process to die takes the other with it, as a launcher would; the line has the code of the first.
"""

from __future__ import annotations

import os
import signal
import socket
import sys

from killed import child, fork, main

WORLD = 2


def free_port() -> int:
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        return asked.getsockname()[1]


def attempt(config: str, moment: str) -> int:
    """The exit code of the process that ends first with an error, or 0."""
    what, _, who = moment.partition("@")
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(WORLD)}
    place |= {"GLOO_SOCKET_IFNAME": "lo", "ACCELERATE_USE_CPU": "true"}

    def start(rank: int) -> int:
        def work() -> None:
            os.environ.update(place, RANK=str(rank), LOCAL_RANK=str(rank))
            child(config, what if str(rank) == who else "finish", -1)

        return fork(work)

    alive = {start(rank) for rank in range(WORLD)}
    found = 0
    while alive:
        process, status = os.wait()
        alive.remove(process)
        code = os.waitstatus_to_exitcode(status)
        if code != 0 and found == 0:
            found = code
            for other in alive:
                os.kill(other, signal.SIGKILL)
    return found


if __name__ == "__main__":
    main(sys.argv[1:], attempt)
