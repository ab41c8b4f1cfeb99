"""The commands that read finished judgements, as a user calls them."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hand_made import case_b, judgement, log, prompt, prompt_set, run, write_case_a
from typer.testing import CliRunner

from unigenbench.cli import main
from unigenbench.cli.main import app
from unigenbench.errors import BenchError
from unigenbench.runs.store import RunStore
from unigenbench.taxonomy import CRITERIA
from unigenbench.types import RunLog

PROMPTS = prompt_set([prompt(i, *("Style", "Attribute - Color", "Text Generation")[: 1 + i % 3]) for i in range(24)])


def write(log: RunLog, path: Path) -> str:
    """A run folder on disk."""
    with RunStore(path, log.manifest, log.prompts) as store:
        for made in log.judgements:
            store.append(made)
    return str(path)


@pytest.fixture
def base(tmp_path: Path) -> str:
    return write(run(PROMPTS, case_b, images=2), tmp_path / "base")


@pytest.fixture
def aligned(tmp_path: Path) -> str:
    return write(run(PROMPTS, lambda i, j, k: case_b(i, j, k) or i % 2, images=2), tmp_path / "aligned")


@pytest.fixture
def holed(tmp_path: Path) -> str:
    """A fifth of the replies could not be read."""
    whole = run(PROMPTS, case_b, images=2)
    left = [
        judgement(PROMPTS.prompts[old.prompt_index], old.image_index, None) if place % 5 == 0 else old
        for place, old in enumerate(whole.judgements)
    ]
    return write(log(PROMPTS, left, images=2), tmp_path / "holed")


def call(*arguments: str, code: int = 0) -> str:
    """What a command prints; the exit code of an error is that of its kind."""
    result = CliRunner().invoke(app, list(arguments))
    if isinstance(result.exception, BenchError):
        assert result.exception.exit_code == code
        return str(result.exception)
    assert result.exit_code == code, result.output
    return result.output


def call_json(*arguments: str, code: int = 0):
    return json.loads(call(*arguments, "--json", code=code))


def test_score_shows_intervals_and_coverage_and_writes_summary_json(base: str):
    shown = call("score", base, "--bootstrap", "100", "--by", "themes", "--by", "lengths")
    for text in ("95 % interval", "Attribute", "  Color", "judged 48 of 48 images (100.00 %)", "Art", "2-2 words"):
        assert text in shown
    assert "not comparable" in shown  # the run's banner
    summary = call_json("score", base, "--bootstrap", "100")
    assert summary == json.loads((Path(base) / "summary.json").read_text(encoding="utf-8"))
    assert summary["dimensions"]["style"]["ci"] is not None


def test_score_refuses_an_unknown_part(base: str):
    assert "--by colours: unknown; there are themes" in call("score", base, "--by", "colours", code=2)


def test_score_of_a_gap_depends_on_what_missing_means(holed: str):
    assert call_json("score", holed, "--bootstrap", "10")["coverage"]["judged"] == 38
    zero = call_json("score", holed, "--bootstrap", "10", "--missing", "zero")
    assert zero["overall"]["total"] == zero["overall"]["expected"] == 2 * 48
    assert "10 of 48 images have no verdict" in call("score", holed, "--missing", "error", code=4)
    assert "38 of 48 images" in call("score", holed, "--bootstrap", "10", "--compat", "official")


def test_compare_shows_both_and_the_difference(base: str, aligned: str):
    shown = call("compare", base, aligned, "--permutations", "200", "--bootstrap", "100")
    for text in ("48 images of 24 prompts are judged in both", "p (Holm)", "Overall, mean of dimensions", "200 ways"):
        assert text in shown
    found = call_json("compare", base, aligned, "--permutations", "200", "--bootstrap", "100")
    assert found["overall"]["macro"]["ci"][0] > 0


def test_a_comparison_that_would_say_nothing_ends_with_1(base: str, holed: str):
    message = call("compare", base, holed, code=1)
    assert "20.8% of 48 replies failed or cannot be read (10 parse_failed), more than 10%" in message
    done = subprocess.run(
        [sys.executable, "-m", "unigenbench", "compare", base, holed], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


def test_agree_shows_kappa_and_corrects(base: str, aligned: str):
    shown = call("agree", base, aligned, "--bootstrap", "50", "--correct")
    for text in ("kappa", "PABAK", "Krippendorff's alpha of all 2", "corrected %"):
        assert text in shown
    found = call_json("agree", base, aligned, base, "--bootstrap", "50")
    assert len(found["pairs"]) == 3
    assert "corrected" not in found


def test_leaderboard_shows_published_rows_with_their_source():
    shown = call("leaderboard", "--category", "en")
    for text in ("FLUX.1-dev", "60.97", "CC BY 4.0", "gemini-2.5-pro"):
        assert text in shown
    assert len(call_json("leaderboard")["rows"]) == 57


def test_a_run_of_our_own_stands_alone_with_the_reasons(base: str):
    shown = call("leaderboard", "--with", base, code=1)
    assert "NOT COMPARABLE with the published board: its prompts are 'unknown'" in shown
    assert "FLUX.1-dev" not in shown
    assert "(this run)" in shown
    found = call_json("leaderboard", "--category", "en", "--with", base, code=1)
    assert found["rows"] == []
    assert len(found["reasons"]) >= 4


def test_taxonomy_lists_the_labels_of_prompt_files():
    shown = call("taxonomy")
    assert all(criterion.name in shown and criterion.name_zh in shown for criterion in CRITERIA)


def test_names_are_printed_as_they_are_and_minus_signs_are_minus_signs(tmp_path: Path):
    folder = tmp_path / "[bold]run[/bold]:smile:"
    base = write(run(PROMPTS, case_b, images=2), folder)
    worse = write(run(PROMPTS, lambda i, j, k: case_b(i, j, k) and i % 2, images=2), tmp_path / "[red]")
    shown = call("compare", base, worse, "--permutations", "50", "--bootstrap", "50")
    assert f"A  {base}: " in shown
    assert f"B  {worse}: " in shown
    assert re.search(r"Overall, mean of dimensions.* −\d", shown)
    assert not re.search(r" -\d", shown)
    assert f"{folder}/official" in call("export-official", base)


def test_thin_intervals_are_marked(tmp_path: Path):
    few = prompt_set([prompt(i, "Style") for i in range(4)])
    shown = call("score", write(run(few, case_b), tmp_path / "few"), "--bootstrap", "50")
    assert "thin: fewer than 5 prompts" in shown
    assert " … " not in shown


@pytest.mark.parametrize(("number", "code"), [(errno.ENOSPC, 75), (errno.EROFS, 3)])
def test_a_disk_that_fails_is_one_sentence(number: int, code: int, monkeypatch, capsys):
    def fail(**_):
        raise OSError(number, os.strerror(number), "there/summary.json")

    monkeypatch.setattr(main, "app", fail)
    with pytest.raises(SystemExit) as caught:
        main.main()
    assert caught.value.code == code
    message = capsys.readouterr().err
    assert message.startswith("error: there/summary.json: ")
    assert message.count("\n") == 1


def test_import_and_export_meet(tmp_path: Path):
    from hand_made import CASE_A

    lines = ["index,prompt_en,sub_dims_en"]
    for index, (labels, _) in enumerate(CASE_A):
        content = {
            "Primary Categories": "Art", "Secondary Categories": "Graphic Art", "Subjects": "Animal",
            "Sentence Structure": "Descriptive", "Testpoints": list(labels), "Testpoint Description": ["x"] * 3,
        }  # fmt: skip
        lines.append(f'{index},prompt {index},"{json.dumps(content).replace(chr(34), chr(34) * 2)}"')
    data = tmp_path / "own.csv"
    data.write_text("\n".join(lines) + "\n", encoding="utf-8")
    results, folder = write_case_a(tmp_path / "m_en.csv"), tmp_path / "run"
    made = call_json(
        "import-official", str(results), "--data", str(data), "--run", str(folder), "--judge", "gemini-2.5-pro"
    )
    assert (made["images"], made["with_verdicts"]) == (12, 10)
    official = call_json("score", str(folder), "--compat", "official", "--bootstrap", "10")["official"]
    assert official["primary_dimensions"]["Attribute "] == {"correct": 6, "total": 10, "accuracy": 0.6}
    written = call_json("export-official", str(folder), "--out", str(tmp_path), "--model", "m")
    assert (written["rows"], written["failed"]) == (12, 2)
    exported = json.loads(Path(written["json"]).read_text(encoding="utf-8"))
    assert exported["primary_dimensions"]["Action "] == {"correct": 4, "total": 6, "accuracy": 0.6667}  # our reading


@pytest.mark.parametrize("command", ["score", "export-official"])
def test_a_folder_that_is_no_run_is_named(tmp_path: Path, command: str):
    assert f"{tmp_path}: no run folder" in call(command, str(tmp_path), code=2)


def test_reading_scores_needs_no_torch(base: str):
    code = (
        "import sys; sys.modules['torch'] = None; sys.modules['t2ialign'] = None\n"
        "from unigenbench.scoring import agree, compare, leaderboard, official, scores as scoring\n"
        "from unigenbench.cli import tables as show\n"
        f"from pathlib import Path; scoring.score_run(Path({base!r}), bootstrap=5)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
