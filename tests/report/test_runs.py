"""Training runs over each other: what differs, where each ended, and one curve a run."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from browser import chromium
from PIL import Image

from t2ialign.errors import InputError
from t2ialign.report.runs import write_runs
from t2ialign.training.validation_sheet import draw_sheet, with_scores, write_sheet


def run(folder: Path, steps: int, beta: int, prompts: tuple[str, ...] = ("a <cat>", "a dog")) -> Path:
    """A training run that is validated before the first and after the last step."""
    folder.mkdir(parents=True)
    rows = [{"step": step, "loss": 0.7 - step / 100, "lr": 1e-4, "seconds": 2.0} for step in range(1, steps + 1)]
    for step in (0, steps):
        rows.append(
            {"step": step, "validation/own/base": 0.5, "validation/own/policy": 0.5 + step / beta,
             "validation/own/standard_error": 0.01}
        )  # fmt: skip
        colors = {"base": ["red"] * len(prompts), "policy": ["blue" if step else "red"] * len(prompts)}
        images = {label: [Image.new("RGB", (32, 32), color) for color in some] for label, some in colors.items()}
        picture, sheet = draw_sheet(step, prompts, images)
        write_sheet(folder / "validation", picture, with_scores(sheet, {"own": {"policy": {0: step / beta}}}))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "config.yaml").write_text(
        f"run_dir: {folder}\nobjective: {{name: dpo, beta: {beta}}}\noptim: {{lr: 1.0e-4}}\n"
    )
    return folder


def test_the_page_has_differing_keys_final_numbers_and_a_line_a_run(tmp_path: Path):
    first, second = run(tmp_path / "first", 10, 100), run(tmp_path / "second", 20, 200)
    page = write_runs([first, second])
    assert page == tmp_path / "comparison.html"
    text = page.read_text()
    assert re.findall(r"<tr><td><code>([^<]+)</code>", text) == ["objective.beta"]
    rows = {name: re.findall(r'data-name="\w+">([^<]*)</td>', cells) for name, cells in
            re.findall(r"<tr><td><strong>([^<]+)</strong></td>(.*?)</tr>", text)}  # fmt: skip
    assert rows["Steps"] == ["10", "20"]
    assert rows["Loss"] == ["0.605", "0.515"]  # the mean of steps 9 and 10, and of 17 to 20
    assert rows["own"] == ["0.600 (0.580 to 0.620)", "0.600 (0.580 to 0.620)"]
    assert rows["Seconds a step"] == ["2", "2"]
    keys = re.findall(r'<i class="s(\d)"></i>(\w+)', text)
    assert keys == [("0", "first"), ("1", "second")] * 3  # loss, learning rate, the reward
    assert text.count('class="band') == 2


def test_prompts_of_all_runs_are_shown_at_their_ends(tmp_path: Path):
    first, second = run(tmp_path / "first", 10, 100), run(tmp_path / "second", 20, 200, ("a <cat>",))
    text = write_runs([first, second], tmp_path / "page.html").read_text()
    assert text.count("<img") == 3
    labels = re.findall(r'class="who">([^<]*)', text)
    assert labels == ["base", "first: policy, step 10", "second: policy, step 20"]
    assert "a dog" not in text


def test_runs_of_one_name_are_told_apart_by_their_paths(tmp_path: Path):
    same = [run(tmp_path / parent / "training", 5, 100) for parent in ("a", "b")]
    text = write_runs(same, tmp_path / "page.html").read_text()
    assert "None but the run folder." in text
    assert all(f'<th class="n">{folder}</th>' in text for folder in same)
    assert write_runs([tmp_path / "a", tmp_path / "b"], tmp_path / "page.html").is_file()  # demos hold a training run


def test_a_run_given_twice_and_a_folder_without_one_are_refused(tmp_path: Path):
    first = run(tmp_path / "first", 5, 100)
    with pytest.raises(InputError, match="first: is given twice"):
        write_runs([first, first])
    with pytest.raises(InputError, match=r"empty: no metrics.jsonl with a finished step"):
        write_runs([first, tmp_path / "empty"])


@pytest.mark.browser
def test_a_phone_shows_the_numbers_of_every_run(tmp_path: Path):
    page = write_runs([run(tmp_path / "first", 10, 100), run(tmp_path / "second", 20, 200)])
    with chromium() as context:
        shown = context.new_page()
        shown.set_viewport_size({"width": 390, "height": 844})
        shown.goto(page.as_uri())
        assert shown.evaluate("document.documentElement.scrollWidth") == 390
        cells = shown.evaluate("[...document.querySelectorAll('td.n')].map(cell => cell.getBoundingClientRect().right)")
        assert len(cells) == 2 * 4
        assert max(cells) <= 390
