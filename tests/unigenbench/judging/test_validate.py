"""The check of run folders, and the command over all three kinds."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_runs import manifest
from PIL import Image
from prompt_files import ENGLISH, FIVE, table, without_a_comma
from typer.testing import CliRunner

from unigenbench.cli.main import app
from unigenbench.errors import InputError
from unigenbench.judging.validate import validate, validate_run
from unigenbench.prompts import prompt_sha256, read_prompts, to_json
from unigenbench.runs.judgements import to_line
from unigenbench.types import Judgement


def judged(prompt_index: int, image_index: int, digest: str, **fields) -> Judgement:
    key = f"p/{prompt_index}/{image_index}/0"
    values = {"status": "ok", "verdicts": (1, 0), **fields}
    return Judgement(key, "judge", prompt_index, image_index, "", digest, **values)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Two prompts of two test points, two images each, all judged."""
    prompts = read_prompts(table(tmp_path / "p.csv", [ENGLISH, ENGLISH]))
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps(manifest() | {"images": {"per_prompt": 2}}))
    (folder / "prompts.json").write_text(json.dumps(to_json(prompts)))
    digests = [prompt_sha256(prompt) for prompt in prompts.prompts]
    lines = [to_line(judged(index, k, digests[index])) for index in range(2) for k in range(2)]
    (folder / "judgements.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return folder


def change_last(run: Path, **fields) -> None:
    """Appends the last judgement anew with other fields; the newest line of a key counts."""
    log = run / "judgements.jsonl"
    last = json.loads(log.read_text().splitlines()[-1])
    with log.open("a") as file:
        file.write(json.dumps({**last, **fields}) + "\n")


def test_a_run_folder_as_it_should_be_has_no_problems(run: Path):
    assert validate_run(run) == []
    change_last(run, status="parse_failed", verdicts=None)
    assert validate_run(run) == []


def test_only_the_newest_line_of_a_key_counts(run: Path):
    change_last(run, verdicts=[1])
    change_last(run, verdicts=[1, 1])
    assert validate_run(run) == []


@pytest.mark.parametrize(
    ("change", "severity", "fault"),
    [
        (lambda run: (run / "run.json").unlink(), "error", "run.json: is missing"),
        (lambda run: (run / "run.json").write_text("{"), "error", "run.json: not JSON"),
        (lambda run: (run / "run.json").write_text("[]"), "error", "run.json: is no object"),
        (
            lambda run: (run / "run.json").write_text("{}"),
            "error",
            "run.json: schema_version: None; this program knows 1",
        ),
        (
            lambda run: (run / "run.json").write_text('{"schema_version": 2}'),
            "error",
            "run.json: schema_version: 2; this program knows 1",
        ),
        (
            lambda run: (run / "run.json").write_text('{"schema_version": 1, "judge": []}'),
            "error",
            "run.json: damaged (KeyError('dataset'))",
        ),
        (lambda run: (run / "prompts.json").unlink(), "error", "prompts.json: is missing"),
        (lambda run: (run / "prompts.json").write_text("{}"), "error", "prompts.json: not a prompt set"),
        (lambda run: (run / "judgements.jsonl").unlink(), "warning", "judgements.jsonl: is missing"),
        (
            lambda run: (run / "judgements.jsonl").write_text("{}\n"),
            "error",
            "judgements.jsonl:1: no judgement (KeyError('verdicts')); delete the line",
        ),
        (
            lambda run: (run / "judgements.jsonl").open("a").write('{"key": "p/0'),
            "warning",
            "judgements.jsonl:5: cut by a kill",
        ),
        (
            lambda run: change_last(run, verdicts=[1]),
            "error",
            "judgements.jsonl:5: p/1/1/0: 1 verdicts for 2 test points",
        ),
        (lambda run: change_last(run, verdicts=None), "error", "p/1/1/0: 0 verdicts for 2 test points"),
        (lambda run: change_last(run, verdicts=[1, 2]), "error", "p/1/1/0: verdict 2 is neither 0 nor 1"),
        (lambda run: change_last(run, verdicts=[1, None]), "error", "p/1/1/0: verdict None is neither 0 nor 1"),
        (lambda run: change_last(run, probabilities=[0.5]), "error", "p/1/1/0: 1 probabilities for 2 test points"),
        (lambda run: change_last(run, status="refused"), "error", "p/1/1/0: has verdicts but status 'refused'"),
        (lambda run: change_last(run, status="fine"), "error", "p/1/1/0: status 'fine' is unknown"),
        (lambda run: change_last(run, key="p/9/0/0", prompt_index=9), "error", "p/9/0/0: the run has no prompt 9"),
        (
            lambda run: change_last(run, key="q/1/1/0"),
            "error",
            "q/1/1/0: is not the key of its prompt and image, p/1/1/",
        ),
        (
            lambda run: change_last(run, key="p/0/1/0"),
            "error",
            "p/0/1/0: is not the key of its prompt and image, p/1/1/",
        ),
        (
            lambda run: change_last(run, key="p/1/2/0", image_index=2),
            "error",
            "p/1/2/0: the run has 2 images of each prompt",
        ),
        (
            lambda run: change_last(run, prompt_sha256="0"),
            "warning",
            "p/1/1/0: was judged when the prompt read otherwise",
        ),
    ],
)
def test_a_fault_of_a_run_folder_is_named(run: Path, change: Callable[[Path], None], severity: str, fault: str):
    change(run)
    [problem] = validate_run(run)
    assert problem.severity == severity
    assert fault in str(problem)


def test_nothing_to_check_is_an_input_error(tmp_path: Path):
    with pytest.raises(InputError, match="nothing to check"):
        validate()
    with pytest.raises(InputError, match="nothing to check"):
        validate(images=tmp_path)
    with pytest.raises(InputError, match="no such run folder"):
        validate(run=tmp_path / "none")
    with pytest.raises(InputError, match="no CSV in this folder"):
        validate(tmp_path)


def command(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["validate", *map(str, arguments)])
    return result.exit_code, result.stdout, result.stderr


def test_the_command_ends_with_0_1_or_2(tmp_path: Path):
    good, odd, mendable, broken = (tmp_path / f"{name}.csv" for name in ("good", "odd", "mendable", "broken"))
    table(good, [ENGLISH])
    table(odd, [{**ENGLISH, "Subjects": "Robot"}])
    table(mendable, [without_a_comma(FIVE)])
    table(broken, ["{"])
    codes = {
        path.stem: (command("--data", path)[0], command("--data", path, "--strict")[0]) for path in tmp_path.iterdir()
    }
    assert codes == {"good": (0, 0), "odd": (0, 1), "mendable": (0, 2), "broken": (2, 2)}
    code, out, err = command("--data", tmp_path)  # the whole folder
    assert code == 2
    assert "good.csv: 1 prompts, 2 test points, en; not a known file" in out
    assert "broken.csv: cannot be used" in out
    assert "warning: " in err
    assert "mendable.csv:2: sub_dims_en: a comma was missing" in err


def test_the_command_checks_images_and_run_folders(run: Path, tmp_path: Path):
    images = tmp_path / "images"
    images.mkdir()
    rng = np.random.default_rng(0)
    for name in ("0_0", "0_1", "1_0"):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(images / f"{name}.png")
    arguments = ("--data", tmp_path / "p.csv", "--images", images, "--images-per-prompt", 2, "--run", run, "--json")
    code, out, _ = command(*arguments)
    content = json.loads(out)
    assert code == 2
    assert [problem["what"] for problem in content["problems"]] == [
        "1 image missing (1 of image 1): 1_1.png; make them, or choose fewer prompts"
    ]
    assert len(content["checked"]) == 3
    Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(images / "1_1.png")
    assert command(*arguments)[0] == 0


def test_images_of_unreadable_prompts_are_not_checked(tmp_path: Path):
    found = validate(table(tmp_path / "p.csv", ["{"]), tmp_path / "none")
    assert [problem.severity for problem in found.problems] == ["error"]
    assert "not checked" in found.checked[1]


def test_a_changed_copy_of_a_known_file_is_not_known(official: Path, tmp_path: Path):
    path = official / "test_prompts_en.csv"
    assert validate(path).checked == [f"{path}: 600 prompts, 1813 test points, en; official v1, unmodified"]
    copy = tmp_path / "test_prompts_en.csv"
    copy.write_bytes(path.read_bytes() + b"\n")
    assert "not a known file" in validate(copy).checked[0]
    assert replace(read_prompts(copy), path=path, sha256="", version="").prompts == read_prompts(path).prompts
