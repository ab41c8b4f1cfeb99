"""A judge's server that does what it is told to: a thread per connection, faults on request, and it counts."""

from __future__ import annotations

import hashlib
import json
import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from unigenbench.judges.reply_modes import PROBE_TEXT


@dataclass(frozen=True)
class Call:
    """One request, as the server saw it."""

    number: int
    """0-based, of all requests"""
    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    text: str
    """text part of the user's message"""
    image: str
    """SHA-256 of the data URL"""
    is_probe: bool
    at: float
    """time.monotonic()"""

    @property
    def identity(self) -> str:
        """What a judgement is: this image with this text."""
        return hashlib.sha256((self.text + self.image).encode()).hexdigest()


@dataclass(frozen=True)
class Answer:
    """A reply, or what goes wrong instead of one."""

    text: str | None = "<analysis>['seen']</analysis><score>[1]</score>"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    finish_reason: str = "stop"
    refusal: str | None = None
    usage: dict[str, Any] | None = field(default_factory=lambda: {"prompt_tokens": 1000, "completion_tokens": 100})
    raw: bytes | None = None
    """the whole body, instead of a completion"""
    seconds: float = 0.0
    """before the answer, beside the stub's own latency"""
    cut: bool = False
    """the connection is reset instead of answered"""
    drip_seconds: float = 0.0
    """between two bytes of the body"""
    top_logprobs: list[tuple[str, float]] | None = None


def scores(verdicts: list[int]) -> Answer:
    """A well-formed reply."""
    analysis = json.dumps(["seen"] * len(verdicts))
    return Answer(f"<analysis>{analysis}</analysis>\n<score>{json.dumps(verdicts)}</score>")


def error(status: int, message: str, **headers: str) -> Answer:
    """An error as OpenAI words it."""
    body = json.dumps({"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None}})
    return Answer(status=status, raw=body.encode(), headers={k.replace("_", "-"): v for k, v in headers.items()})


class Stub:
    """Serves POST …/chat/completions on 127.0.0.1 and keeps what it saw."""

    def __init__(self, answer: Callable[[Call], Answer], latency: float = 0.0, port: int = 0):
        self.answer = answer
        self.latency = latency
        self.calls: list[Call] = []
        self.answered: Counter[str] = Counter()
        """identities whose reply went out whole"""
        self.in_flight = self.most_in_flight = 0
        self.released = threading.Event()
        """set at the end, so that hanging answers end too"""
        self._lock = threading.Lock()
        self._server = _Server(self, port)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        return self._server.server_address[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def judged(self) -> list[Call]:
        """Calls that were about an image of the run."""
        return [call for call in self.calls if not call.is_probe]

    def close(self) -> None:
        """Stops listening and cuts every connection, as a server does that dies."""
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
        self._server.cut_all()
        self._thread.join()

    def enter(self, path: str, headers: dict[str, str], body: dict[str, Any]) -> Call:
        parts = body["messages"][-1]["content"]
        parts = [{"type": "text", "text": parts}] if isinstance(parts, str) else parts
        text = "".join(part.get("text", "") for part in parts)
        url = "".join(part["image_url"]["url"] for part in parts if part["type"] == "image_url")
        with self._lock:
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
            digest = hashlib.sha256(url.encode()).hexdigest()
            is_probe = text == PROBE_TEXT
            call = Call(len(self.calls), path, headers, body, text, digest, is_probe, time.monotonic())
            self.calls.append(call)
        return call

    def leave(self, call: Call, whole: bool) -> None:
        with self._lock:
            self.in_flight -= 1
            if whole and not call.is_probe:
                self.answered[call.identity] += 1


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, stub: Stub, port: int):
        self.stub = stub
        self.connections: set[socket.socket] = set()
        super().__init__(("127.0.0.1", port), _Handler)

    def handle_error(self, request, client_address) -> None:
        """A client that went away is what many tests are about."""

    def cut_all(self) -> None:
        for connection in list(self.connections):
            reset(connection)


def reset(connection: socket.socket) -> None:
    """Ends a connection with a reset instead of a goodbye."""
    try:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # it is gone already


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.server.connections.add(self.connection)

    def finish(self) -> None:
        self.server.connections.discard(self.connection)
        super().finish()

    def log_message(self, format: str, *args: Any) -> None:
        """Silent."""

    def do_POST(self) -> None:
        stub = self.server.stub
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        call = stub.enter(self.path, {k.lower(): v for k, v in self.headers.items()}, body)
        whole = False
        try:
            answer = stub.answer(call)
            stub.released.wait(stub.latency + answer.seconds)
            if answer.cut or stub.released.is_set():
                self.close_connection = True
                reset(self.connection)
                return
            self._send(answer, body)
            whole = answer.status == 200
        finally:
            stub.leave(call, whole)

    def _send(self, answer: Answer, body: dict[str, Any]) -> None:
        content = answer.raw if answer.raw is not None else json.dumps(completion(answer, body)).encode()
        self.send_response(answer.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.end_headers()
        for piece in [content[k : k + 1] for k in range(len(content))] if answer.drip_seconds else [content]:
            self.wfile.write(piece)
            self.wfile.flush()
            if self.server.stub.released.wait(answer.drip_seconds):
                return


def completion(answer: Answer, body: dict[str, Any]) -> dict[str, Any]:
    """The JSON of a chat completion."""
    choice: dict[str, Any] = {
        "index": 0,
        "finish_reason": answer.finish_reason,
        "message": {"role": "assistant", "content": answer.text, "refusal": answer.refusal},
    }
    if answer.top_logprobs is not None:
        top = [{"token": token, "logprob": value, "bytes": None} for token, value in answer.top_logprobs]
        choice["logprobs"] = {"content": [{**top[0], "top_logprobs": top}]}
    reply = {
        "id": "c",
        "object": "chat.completion",
        "created": 0,
        "model": f"{body['model']}@main",
        "choices": [choice],
    }
    return reply | ({"usage": answer.usage} if answer.usage is not None else {})


@contextmanager
def serve(answer: Callable[[Call], Answer], latency: float = 0.0, port: int = 0) -> Iterator[Stub]:
    """A stub that is closed at the end."""
    stub = Stub(answer, latency, port)
    try:
        yield stub
    finally:
        stub.close()


def scene(call: Call) -> int:
    """Number of the prompt that a call is about; -1 for a probe."""
    found = re.search(r"scene (\d+)", call.text)
    return int(found[1]) if found else -1


def verdicts_of(call: Call) -> list[int]:
    """Made up, but the same whenever the same image is judged."""
    return [int(call.image[0], 16) % 2, int(call.image[1], 16) % 2]


def fine(call: Call) -> Answer:
    return scores(verdicts_of(call))
