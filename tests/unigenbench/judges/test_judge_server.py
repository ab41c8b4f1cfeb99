"""A real server process, a real model, real pixels: the shipped judge behind `transformers serve`."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest

from unigenbench.judges.base import FatalFailure, JudgeOptions, open_judge
from unigenbench.judging.run import JudgeConfig, judge_folder
from unigenbench.runs.store import open_log
from unigenbench.scoring.agree import agree

ROOT = Path(__file__).parents[3]
JUDGE = ROOT / "assets/shapes-judge"
PROMPTS = 128
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a server that has loaded the judge."""
    for package in ("fastapi", "uvicorn"):
        pytest.importorskip(package, reason=f"transformers serve needs {package}: pip install -e '.[dev]'")
    home = tmp_path_factory.mktemp("hub")
    (home / "hub").mkdir()
    port = free_port()
    command = [Path(sys.executable).parent / "transformers", "serve", JUDGE, "--host", "127.0.0.1", "--port", port]
    with (home / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [*map(str, command), "--device", "cpu", "--dtype", "float32"],
            env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(home), "OMP_NUM_THREADS": "1"},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until_healthy(url, process, home / "server.log")
        yield url
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until_healthy(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text(errors="replace")[-2000:]
        try:
            with direct.open(f"{url}/health", timeout=5) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise AssertionError(log.read_text(errors="replace")[-2000:])


class HeldOut(NamedTuple):
    """A folder with prompts.csv and two images of each prompt, one rendered and one drawn by assets/shapes-sd."""

    folder: Path
    order: Callable[..., JudgeConfig]
    """(name of the run, judge, options of the judge) -> what to judge"""

    def over_http(self, server: str) -> JudgeConfig:
        return self.order("http", f"openai:{JUDGE}", base_url=server)


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> HeldOut:
    sys.path.insert(0, str(ROOT / "scripts" / "research"))
    import train_shapes_judge

    folder = tmp_path_factory.mktemp("held_out")
    train_shapes_judge.write_held_out(folder, PROMPTS)
    return HeldOut(folder, partial(train_shapes_judge.order, folder))


def test_verdicts_over_http_agree_with_the_verifier_on_held_out_images(server, held_out):
    judged = judge_folder(held_out.over_http(server))
    verified = judge_folder(held_out.order("verifier", "shapes"))
    assert judged.error is None
    assert verified.statuses == {"ok": 2 * PROMPTS}
    assert judged.statuses["ok"] >= 0.99 * 2 * PROMPTS, judged.statuses
    logs = [open_log(held_out.folder / name) for name in ("http", "verifier")]
    for judgement in logs[0].judgements:
        assert judgement.usage.input > 40
        assert judgement.usage.output >= 8
    found = agree(logs)["pairs"][0]["criteria"]
    for criterion in ("attribute.color", "attribute.shape", "attribute.quantity"):
        entry = found[criterion]
        assert entry["kappa"] >= 0.6, (criterion, entry)
        assert entry["kappa_ci"][0] > 0.4, (criterion, entry)


def test_a_second_start_asks_nothing(server, held_out):
    first = judge_folder(held_out.over_http(server))
    again = judge_folder(held_out.over_http(server))
    assert first.error is again.error is None
    assert again.requests == 0


@pytest.mark.parametrize(
    ("model", "extra", "message"),
    [(str(JUDGE), {"do_sample": False}, r"HTTP 422.*do_sample"), ("another-model", {}, r"HTTP 400.*[Pp]inned")],
)
def test_what_the_server_refuses_is_final_and_says_why(server, model, extra, message):
    judge = open_judge(f"openai:{model}", JudgeOptions(base_url=server, extra=extra))

    async def ask() -> None:
        try:
            await judge.probe()
        finally:
            await judge.aclose()

    with pytest.raises(FatalFailure, match=message):
        asyncio.run(ask())
