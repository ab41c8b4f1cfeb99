"""The report: self-contained, escaped, complete for a comparison and for a plain training run."""

import itertools
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from browser import chromium
from PIL import Image

from t2ialign.errors import DataError, InputError
from t2ialign.report.charts import LEFT, RIGHT, line_chart, numbers, ticks, trailing_mean
from t2ialign.report.comparison import in_points
from t2ialign.report.curves import training_charts
from t2ialign.report.images import data_uri
from t2ialign.report.outcome import outcome
from t2ialign.report.page import write_report
from t2ialign.report.training import findings
from t2ialign.training.validation_sheet import draw_sheet, with_scores, write_sheet

LN_2 = math.log(2)


def metrics(steps: int, **changes: float) -> list[dict]:
    rng = np.random.default_rng(0)
    rows = []
    for step in range(1, steps + 1):
        row = {
            "step": step, "samples_seen": 32 * step, "seconds": 1.0, "lr": 4e-4, "grad_norm": 0.5 + rng.random(),
            "loss": 0.69 - 0.0005 * step + 0.02 * rng.normal(), "implicit_accuracy": 0.5 + 0.002 * step,
            "margin": 0.003 * step, "saturated": 0.0, "chosen_change": -1e-5 * step, "rejected_change": 1e-5 * step,
            "chosen_error": 0.2, "rejected_error": 0.21, "reference_error": 0.2,
        }  # fmt: skip
        rows.append(row | changes)
    return rows


def training_run(folder: Path, rows: list[dict], config: str = "objective: {name: dpo, beta: 1000}\n") -> Path:
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "config.yaml").write_text(config)
    (folder / "environment.json").write_text(json.dumps({"python": "3.11", "packages": {"torch": "2.9"}}))
    return folder


SHARE = {"mean": 0.5, "low": 0.4, "high": 0.6, "n": 100}
SHIFT = {"mean": 0.056, "low": 0.031, "high": 0.081}


def compared(guidance: float) -> dict:
    """Two models, one measure."""
    model = {"faithfulness": 0.612, "unreadable": 41, "residual": 4.25, "spread": {"diversity": 0.8}}
    return {
        "prompts": 1000,
        "guidance": {"base": guidance, "aligned": guidance},
        "models": {"base": model, "aligned": model | {"faithfulness": 0.668, "residual": None}},
        "differences": {"aligned - base": {"faithfulness": SHIFT}},
        "diversity": {"aligned": {"diversity": {"mean": 0.97, "low": 0.94, "high": 1.01}}},
    }


def summary() -> dict:
    reading = {
        "image": "base/1_0.png", "prompt": "a red circle", "verifier": "small red circle on white",
        "independent": "too <soft>",
        "verdicts": [{"claim": "the circle is red", "verifier": True, "independent": False}],
    }  # fmt: skip
    scores = {"faithfulness": 0.6, "taste": 0.5, "criterion": 0.55}
    return {
        "title": "Demo", "sentence": "Aligned on pairs.",
        "measures": [{"key": "faithfulness", "name": "Faithfulness", "meaning": "share of statements"}],
        "equal": compared(3.0), "own": compared(5.0),
        "sweep": {"base": {"3": scores, "5": scores}, "aligned": {"3": scores, "5": scores}},
        "goals": [{"goal": "Diversity at least 0.9 of base", "seen": "0.97 (0.94 to 1.01)", "reached": True}],
        "independent_verifier": {"base": {"verdicts": SHARE, "pictures": SHARE, "disagreements": [reading]}},
        "criteria": {"Attribute - Color": {"base": SHARE, "aligned": SHARE, "difference": SHIFT}},
        "caveats": ["One training seed."], "settings": {"pairs": 200}, "timings_seconds": {"training": 125.4},
    }  # fmt: skip


