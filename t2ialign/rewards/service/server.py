"""The server of `t2ialign reward serve`: rewards of any kind behind `POST /score`."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock
from typing import Any, NamedTuple

from t2ialign.errors import EnvironmentProblem, InputError, UserError
from t2ialign.rewards.base import GroupwiseReward, PairwiseReward, PointwiseReward, Reward, Score
from t2ialign.rewards.service.protocol import REWARDS, SCORE, arguments_of

logger = logging.getLogger(__name__)
READ_SECONDS = 60.0
"""A client that sends nothing for so long is let go."""
LINGER_SECONDS = 1.0
"""A refused body may pause for so long."""


class Reply(NamedTuple):
    """A status and a JSON body."""

    status: int
    body: dict[str, Any]


class RewardServer(ThreadingHTTPServer):
    """Serves rewards, each asked by one request at a time.

    Args:
        rewards: what is served.
        address: host and port; port 0 takes a free one.
        max_bytes: of a request.

    Raises:
        InputError: two rewards have one name, or the address cannot be taken.
    """

    daemon_threads = True

    def __init__(self, rewards: Sequence[Reward], address: tuple[str, int], max_bytes: int = 64 * 2**20):
        self.rewards = {reward.name: reward for reward in rewards}
        if len(self.rewards) < len(rewards):
            raise InputError(f"rewards {', '.join(reward.name for reward in rewards)}: name each once")
        self.max_bytes = max_bytes
        self._locks = {name: Lock() for name in self.rewards}
        try:
            super().__init__(address, _Handler)
        except OSError as error:
            raise InputError(f"{address[0]}:{address[1]} cannot be taken: {error.strerror or error}") from None

    @property
    def url(self) -> str:
        return f"http://{self.server_address[0]}:{self.server_address[1]}"

    def listed(self) -> Reply:
        """What is served."""
        rows = [{"name": name, "kind": reward.kind} for name, reward in self.rewards.items()]
        return Reply(200, {"rewards": rows})

    def score(self, body: Any) -> Reply:
        """The answer to a request's JSON value."""
        if not isinstance(body, dict):
            return Reply(400, {"error": "no JSON object"})
        name = body.get("reward", next(iter(self.rewards)) if len(self.rewards) == 1 else None)
        reward = self.rewards.get(name) if isinstance(name, str) else None
        if reward is None:
            return Reply(404, {"error": f"no reward {name!r}; served are {', '.join(self.rewards)}"})
        try:
            arguments = arguments_of(reward.kind, body)
        except InputError as error:
            return Reply(400, {"error": str(error)})
        try:
            with self._locks[reward.name]:
                scores = _ask(reward, arguments)
        except EnvironmentProblem as error:
            return Reply(503, {"error": str(error)})
        except UserError as error:
            return Reply(500, {"error": str(error)})
        failed = scores.count(None)
        said = {"message": f"{failed} of {len(scores)} could not be scored"} if failed else {}
        return Reply(200, {"scores": scores, **said})

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away."""
        logger.info("%s: connection lost", client_address)


def _ask(reward: Reward, arguments: list[Any]) -> list[Score]:
    assert isinstance(reward, (PointwiseReward, PairwiseReward, GroupwiseReward))
    return reward(*arguments)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = READ_SECONDS

    @property
    def _served(self) -> RewardServer:
        assert isinstance(self.server, RewardServer)
        return self.server

    def do_GET(self) -> None:
        self._answer(self._served.listed() if self.path == REWARDS else self._unknown())

    def do_POST(self) -> None:
        problem = self._refused()
        if problem is not None:
            self.close_connection = True
            self._answer(problem)
            return self._discard()
        content = self.rfile.read(int(self.headers["Content-Length"]))
        try:
            body = json.loads(content)
        except (ValueError, RecursionError):
            return self._answer(Reply(400, {"error": "the body is not JSON"}))
        return self._answer(self._served.score(body))

    def _discard(self) -> None:
        """Lets a refused body go by: a connection closed with bytes unread is reset, and the answer lost with it."""
        self.connection.shutdown(socket.SHUT_WR)
        self.connection.settimeout(LINGER_SECONDS)
        left = self._served.max_bytes
        with contextlib.suppress(OSError):  # who sends no end, or is gone, has had the answer
            while left > 0 and (part := self.rfile.read1(min(left, 1 << 16))):
                left -= len(part)

    def _refused(self) -> Reply | None:
        """What is said before the body is read."""
        length = self.headers.get("Content-Length", "")
        if self.path != SCORE:
            return self._unknown()
        # another type could be sent by any web page that a user of this machine opens
        if self.headers.get("Content-Type", "").partition(";")[0].strip().lower() != "application/json":
            return Reply(415, {"error": "send Content-Type: application/json"})
        if not length.isascii() or not length.isdigit():
            return Reply(411, {"error": "send Content-Length"})
        if len(length) > 15 or int(length) > self._served.max_bytes:
            return Reply(413, {"error": f"more than {self._served.max_bytes} bytes; send fewer images at once"})
        return None

    def _unknown(self) -> Reply:
        return Reply(404, {"error": f"no {self.path[:100]}; ask POST {SCORE} or GET {REWARDS}"})

    def _answer(self, reply: Reply) -> None:
        content = json.dumps(reply.body).encode()
        self.send_response(reply.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        logger.info("%s %s", self.address_string(), format % args)
