"""A folder's lock: one process at a time, freed by any end of it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from t2ialign.errors import InputError
from t2ialign.storage.lock import lock_folder

HOLD = """
import multiprocessing, sys, time
from pathlib import Path
from t2ialign.storage.lock import lock_folder

def idle():
    print("held", flush=True)
    time.sleep(60)

if __name__ == "__main__":
    with lock_folder(Path(sys.argv[1])):
        if sys.argv[2] == "alone":
            idle()
        else:
            multiprocessing.get_context(sys.argv[2]).Process(target=idle).start()
            time.sleep(60)
"""


@contextmanager
def holder(script: Path, folder: Path, child: str) -> Iterator[subprocess.Popen]:
    """A process of its own group that holds the folder; `child` says how it starts a worker, or that it has none."""
    script.write_text(HOLD)
    arguments = [sys.executable, str(script), str(folder), child]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, start_new_session=True, env=environment) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"held\n"
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def test_a_folder_held_elsewhere_is_refused_and_free_after_a_kill(tmp_path: Path):
    folder = tmp_path / "run"
    with holder(tmp_path / "hold.py", folder, "alone") as process:
        with pytest.raises(InputError, match=r"run: in use$"), lock_folder(folder, busy="in use"):
            pass
        process.kill()
        process.wait()
        with lock_folder(folder, busy="in use"):
            pass


@pytest.mark.parametrize("child", [m for m in multiprocessing.get_all_start_methods() if m != "forkserver"])
def test_a_worker_that_outlives_its_killed_process_holds_nothing(tmp_path: Path, child: str):
    with holder(tmp_path / "hold.py", tmp_path / "run", child) as process:
        process.kill()
        process.wait()
        with lock_folder(tmp_path / "run", busy="in use"):
            pass


def test_the_lock_is_free_after_an_error_and_its_file_stays(tmp_path: Path):
    with pytest.raises(ValueError, match="within"), lock_folder(tmp_path, busy="in use"):
        raise ValueError("within")
    with lock_folder(tmp_path, busy="in use"):
        assert (tmp_path / ".lock").is_file()
