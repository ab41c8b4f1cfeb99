"""Names and places that a command cannot use end in one message, and are printed as they stand."""

from __future__ import annotations

import builtins
import errno
import io
import json
import os
import signal
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from toys import pair_folder, write_config

from t2ialign.cli import main as cli
from t2ialign.progress import plain_console
from unigenbench.errors import BenchError, file_problem

ODD = "[bold]a[/bold] :smile: [/x]"
"""A name that is markup, an emoji code and a closing tag without an opening one."""
COMMANDS = {
    "train": ("train", "x.yaml"),
    "generate": ("generate", "--model", "model", "--prompt", "a cat", "--steps", "1", "--out", "made"),
    "build": ("data", "build", "--images", "images", "--reward", "brightness", "--out", "made"),
    "relabel": ("data", "relabel", "pairs/pairs.csv", "--reward", "brightness", "--out", "made"),
    "perturb": ("data", "perturb", "pairs/pairs.csv", "--by", "english", "--out", "made"),
    "score": ("score", "images", "--reward", "brightness"),
    "report": ("report", "run"),
    "demo": ("demo", "--run-dir", "made"),
}
"""Every command that writes."""
CODES = {errno.EROFS: 3, errno.EACCES: 3, errno.ENOSPC: 75}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sd15_folder: Path) -> Path:
    """What the commands read: a model, pairs, images of prompts, a run with metrics."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    (tmp_path / "model").symlink_to(sd15_folder)
    pair_folder(tmp_path / "pairs", 3)
    write_config(tmp_path / "x.yaml", model=Path("model"), pairs=Path("pairs/pairs.csv"), run_dir=Path("made"))
    images = tmp_path / "images"
    images.mkdir()
    for index in range(4):
        Image.new("RGB", (8, 8), (60 * index,) * 3).save(images / f"{index}.png")
        (images / f"{index}.txt").write_text(f"a cat {index % 2}")
    (tmp_path / "run").mkdir()
    rows = ({"step": step, "loss": 0.5, "lr": 1.0} for step in (1, 2))
    (tmp_path / "run" / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, *arguments: str) -> tuple[int, str]:
    """(exit code, everything printed) of `t2ialign ARGUMENTS`."""
    monkeypatch.setattr(sys, "argv", ["t2ialign", *arguments])
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        cli.main()
    printed = capsys.readouterr()
    return (left.value.code if isinstance(left.value.code, int) else 0), printed.out + printed.err


def refuse_writes(monkeypatch: pytest.MonkeyPatch, folder: Path, number: int) -> None:
    """Makes every write below a folder fail with this error, as it does for a user without rights (root has them)."""
    opened, made, low = io.open, os.mkdir, os.open

    def check(path: object) -> None:
        if isinstance(path, str | os.PathLike) and Path(path).absolute().is_relative_to(folder):
            raise OSError(number, os.strerror(number), str(path))

    def open_file(path, mode="r", *arguments, **options):
        if set(mode) & set("wax+"):
            check(path)
        return opened(path, mode, *arguments, **options)

    def make_folder(path, *arguments, **options):
        if not Path(path).exists():
            check(path)
        return made(path, *arguments, **options)

    def open_descriptor(path, flags, *arguments, **options):
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            check(path)
        return low(path, flags, *arguments, **options)

    for module in (builtins, io):
        monkeypatch.setattr(module, "open", open_file)
    monkeypatch.setattr(os, "mkdir", make_folder)
    monkeypatch.setattr(os, "open", open_descriptor)


@pytest.mark.parametrize("number", CODES, ids=errno.errorcode.get)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_place_that_cannot_be_written_is_one_message(
    command: str, number: int, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    with monkeypatch.context() as patch:
        refuse_writes(patch, folder, number)
        code, printed = run(monkeypatch, capsys, *COMMANDS[command])
    assert code == CODES[number], printed
    assert "error: " in printed
    assert "Traceback" not in printed


def test_a_file_in_the_way_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    code, printed = run(monkeypatch, capsys, "report", "run", "--out", "x.yaml/page.html")
    assert code == 2
    assert "x.yaml" in printed
    assert "a file stands where a folder is needed" in printed


def test_names_are_printed_as_they_stand(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    odd = folder / ODD.replace("/", "|")
    (folder / "run").rename(odd)
    _, printed = run(monkeypatch, capsys, "report", odd.name)
    assert f"report in {odd.name}/report.html" in printed
    _, printed = run(monkeypatch, capsys, "report", ODD)
    assert ODD in printed
    _, printed = run(monkeypatch, capsys, "data", "inspect", ODD)
    assert ODD in printed
    (folder / "pairs" / "pairs.csv").rename(folder / "pairs" / "[b] :smile:.csv")
    _, printed = run(monkeypatch, capsys, "data", "inspect", "pairs/[b] :smile:.csv")
    assert "[b] :smile:.csv" in printed


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1))
def test_any_text_is_printed_as_it_is(capsys: pytest.CaptureFixture, text: str):
    capsys.readouterr()
    plain_console().print(f"in {text}")
    assert capsys.readouterr().out == f"in {text}\n"


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(errno.errorcode)), st.text(min_size=1))
def test_every_refusal_of_the_file_system_is_an_error_for_the_user(number: int, name: str):
    found = file_problem(OSError(number, os.strerror(number), name))
    assert isinstance(found, BenchError)
    assert found.exit_code in (2, 3, 75)
    assert len(str(found)) < 400


def test_other_errors_of_the_system_are_defects():
    assert file_problem(OSError(errno.EBADF, "Bad file descriptor")) is None
