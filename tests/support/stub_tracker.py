"""A tracker as accelerate has them, which keeps what it is given."""

from __future__ import annotations

from typing import Any, ClassVar

from accelerate.tracking import GeneralTracker


class Recorder(GeneralTracker):
    """Keeps every call in `Recorder.calls`; fails where its section says so."""

    name = "recorder"
    requires_logging_directory = True
    calls: ClassVar[list[tuple[str, Any]]] = []

    def __init__(self, run_name: str, logging_dir: str, fails_at: int | None = None, broken: bool = False):
        super().__init__()
        self.calls.append(("made", (run_name, logging_dir)))
        self._fails_at, self._broken = fails_at, broken

    @property
    def tracker(self) -> list[tuple[str, Any]]:
        return self.calls

    def start(self) -> None:
        if self._broken:
            raise ValueError("not logged in")
        self.calls.append(("start", None))

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.calls.append(("config", values))

    def log(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        if step == self._fails_at:
            raise ConnectionError("gone")
        self.calls.append(("log", (step, values)))

    def log_images(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        self.calls.append(("images", (step, values)))

    def finish(self) -> None:
        self.calls.append(("finish", None))
