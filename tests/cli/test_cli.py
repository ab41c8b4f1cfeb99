"""The list of commands, and what it costs to ask for it."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

import t2ialign
from t2ialign.cli import main as cli
from t2ialign.cli.data import CaptionKind
from t2ialign.feedback.negative_captions.base import KINDS
from unigenbench.cli import main as bench

COMMANDS = {
    ("demo",): {"--run-dir", "--prompts", "--seed"},
    ("plan",): {"CONFIG", "--probe", "--processes"},
    ("train",): {"CONFIG"},
    ("accuracy",): {"--model", "--lora", "--texts"},
    ("generate",): {"--model", "--out", "--prompts", "--prompt", "--lora", "--guidance", "--steps", "--seed"},
    ("export",): {"--model", "--out", "--lora", "--negative", "--negative-alpha", "--precision"},
    ("score",): {"--reward"},
    ("compare",): {"--reward", "--json", "--out", "--max-failed"},
    ("data", "build"): {"--reward"},
    ("data", "inspect"): {"--singles", "--prompts"},
    ("data", "relabel"): {"--out", "--reward", "--margin", "--max-failed"},
    ("data", "perturb"): {"--out", "--by", "--kind", "--per-image", "--base-url", "--concurrency", "--max-failed"},
    ("reward", "list"): set(),
    ("reward", "test"): {"--images"},
    ("reward", "serve"): {"--port"},
    ("report",): {"RUN", "--out"},
    ("doctor",): {"--full"},
    ("keys",): set(),
}
"""Every command and what it must at least take; docs list the same."""
HEAVY = ("torch", "diffusers", "transformers", "numpy", "PIL", "pyarrow")


def listed(app: typer.Typer, prefix: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    found = {
        (*prefix, command.name or command.callback.__name__.replace("_", "-"))
        for command in app.registered_commands
        if command.callback is not None
    }
    for group in app.registered_groups:
        assert group.typer_instance is not None
        found |= listed(group.typer_instance, (*prefix, str(group.name)))
    return found


def test_the_list_of_commands():
    assert listed(cli.app) == set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_explains_itself(command: tuple[str, ...]):
    result = CliRunner().invoke(cli.app, [*command, "--help"], env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})
    assert result.exit_code == 0, result.output
    for option in COMMANDS[command]:
        assert option.lower() in result.output.lower()


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["doctor"], ["train", "--help"], ["train", "no.yaml"]], ids=" ".join
)
def test_quick_answers_import_nothing_heavy(arguments: list[str]):
    code = (
        "import sys\nfrom t2ialign.cli import main as cli\n"
        f"sys.argv = ['t2ialign', *{arguments!r}]\n"
        "try:\n    cli.main()\nexcept SystemExit:\n    pass\n"
        f"print('HEAVY', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert "HEAVY []" in done.stdout, done.stdout


def test_a_wrong_command_and_no_command_exit_with_2():
    assert CliRunner().invoke(cli.app, ["trian"]).exit_code == 2
    assert CliRunner().invoke(cli.app, []).exit_code == 2


@pytest.mark.parametrize(("app", "name"), [(cli.app, "t2ialign"), (bench.app, "unigenbench")])
def test_both_programs_say_their_version(app: typer.Typer, name: str):
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.output) == (0, f"{name} {t2ialign.__version__}\n")


def test_keys_lists_every_key():
    result = CliRunner().invoke(cli.app, ["keys", "train."], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    assert "train.effective_batch" in result.output
    assert "optim.lr" not in result.output


IMAGES = ["generate", "--model", "m", "--out", "o"]
BUILD = ["data", "build", "--out", "o", "--reward", "r"]


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ([*IMAGES, "--precision", "fp8"], ["--precision", "fp8", "bf16"]),
        ([*IMAGES, "--seed-policy", "odd"], ["--seed-policy", "odd", "per_prompt"]),
        ([*IMAGES, "--guidance", "0.5"], ["--guidance", "1"]),
        ([*IMAGES, "--guidance", "nan"], ["--guidance"]),
        ([*IMAGES, "--guidance", "inf"], ["--guidance", "inf", "finite"]),
        ([*IMAGES, "--resolution", "-64"], ["--resolution", "8"]),
        ([*BUILD, "--keep", "best"], ["--keep", "best", "best_worst"]),
        ([*BUILD, "--ties", "both"], ["--ties", "both", "drop"]),
        ([*BUILD, "--max-failed", "nan"], ["--max-failed"]),
        (["data", "perturb", "d", "--out", "o", "--by", "x", "--kind", "style"], ["--kind", "style", "relation"]),
        (["data", "inspect", "d", "--columns", "better"], ["--columns better", "meaning=column"]),
        (["data", "inspect", "d", "--singles", "--prompts"], ["--singles", "--prompts have no images"]),
    ],
    ids=lambda value: " ".join(value[-2:]),
)
def test_a_wrong_option_is_refused_with_its_name_and_what_is_allowed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, arguments: list[str], parts: list[str]
):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["t2ialign", *arguments])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 2
    said = capsys.readouterr().err
    for part in parts:
        assert part in said


def test_the_kinds_of_mismatch_are_those_of_the_library():
    assert [kind.value for kind in CaptionKind] == list(KINDS)