def comparison(folder: Path, prompt: str = "a red circle", rows: int = 3) -> Path:
    """A finished comparison: the first image got worse, the others better."""
    training_run(folder / "training", metrics(100))
    verdicts = []
    for index in range(rows):
        sides = {}
        for side, right in (("base", index == 0), ("aligned", index > 0)):
            path = folder / side / f"{index}_0.png"
            path.parent.mkdir(exist_ok=True)
            Image.new("RGB", (64, 64), "red" if right else "blue").save(path)
            sides[side] = {
                "image": f"{side}/{index}_0.png", "faithfulness": float(right), "taste": 0.5 if index else None,
                "unreadable": None if right else "no known <shape>",
                "verdicts": [{"criterion": "Attribute - Color", "claim": "the circle is red", "right": right}],
            }  # fmt: skip
        verdicts.append({"prompt": prompt, **sides})
    (folder / "verdicts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in verdicts))
    (folder / "summary.json").write_text(json.dumps(summary()))
    return folder


class Page(HTMLParser):
    """Tags with their attributes, and the text outside of <style>."""

    def __init__(self, path: Path):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data


def test_the_page_asks_for_nothing(tmp_path):
    text = write_report(comparison(tmp_path / "demo")).read_text()
    page = Page(tmp_path / "demo" / "report.html")
    assert not [tag for tag, _ in page.tags if tag in ("script", "link", "iframe", "object")]
    addresses = [value for _, attrs in page.tags for key, value in attrs.items() if key in ("src", "href", "srcset")]
    assert addresses
    assert all(address.startswith("data:image/") for address in addresses)
    assert not re.findall(r"url\((?!#)|@import|https?://", text)


def test_a_comparison_shows_pictures_before_figures(tmp_path: Path):
    text = write_report(comparison(tmp_path / "demo", rows=8)).read_text()
    places = [text.index(title) for title in ("The first held-out", "What changed", "The next held-out")]
    assert places == sorted(places)
    assert text[: places[1]].count("<img") == 2 * 6


def test_headline_and_criteria_are_shown_in_points(tmp_path):
    page = Page(write_report(comparison(tmp_path / "demo")))
    for shown in ("61.2 %", "66.8 %", "+5.6", "+3.1", "+8.1", "Attribute - Color", "2 min 05 s", "One training seed."):
        assert shown in page.text
    assert [attrs["class"] for tag, attrs in page.tags if tag == "span" and "better" in attrs.get("class", "")]
    assert "+5.6 better" in page.text


def changed(folder: Path, **shift: float) -> str:
    """What a reader sees of a comparison whose one difference has other numbers."""
    run = comparison(folder)
    content = summary()
    content["equal"]["differences"]["aligned - base"]["faithfulness"] = SHIFT | shift
    content["criteria"]["Attribute - Color"]["difference"] = SHIFT | shift
    (run / "summary.json").write_text(json.dumps(content))
    return re.sub(r"\s+", " ", Page(write_report(run)).text)


@pytest.mark.parametrize(
    ("shift", "shown"),
    [
        ({"mean": -0.0561, "low": -0.08, "high": -0.03}, "−5.6 worse −8.0 to −3.0"),
        ({"mean": 0.01, "low": -0.02, "high": 0.04}, "+1.0 unclear −2.0 to +4.0"),
        ({"mean": 0.0, "low": 0.0, "high": 0.0}, "0.0 unclear thin"),
        ({"n": 4}, "+5.6 unclear thin"),
        ({"n": 5}, "+5.6 better +3.1 to +8.1"),
    ],
)
def test_a_difference_is_a_word_with_a_minus_sign_and_no_thin_interval(shift: dict, shown: str, tmp_path: Path):
    text = changed(tmp_path / "demo", **shift)
    assert text.count(shown) >= 2  # among the measures, and of the criterion
    assert "aligned − base" in text
    assert not re.search(r"(?<![\w–])-\d", text.partition("Settings")[0])


def test_a_difference_in_points_withholds_a_thin_interval():
    assert in_points(SHIFT) == "+5.6 (+3.1 to +8.1)"
    assert in_points(SHIFT | {"mean": -0.01, "low": -0.02}, " points") == "−1.0 points (−2.0 to +8.1)"
    assert in_points(SHIFT | {"n": 4}) == "+5.6 (interval thin)"


def test_criteria_say_how_many_statements_and_prompts_they_are_of(tmp_path: Path):
    assert "100 statements of 1 prompt " in changed(tmp_path / "one", n=1)
    assert "100 statements of 40 prompts " in changed(tmp_path / "more", n=40)


def test_a_claim_that_counts_says_what_was_asked_and_what_was_seen(tmp_path: Path):
    run = comparison(tmp_path / "demo")
    rows = [json.loads(line) for line in (run / "verdicts.jsonl").read_text().splitlines()]
    rows[0]["base"]["verdicts"] = [{"criterion": "", "claim": "things in the picture: 2", "right": False, "seen": 3}]
    rows[0]["aligned"]["verdicts"] = [{"criterion": "", "claim": "there is a ring", "right": True, "seen": None}]
    (run / "verdicts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = Page(write_report(run)).text
    assert "things in the picture: 2 asked, 3 seen" in text
    assert "there is a ring asked" not in text


@pytest.mark.browser
def test_a_phone_shows_what_was_found_without_scrolling_sideways(tmp_path: Path):
    path = write_report(comparison(tmp_path / "demo"))
    with chromium() as context:
        page = context.new_page()
        page.set_viewport_size({"width": 390, "height": 844})
        page.goto(path.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        for place in ("td[data-name='aligned − base']", ".criterion .difference", ".criterion .shares"):
            box = page.locator(place).first.bounding_box()
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= 390
        ends = page.locator(".criterion .scale > span")
        assert ends.all_inner_texts() == ["0", "25", "50", "75", "100"]
        assert ends.last.bounding_box()["x"] + ends.last.bounding_box()["width"] <= 390


def with_five_models() -> dict:
    """A comparison as wide as a demo's can be: all of its models, measures and differences."""
    content, names = summary(), ["base", "sft", "aligned", "aligned+negative", "online"]
    keys = ["faithfulness", "all_right", "taste", "taste_satisfied", "more_to_taste"]
    model = dict.fromkeys(keys[:-1], 0.612) | {"unreadable": 41, "residual": 4.25, "spread": {"diversity": 0.8}}
    ratio = {"diversity": {"mean": 0.97, "low": 0.94, "high": 1.01}}
    pairs = [f"{second} - {first}" for place, first in enumerate(names) for second in names[place + 1 :]]
    content["measures"] = [{"key": key, "name": key.replace("_", " "), "meaning": "what it is of"} for key in keys]
    for compared_images in (content["equal"], content["own"]):
        compared_images["guidance"] = dict.fromkeys(names, 7.5)
        compared_images["models"] = dict.fromkeys(names, model)
        compared_images["differences"] = {pair: dict.fromkeys(keys, SHIFT) for pair in pairs}
        compared_images["diversity"] = dict.fromkeys(names[1:], ratio)
    scales = {scale: {"faithfulness": 0.6, "taste": 0.5, "criterion": 0.55} for scale in ("1", "2", "3", "5", "7.5")}
    content["sweep"] = dict.fromkeys(names, scales)
    return content


@pytest.mark.browser
@pytest.mark.parametrize("width", [360, 390])
def test_on_a_phone_every_result_of_every_table_is_in_view(width: int, tmp_path: Path):
    run = comparison(tmp_path / "demo")
    (run / "summary.json").write_text(json.dumps(with_five_models()))
    path = write_report(run)
    with chromium() as context:
        page = context.new_page()
        page.set_viewport_size({"width": width, "height": 800})
        page.goto(path.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") == width
        cells = page.evaluate(
            """[...document.querySelectorAll("td[data-name]")].filter(cell => cell.innerText.trim()).map(cell => {
                const box = cell.getBoundingClientRect();
                return {name: cell.dataset.name, left: box.left, right: box.right, width: box.width,
                        isCut: cell.scrollWidth > Math.ceil(box.width),
                        label: getComputedStyle(cell, "::before").content};
            })"""
        )
        # 4 measures of 5 models, 5 of 10 differences, 3 rows of 5 models; sweeps: 3 rows of 5 models at 5 scales
        assert len(cells) == 2 * (4 * 5 + 5 * 10 + 3 * 5) + 5 * 3 * 5
        for cell in cells:
            assert cell["width"] > 0, cell
            assert cell["left"] >= 0, cell
            assert cell["right"] <= width, cell
            assert not cell["isCut"], cell
            assert cell["label"] == json.dumps(cell["name"], ensure_ascii=False), (
                cell
            )  # the column's head, which is hidden
        meanings = page.locator("table.compared td:first-child")
        assert all(box["x"] + box["width"] <= width for box in (one.bounding_box() for one in meanings.all()))


def test_bars_have_their_scale_up_to_its_end(tmp_path: Path):
    text = re.sub(r"\s+", " ", Page(write_report(comparison(tmp_path / "demo"))).text)
    assert "0255075100" in text.partition("Verified accuracy by criterion")[2].replace(" ", "")


def test_pairs_that_got_better_and_worse_are_shown_with_their_numbers(tmp_path):
    page = Page(write_report(comparison(tmp_path / "demo")))
    assert "2 of 3 images." in page.text  # better
    assert "1 of 3 images." in page.text  # worse
    assert "taste not asked" in page.text
    assert "unreadable: no known <shape>" in page.text
    images = [attrs for tag, attrs in page.tags if tag == "img"]
    assert len(images) == 2 * (3 + 2 + 1) + 1  # and the disagreement
    right = [attrs for tag, attrs in page.tags if tag == "li" and attrs.get("class") == "right"]
    assert len(right) == 3 + 2 + 1 + 2  # one side of every pair shown, and the goals of faithfulness and diversity


def test_each_model_is_shown_at_equal_and_at_its_own_guidance_with_diversity_and_realism(tmp_path):
    page = Page(write_report(comparison(tmp_path / "demo")))
    for shown in ("guidance 3", "guidance 5", "× 0.97", "0.94 to 1.01", "4.25", "Diversity at least 0.9 of base: 0.97"):
        assert shown in page.text


def test_disagreements_of_the_two_verifiers_are_shown(tmp_path):
    page = Page(write_report(comparison(tmp_path / "demo")))
    assert "50.0 % of 100 verdicts" in page.text
    assert "independent: too <soft>" in page.text
    assert "the circle is red: verifier ✓, independent ✗" in page.text


def test_everything_is_escaped(tmp_path):
    evil = "<script>alert(1)</script> & \"quotes\" 'x'"
    folder = comparison(tmp_path / "demo", prompt=evil)
    text = write_report(folder).read_text()
    assert "<script" not in text
    assert evil in Page(folder / "report.html").text


def test_a_training_run_without_a_comparison_has_curves_and_no_verdicts(tmp_path):
    run = training_run(tmp_path / "run <b>", metrics(50))
    page = Page(write_report(run, tmp_path / "out" / "page.html"))
    assert "How to read DPO's metrics" in page.text
    assert "No held-out comparison" in page.text
    assert "Verified accuracy" not in page.text
    assert "packages.torch" in page.text
    assert [tag for tag, _ in page.tags if tag == "polyline"]
    assert not [tag for tag, _ in page.tags if tag == "img"]


def test_other_objectives_get_charts_of_what_they_log(tmp_path):
    rows = [{"step": step, "loss": 0.1, "mse": 0.1, "lr": 1e-4, "grad_norm": 1.0} for step in (1, 2, 3)]
    titles = [chart.title for chart in training_charts(rows, initial_loss=LN_2)]
    assert titles == ["Loss", "Gradient norm", "Learning rate", "Mse"]
    page = Page(write_report(training_run(tmp_path / "sft", rows, "objective: {name: denoising}\n")))
    assert "How to read DPO's metrics" not in page.text
    assert "ln 2" not in page.text


def test_a_validation_reward_of_base_and_policy_shares_a_chart():
    scores = {"step": 5, "validation/shapes.taste/base": 0.5, "validation/shapes.taste/policy": 0.7}
    rows = [*metrics(5), scores]
    chart = training_charts(rows, initial_loss=LN_2)[-1]
    assert chart.title == "shapes.taste"
    assert [(line.label, line.last) for line in chart.lines] == [("base", "0.5"), ("policy", "0.7")]
    assert kinds(rows) == ["note", "good"]


def pair_accuracy(mean: float, low: float, high: float) -> dict:
    """The row of a validation after five steps."""
    names = [f"validation/pair_accuracy/{key}" for key in ("mean", "low", "high")]
    return {"step": 5, **dict(zip(names, (mean, low, high), strict=True))}


@pytest.mark.parametrize(("low", "kind"), [(0.51, "good"), (0.49, "warning")])
def test_held_out_pair_accuracy_comes_first_with_its_interval(low: float, kind: str):
    rows = [*metrics(5), pair_accuracy(0.6, low, 0.7)]
    assert kinds(rows) == [kind, "note", "good"]
    assert f"60.0% (95 % interval {low:.1%} to 70.0%)" in findings(rows, initial_loss=LN_2)[0].text
    chart = training_charts(rows, initial_loss=LN_2)[-1]
    assert (chart.title, chart.note, chart.guides[0].label) == ("Held-out pair accuracy", "band: 95 % interval", "½")
    assert [(line.label, line.last) for line in chart.lines] == [("mean", "0.6")]
    assert len(chart.lines[0].band.split()) == 2  # one measurement: its low and its high


def test_a_band_is_the_interval_of_the_difference_from_the_base():
    names = ("base", "policy", "standard_error")
    rows = [
        {"step": step, **{f"validation/own/{name}": value for name, value in zip(names, values, strict=True)}}
        for step, values in ((0, (1.0, 1.0, 0.0)), (10, (1.0, 2.0, 0.5)))
    ]
    (chart,) = training_charts(rows, initial_loss=None)
    assert [line.label for line in chart.lines] == ["base", "policy"]
    assert chart.note == "band: 95 % interval of the difference from base"
    base, policy = chart.lines
    assert base.band == ""
    heights = {point.split(",")[0]: [] for point in policy.band.split()}
    for point in policy.band.split():
        heights[point.split(",")[0]].append(float(point.split(",")[1]))
    first, last = heights.values()
    middle = [float(point.split(",")[1]) for point in policy.raw.split()]
    assert first == [middle[0], middle[0]]
    # one unit of the axis is the distance of 1 and 2, so that the band reaches 1.96 / 2 of it either way
    assert [abs(end - middle[1]) for end in last] == pytest.approx([0.98 * abs(middle[1] - middle[0])] * 2, abs=0.2)


def test_what_is_said_of_dpos_loss_is_not_said_of_other_losses():
    rows = metrics(50, loss=0.1)
    assert [finding.kind for finding in findings(rows, initial_loss=LN_2)] == ["warning", "good"]
    assert [finding.kind for finding in findings(rows, initial_loss=None)] == ["good"]
    assert "ln 2" in training_charts(rows, initial_loss=LN_2)[0].note
    assert "ln 2" not in training_charts(rows, initial_loss=None)[0].note


@pytest.mark.parametrize(("weight", "starts"), [("0.0", True), ("2.0", False)])
def test_dpos_loss_with_an_sft_term_is_not_said_to_start_at_ln_2(weight: str, starts: bool, tmp_path: Path):
    config = f"objective: {{name: dpo, beta: 1000, sft_weight: {weight}}}\n"
    page = Page(write_report(training_run(tmp_path / "run", metrics(50), config)))
    assert "How to read DPO's metrics" in page.text
    assert ("so every run starts there" in page.text) == starts
    assert ("starts at ln 2" in page.text) == starts
    assert ("is added to DPO's loss" in page.text) == (not starts)


def test_a_run_of_one_step_and_rows_of_validation_are_no_problem(tmp_path):
    rows = [{"step": 0, "validation/brightness/base": 0.3}, *metrics(1)]
    assert "Learning rate" in Page(write_report(training_run(tmp_path / "short", rows))).text


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"no metrics.jsonl .* no summary.json; give the folder of a training run"):
        write_report(tmp_path)


@pytest.mark.parametrize("name", ["summary.json", "verdicts.jsonl"])
def test_a_damaged_file_is_named(tmp_path, name):
    folder = comparison(tmp_path / "demo")
    (folder / name).write_text('{"torn": ')
    with pytest.raises(DataError, match=re.escape(name)):
        write_report(folder)
    assert not (folder / "report.html").exists()


def test_a_missing_image_is_named(tmp_path):
    folder = comparison(tmp_path / "demo")
    (folder / "base" / "1_0.png").unlink()
    with pytest.raises(DataError, match=r"base/1_0\.png"):
        write_report(folder)


def test_large_images_are_inlined_small(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (1024, 1024, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "large.png")
    assert data_uri(tmp_path / "large.png").startswith("data:image/webp;base64,")
    assert len(data_uri(tmp_path / "large.png")) < 120_000  # 256 px of pure noise; a photograph is a tenth of that


def kinds(rows: list[dict]) -> list[str]:
    return [finding.kind for finding in findings(rows, initial_loss=LN_2)]


def test_findings_name_the_warning_signs():
    assert kinds(metrics(100)) == ["note", "good"]
    assert kinds(metrics(100, loss=math.log(2))) == ["warning", "good"]
    assert kinds(metrics(100, loss=0.1)) == ["warning", "good"]
    assert kinds(metrics(100, chosen_change=1e-3, rejected_change=2e-3)) == ["note", "warning"]
    assert kinds(metrics(100, saturated=0.5)) == ["note", "good", "warning"]
    assert findings([{"step": 1, "loss": 0.5}], initial_loss=LN_2) == []


@pytest.mark.parametrize(
    ("low", "high", "unreadable", "kind"),
    [
        (0.03, 0.08, 29, "note"),
        (0.03, 0.08, 42, "note"),  # one picture more, of 41: chance
        (0.03, 0.08, 80, "warning"),
        (-0.01, 0.08, 29, "warning"),
        (-0.08, -0.01, 29, "warning"),
    ],
)
def test_signs_of_training_pairs_are_no_warnings_where_held_out_prompts_gain(
    low: float, high: float, unreadable: int, kind: str
):
    rows = metrics(100, loss=0.1, chosen_change=1e-3, rejected_change=2e-3)
    found = findings(rows, initial_loss=LN_2, found=outcome(changed_summary(unreadable, mean=0.05, low=low, high=high)))
    assert [finding.kind for finding in found] == [kind, kind]
    gained = "better: Faithfulness +5.0 points (+3.0 to +8.0)"
    assert all((gained in one.text) == (low > 0) for one in found)


def changed_summary(unreadable: int = 41, **shift: float) -> dict:
    """A comparison whose one difference, and whose unreadable pictures after, are others; base has 41."""
    content = summary()
    content["equal"]["differences"]["aligned - base"]["faithfulness"] = SHIFT | shift
    content["equal"]["models"]["aligned"] |= {"unreadable": unreadable}
    return content


WORSE = {"mean": -0.05, "low": -0.08, "high": -0.02}


def test_nothing_is_called_good_where_images_got_worse():
    accuracy = {
        f"validation/pair_accuracy/{key}": value for key, value in (("mean", 0.6), ("low", 0.55), ("high", 0.7))
    }
    rows = [*metrics(5, loss=0.1), {"step": 5, **accuracy}]
    assert kinds(rows) == ["good", "note", "good"]
    found = findings(rows, initial_loss=LN_2, found=outcome(changed_summary(**WORSE)))
    assert [finding.kind for finding in found] == ["note", "warning", "note"]
    assert "worse: Faithfulness −5.0 points (−8.0 to −2.0)" in found[0].text


def test_pairs_that_are_ordered_by_chance_are_a_note_where_images_got_better():
    accuracy = {
        f"validation/pair_accuracy/{key}": value for key, value in (("mean", 0.5), ("low", 0.45), ("high", 0.6))
    }
    (alone,) = findings([{"step": 5, **accuracy}], initial_loss=LN_2)
    (beside,) = findings([{"step": 5, **accuracy}], initial_loss=LN_2, found=outcome(summary()))
    assert (alone.kind, beside.kind) == ("warning", "note")
    assert beside.text.startswith(alone.text)


@pytest.mark.parametrize(
    ("shift", "tick", "lost"),
    [({}, "right", 0), ({"low": -0.01}, "wrong", 0), ({"n": 4}, "wrong", 0), (WORSE, "wrong", 1)],
)
def test_ticks_words_and_warnings_of_the_page_agree(shift: dict, tick: str, lost: int, tmp_path: Path):
    run = comparison(tmp_path / "demo")
    content = changed_summary(**shift)
    content["goals"] = [{"goal": "Faithfulness, by an older rule", "seen": "", "reached": tick == "wrong"}]
    (run / "summary.json").write_text(json.dumps(content))
    text = write_report(run).read_text()
    goal = re.search(r'<li class="(right|wrong)">Faithfulness at least 5 points above base: ', text)
    assert goal is not None
    assert goal[1] == tick
    word = {"right": "better", "wrong": "worse" if lost else "unclear"}[tick]
    assert f'class="{word}"' in text.partition("What was to be shown")[0]
    assert text.count('<div class="finding warning">Worse than base: Faithfulness') == lost
    assert "older rule" not in text


def test_held_out_pairs_contradict_memory_but_not_worse_images():
    rows = [*metrics(5, loss=0.1, chosen_change=1e-3, rejected_change=2e-3), pair_accuracy(0.6, 0.55, 0.7)]
    assert [finding.kind for finding in findings(rows, initial_loss=LN_2)] == ["good", "note", "warning"]


def test_chart_points_by_hand():
    # two steps span the plot from left to right; a twentieth of two steps is less than one: no smoothing
    chart = line_chart("t", "n", [1, 3], {"a": [0.0, 1.0]})
    first, last = (point.split(",") for point in chart.lines[0].smooth.split())
    assert (float(first[0]), float(last[0])) == (LEFT, RIGHT)
    assert float(first[1]) > float(last[1])  # y grows downwards
    assert chart.lines[0].last == "1"


def test_a_guide_is_always_inside_the_plot():
    chart = line_chart("t", "n", [1, 2], {"a": [0.69, 0.70]}, {"far": 5.0})
    assert 10 < chart.guides[0].position < 180


def test_values_that_are_not_finite_are_left_out():
    chart = line_chart("t", "n", [1, 2, 3], {"a": [1.0, math.nan, 3.0], "none": [math.nan] * 3})
    assert len(chart.lines[0].raw.split()) == 2
    assert chart.lines[1].raw == ""
    assert chart.lines[1].last == "–"


def test_long_series_are_thinned_without_losing_their_mean():
    chart = line_chart("t", "n", range(1, 1001), {"a": [2.0] * 1000})
    points = chart.lines[0].raw.split()
    assert len(points) == 300
    assert len({point.split(",")[1] for point in points}) == 1


def test_trailing_mean_by_hand():
    np.testing.assert_allclose(trailing_mean(np.array([1.0, 3.0, 5.0, 7.0]), 2), [1, 2, 4, 6])


def test_labels_of_an_axis_differ():
    assert numbers([0.6935, 0.694, 0.6945]) == ["0.6935", "0.694", "0.6945"]
    assert numbers([0.0, 0.5]) == ["0", "0.5"]


@pytest.mark.parametrize("steps", [2, 10, 137, 1000, 12345])
def test_the_axis_of_steps_shows_its_end(steps: int):
    chart = line_chart("loss", "", range(1, steps + 1), {"loss": [1.0] * steps})
    assert chart.x_ticks[-1] == (RIGHT, str(steps))
    assert all(b.position - a.position > 0.12 * (RIGHT - LEFT) for a, b in itertools.pairwise(chart.x_ticks))


def test_axes_and_findings_have_minus_signs():
    assert [tick.label for tick in line_chart("", "", [1, 2], {"": [-3.0, -1.0]}).y_ticks] == [
        "−3",
        "−2.5",
        "−2",
        "−1.5",
        "−1",
    ]
    [*_, change] = findings(metrics(10), initial_loss=LN_2)  # the last 2 of 10 steps: chosen -9e-5 and -1e-4
    assert "denoised better (−9.5e−05)" in change.text


def test_ticks_are_round_and_inside():
    np.testing.assert_allclose(ticks(0, 1), [0, 0.2, 0.4, 0.6, 0.8, 1.0])
    np.testing.assert_allclose(ticks(0.687, 0.702), [0.69, 0.695, 0.7])
    assert ticks(3, 3) == [3]


def sheets(folder: Path, steps: tuple[int, ...], color: str = "blue") -> None:
    """Validation images of two prompts after each of these steps."""
    for step in steps:
        images = {"base": [Image.new("RGB", (64, 64), "red")] * 2, "policy": [Image.new("RGB", (64, 64), color)] * 2}
        picture, sheet = draw_sheet(step, ["a <cat>", "a dog"], images)
        write_sheet(folder / "validation", picture, with_scores(sheet, {"own": {"policy": {0: step / 10}}}))


def test_a_run_shows_its_validation_images_from_the_base_to_the_end(tmp_path: Path):
    run = training_run(tmp_path / "run", metrics(60))
    sheets(run, (0, 10, 20, 30, 40, 50, 60))
    text = write_report(run).read_text()
    assert text.index("Images along the way") < text.index("<h2>Training</h2>")
    assert '<h3>a &lt;cat&gt; <span class="soft">seed 0</span></h3>' in text
    shown = re.findall(r'class="who">([^<]*)(?:<br>own (\S+))?</div>', text)
    steps = [("policy, step 20", "2"), ("policy, step 40", "4"), ("policy, step 60", "6")]
    assert shown == [("base", ""), *steps, ("base", ""), *((label, "") for label, _ in steps)]


def online_run(folder: Path) -> Path:
    """Two iterations of one kept group each, in which the spread of images halves."""
    rows: list[dict] = []
    for step in range(1, 13):
        rows.append(
            {"step": step, "iteration": step - 1, "reward/own": 0.5 + step / 100, "rollout/diversity": 2 - step / 8}
        )
        rows.append({"step": step, "loss": 1.0, "validation/own/base": 0.5, "validation/own/policy": 0.6})
    training_run(folder, rows, "loop: online\nobjective: {name: nft}\nmonitor: {every_iterations: 2}\n")
    lines = []
    for iteration, image, advantage in ((0, 0, -1.0), (0, 1, 1.0), (11, 0, 0.5), (11, 1, None)):
        file = f"{iteration}-{image}.png"
        Image.new("RGB", (8, 8), "red").save(folder / file)
        lines.append(
            {"iteration": iteration, "group": iteration, "image": image, "prompt": "a <ring>", "file": file,
             "rewards": {"own": 0.25 if image else None}, "advantage": advantage}
        )  # fmt: skip
    (folder / "rollouts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_an_online_run_shows_its_groups_best_first_and_its_signs(tmp_path: Path):
    page = write_report(online_run(tmp_path / "run")).read_text()
    assert page.index("Iteration 1: a &lt;ring&gt;") < page.index("Iteration 12: a &lt;ring&gt;")
    said = re.findall(r"advantage (\S+?)<br>own (\S+?)</div>", page)
    assert said == [("1", "0.25"), ("−1", "none"), ("0.5", "none"), ("none", "0.25")]
    assert "Images of a prompt become alike: rollout/diversity went from 1.81 to 0.562." in page
    assert "trained on rises even where nothing gets better" in page


def test_what_is_trained_on_and_what_is_held_out_share_a_chart(tmp_path: Path):
    rows = [json.loads(line) for line in (online_run(tmp_path / "run") / "metrics.jsonl").read_text().splitlines()]
    charts = {chart.title: [line.label for line in chart.lines] for chart in training_charts(rows, initial_loss=None)}
    assert charts["own"] == ["trained on", "base", "policy"]
    assert charts["rollout/diversity"] == ["diversity"]
