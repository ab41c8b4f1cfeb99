"""Online training from a model on a server, over a real socket."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import stub
from online_runs import config_of, rows
from rich.console import Console
from vlm_server import digits

from t2ialign.training import online
from t2ialign.training.train import train


def test_a_judge_that_dies_and_comes_back_is_asked_for_the_rest_alone(
    sd15_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def mortal(call: stub.Call) -> stub.Answer:
        return digits(0.8) if len(first.judged) <= 3 else stub.Answer(cut=True)

    first = stub.Stub(mortal)
    servers = [first]

    def restart(_: float) -> None:
        if len(servers) == 1:
            first.close()
            servers.append(stub.Stub(lambda _: digits(0.8), port=first.port))

    monkeypatch.setattr(online, "sleep", restart)
    judge = f"{{name: vlm.prefers, model: m, url: '{first.url}', tries: 1, concurrency: 1, wait_seconds: 0.01}}"
    config = config_of(tmp_path, sd15_folder, f"rewards=[{judge}]", "train.steps=1")
    try:
        train(config, console=Console(quiet=True))
    finally:
        for server in servers:
            server.close()
    assert "reward 'vlm.prefers': no server answers" in caplog.text
    assert "asking again in 10 s" in caplog.text
    entries = [json.loads(line) for line in (config.run_dir / "verdicts.jsonl").read_text().splitlines()]
    assert [entry["score"] for entry in entries] == pytest.approx([0.8] * 6)
    answered = first.answered + servers[1].answered
    assert sum(answered.values()) == len(answered) == 6  # none twice
    assert [row["first_shown_wins/vlm.prefers"] for row in rows(config) if "iteration" in row] == [1.0]
