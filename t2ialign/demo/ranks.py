"""Two processes of this machine that train one model together, as a launcher would start them."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from rich.console import Console

from t2ialign.config.reader import parse
from t2ialign.errors import PeerEndedError
from t2ialign.generation.worker import WorkerProcess
from t2ialign.training.train import train

WORLD = 2
LAST_WORDS_SECONDS = 60.0


def train_together(content: dict[str, Any], threads: int) -> None:
    """Trains what a config's content says in two processes, each with half of every batch; waits for both.

    Args:
        threads: of each process.

    Raises:
        UserError: as `train`; of the process that failed by itself, if the other one failed for want of it. Both are
            stopped then.
    """
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "WORLD_SIZE": str(WORLD)}
    loopback = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), None)
    if loopback is not None:  # else the name of this machine would have to resolve, which offline it often does not
        place["GLOO_SOCKET_IFNAME"] = loopback
    with WorkerProcess() as first, WorkerProcess() as second:
        for rank, worker in enumerate((first, second)):
            worker.start(_train_rank, content, {**place, "RANK": str(rank), "LOCAL_RANK": str(rank)}, threads)
        for worker in _as_they_end([first, second]):
            try:
                worker.finish()
            except PeerEndedError:  # the connection may be lost before the error of the process that lost it is here
                other = second if worker is first else first
                if other.is_done(LAST_WORDS_SECONDS):
                    other.finish()
                raise


def _as_they_end(workers: list[WorkerProcess]) -> Iterator[WorkerProcess]:
    while workers:
        for worker in [one for one in workers if one.is_done(0.2)]:
            yield worker
            workers.remove(worker)


def _train_rank(content: dict[str, Any], place: dict[str, str], threads: int) -> None:
    os.environ |= place
    os.environ["OMP_NUM_THREADS"] = str(threads)
    torch.set_num_threads(threads)
    try:
        train(parse(content), console=None if place["RANK"] == "0" else Console(quiet=True))
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()  # the other process, which may wait for this one, sees that it is gone


def _free_port() -> int:
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        return asked.getsockname()[1]
