"""Commands in processes forked from one that has imported the libraries, which is most of what a short one takes."""

from __future__ import annotations

import os
import runpy
import sys
import tempfile
from collections.abc import Mapping, Sequence
from multiprocessing import get_context, set_start_method
from pathlib import Path
from subprocess import CompletedProcess

_FORKS = get_context("forkserver")
_FORKS.set_forkserver_preload(["forked_imports"])


class Started:
    """`t2ialign`, `unigenbench` or `python SCRIPT` with arguments, begun in a folder and an environment."""

    def __init__(self, arguments: Sequence[str], *, cwd: Path | None = None, env: Mapping[str, str] | None = None):
        self.arguments = arguments
        self._folder = tempfile.TemporaryDirectory()
        self._said = [str(Path(self._folder.name, name)) for name in ("stdout", "stderr")]
        given = (list(arguments), str(cwd or Path.cwd()), dict(os.environ if env is None else env), self._said)
        self._process = _FORKS.Process(target=_command, args=given)
        self._process.start()

    def kill(self) -> None:
        self._process.kill()
        self._process.join()

    def wait(self, seconds: float = 550) -> CompletedProcess[str]:
        """What it said by its end, or until it was killed for want of time."""
        self._process.join(seconds)
        if self._process.is_alive():
            self.kill()
        assert self._process.exitcode is not None
        with self._folder:
            texts = [Path(name).read_text(encoding="utf-8") for name in self._said]
        return CompletedProcess(self.arguments, self._process.exitcode, *texts)


def together(*started: Started) -> None:
    """Waits until all have ended; one that fails ends the others, which may wait for it."""
    try:
        for process in started:
            done = process.wait()
            assert done.returncode == 0, f"{done.args}\n{done.stdout}\n{done.stderr}"
    finally:
        for process in started:
            process.kill()


def run(
    arguments: Sequence[str], *, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> CompletedProcess[str]:
    return Started(arguments, cwd=cwd, env=env).wait()


def _command(arguments: list[str], cwd: str, env: dict[str, str], said: list[str]) -> None:
    for number, name in enumerate(said, 1):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT), number)
    set_start_method(None, force=True)  # type: ignore[arg-type]  # as in a process of its own
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    if "HF_HOME" in env:  # read when the library was imported
        from huggingface_hub import constants

        constants.HF_HUB_CACHE = str(Path(env["HF_HOME"], "hub"))
    program, *_ = sys.argv = arguments
    if program == "python":
        sys.argv = arguments[1:]
        sys.path.insert(0, str(Path(sys.argv[0]).resolve().parent))
        runpy.run_path(sys.argv[0], run_name="__main__")
    elif program == "t2ialign":
        from t2ialign.cli.main import main

        main()
    elif program == "unigenbench":
        from unigenbench.cli.main import main as judge

        judge()
    else:
        raise SystemExit(f"no program {program}")
