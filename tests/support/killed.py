"""Runs `t2ialign train` again and again in forked children that die at given moments.

`python killed.py CONFIG MOMENT... [CONFIG MOMENT...]`, where a config ends in .yaml and a moment is what happens, a
colon and when:
    step:3      dies in step 3, after its backward pass and before the weights change
    after:3     dies after step 3 changed the weights, before that is recorded
    write:1     dies in the first file of a checkpoint, half of it written
    rename:1    dies with the first checkpoint complete but for its name
    cache:2     dies in the second shard of the cache, half of it written
    result:1    dies while the LoRA is written
    time:0.7    is killed 0.7 seconds after its config was read
    sample:3    dies before the third batch of images is made
    judge:3     dies before the third batch of verdicts is kept
    stop:3      gets Ctrl-C in step 3
    stop_sample:3  gets Ctrl-C while the third batch of images is made
    stop_cache:2  gets Ctrl-C while the second shard of the cache is encoded
    finish      is left alone
With a plus and seconds behind the number, as sample:3+0.1, it dies so much later, wherever it is then.
One line a child: the config, the moment, its exit code (-9 for killed). What children print goes to CONFIG.log.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from t2ialign.cli import main as cli
from t2ialign.data.encoding import shards
from t2ialign.sampling import sampler
from t2ialign.storage import journal
from t2ialign.training import checkpoint, engine, export, optimization
from t2ialign.training import train as training


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_later(seconds: float) -> Callable[[], None]:
    return (lambda: threading.Timer(seconds, die).start()) if seconds else die


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def before(owner: Any, name: str, when: Callable[..., bool], what: Callable[[], None]) -> None:
    """Calls `what` before a call of `owner.name` for which `when` holds."""
    real = getattr(owner, name)

    def wrapped(*args: Any, **settings: Any) -> Any:
        if when(*args):
            what()
        return real(*args, **settings)

    setattr(owner, name, wrapped)


def nth(count: int) -> Callable[..., bool]:
    calls = [0]

    def now(*_: Any) -> bool:
        calls[0] += 1
        return calls[0] == count

    return now


def half_written(owner: Any, count: int) -> None:
    """Dies in the count-th file that `owner` saves, half of it on disk."""
    real, now = owner.save_file, nth(count)

    def save_file(tensors: Any, path: Path, **settings: Any) -> None:
        real(tensors, path, **settings)
        if now():
            os.truncate(path, path.stat().st_size // 2)
            die()

    owner.save_file = save_file


def arm(kind: str, number: int, seconds: float) -> None:
    end = die_later(seconds)
    if kind == "step":
        before(engine.Engine, "_finish", lambda made, _: made.step == number - 1, end)
    elif kind == "after":
        before(optimization.LossScale, "succeeded", nth(number), end)
    elif kind == "write":
        half_written(checkpoint, number)
    elif kind == "cache":
        half_written(shards, number)
    elif kind == "rename":
        before(Path, "rename", nth(number), end)
    elif kind == "result":
        before(export, "save_lora", nth(number), die)
    elif kind in ("sample", "stop_sample"):
        before(sampler.Sampler, "sample", nth(number), end if kind == "sample" else interrupt)
    elif kind == "judge":
        before(journal.Journal, "append", nth(number), end)
    elif kind == "stop":
        before(engine.Engine, "_finish", lambda made, _: made.step == number - 1, interrupt)
    elif kind == "stop_cache":
        before(shards.Shards, "write", nth(number), interrupt)


def child(config: str, moment: str, started: int) -> None:
    log = os.open(f"{config}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    kind, _, number = moment.partition(":")
    if kind == "time":
        before(training, "train", nth(1), lambda: os.close(started))
    elif kind != "finish":
        count, _, seconds = number.partition("+")
        arm(kind, int(count), float(seconds or 0))
    sys.argv = ["t2ialign", "train", config]
    cli.main()


def main(arguments: list[str], attempt: Callable[[str, str], int]) -> None:
    """Makes each attempt in turn, and prints its line."""
    torch.set_num_threads(1)
    shards.ROWS = 2  # of this process alone, which is the script's
    config = ""
    for argument in arguments:
        if argument.endswith(".yaml"):
            config = argument
            continue
        print(Path(config).stem, argument, attempt(config, argument), flush=True)


def fork(work: Callable[[], None]) -> int:
    """The number of a process that does some work and exits as it says."""
    process = os.fork()
    if process == 0:
        code = 1
        try:
            work()
            code = 0
        except SystemExit as leaving:
            code = leaving.code if isinstance(leaving.code, int) else 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            sys.stdout.flush()
            os._exit(code)
    return process


def attempt(config: str, moment: str) -> int:
    """The exit code of one start."""
    read, write = os.pipe()
    process = fork(lambda: child(config, moment, write))
    os.close(write)
    if moment.startswith("time:"):
        os.read(read, 1)  # ends when the child closes its side
        time.sleep(float(moment.partition(":")[2]))
        os.kill(process, signal.SIGKILL)
    os.close(read)
    _, status = os.waitpid(process, 0)
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    main(sys.argv[1:], attempt)
