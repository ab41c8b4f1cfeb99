"""A server that answers every request with the same bytes, fast or slowly."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread


@dataclass(frozen=True)
class Sent:
    """What is sent."""

    status: int
    body: bytes
    seconds: float = 0.0
    """before it"""
    drip_seconds: float = 0.0
    """between two bytes of the body"""
    length: int | None = None
    """that is announced, if another than the body's"""


@contextmanager
def plain_server(sent: Sent) -> Iterator[str]:
    """Its address."""
    ended = Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            ended.wait(sent.seconds)
            self.send_response(sent.status)
            self.send_header("Content-Length", str(len(sent.body) if sent.length is None else sent.length))
            self.end_headers()
            for number in range(len(sent.body)):
                self.wfile.write(sent.body[number : number + 1])
                if ended.wait(sent.drip_seconds):
                    return

        def log_message(self, format: str, *args: object) -> None:
            """Silent."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            """A client that went away is what some tests are about."""

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            ended.set()
            server.shutdown()
            thread.join()
