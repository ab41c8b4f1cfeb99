"""A tiny training run under several names: whole, or killed again and again by `killed.py` and `killed_ranks.py`."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import forked
import torch
from toys import pair_folder, saved_lora, write_config

from t2ialign.training.trackers import read_metrics


class Job:
    """The tiny config with more steps, under several names: run whole, or killed as often as a test likes."""

    def __init__(self, folder: Path, model: Path, *, steps: int = 8, more: dict[str, str] | None = None):
        self.folder = folder
        self.model = model
        self.pairs = pair_folder(folder / "pairs", 6)
        self.steps = steps
        self.more = more or {}

    def config(self, name: str, workers: int) -> Path:
        run_dir = self.folder / name
        path = write_config(self.folder / f"{name}.yaml", model=self.model, pairs=self.pairs, run_dir=run_dir)
        text = path.read_text().replace("steps: 3, ", f"steps: {self.steps}, loader_workers: {workers}, ")
        for old, new in self.more.items():
            assert old in text
            text = text.replace(old, new)
        path.write_text(text)
        return path

    def run(
        self, moments: dict[str, list[str]], *, workers: int = 0, script: str = "killed.py"
    ) -> dict[str, list[int]]:
        """The exit codes of each name's starts by a script of this folder."""
        arguments = [str(part) for name, when in moments.items() for part in (self.config(name, workers), *when)]
        program = str(Path(__file__).parent / script)
        done = forked.run(["python", program, *arguments], env={**os.environ, "OMP_NUM_THREADS": "1"})
        assert done.returncode == 0, done.stderr
        codes: dict[str, list[int]] = {name: [] for name in moments}
        for line in done.stdout.splitlines():
            name, _, code = line.split()
            codes[name].append(int(code))
        return codes

    def log(self, name: str) -> str:
        return " ".join((self.folder / f"{name}.yaml.log").read_text().split())

    def rows(self, name: str) -> list[dict]:
        rows = read_metrics(self.folder / name / "metrics.jsonl")
        return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]

    def assert_same(self, name: str) -> None:
        """`name` left what the uninterrupted run left."""
        assert [row["step"] for row in self.rows(name)] == list(range(1, self.steps + 1))
        assert self.rows(name) == self.rows("whole")  # floats written as text: equal to the last bit
        found, expected = saved_lora(self.folder / name), saved_lora(self.folder / "whole")
        assert all(torch.equal(found[key], tensor) for key, tensor in expected.items())
        assert not list((self.folder / name).rglob(".*.partial"))


def launched(config: Path, *overrides: str, world: int) -> None:
    """Runs `t2ialign train` in that many processes over gloo."""
    ranks("t2ialign", "train", str(config), *overrides, world=world)


def ranks(*program: str, world: int) -> None:
    """Runs a program in that many processes over gloo, each with what a launcher says in the environment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    told = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "GLOO_SOCKET_IFNAME": "lo"}
    told |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}
    places = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(world)]
    forked.together(*(forked.Started(program, env=told | place) for place in places))


def torchrun(*program: str, world: int) -> str:
    """What a program says under torch's launcher, with that many processes over gloo."""
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={world}", "--standalone"]
    done = subprocess.run(
        [*command, *program],
        env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "GLOO_SOCKET_IFNAME": "lo"},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def two_ranks(model: Path, out: Path, *shard: str) -> list[dict[str, Any]]:
    """What each process of `ranks.py` found in one optimizer step."""
    script = str(Path(__file__).parent / "ranks.py")
    out.mkdir(exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    programs = [["python", script, str(model), str(out), str(rank), "2", *shard] for rank in range(2)]
    forked.together(*(forked.Started(program, env=environment) for program in programs))
    return [torch.load(out / f"rank{rank}.pt") for rank in range(2)]
