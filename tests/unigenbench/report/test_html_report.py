"""The report as a file: what is in it, what cannot be, and where its figures come from."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import zlib
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import hand_made
import pytest
from PIL import Image
from typer.testing import CliRunner

from unigenbench.cli.main import app
from unigenbench.errors import DataError, InputError
from unigenbench.report.build import beside, check_count, write_page, write_report
from unigenbench.report.radar import CENTER_X, CENTER_Y, RADIUS, radar
from unigenbench.report.scores import Row, Score, bar_rows, heat_tables
from unigenbench.runs.store import RunStore
from unigenbench.scoring.scores import summarise
from unigenbench.taxonomy import CRITERIA, DIMENSIONS
from unigenbench.types import Judgement, RunLog

HOSTILE = 'A sign </script><script>document.title = "taken"</script> <img src=x onerror=alert(1)> & "quotes"'
PROMPTS = hand_made.prompt_set(
    [
        hand_made.prompt(0, *(criterion.name for criterion in CRITERIA)),
        hand_made.prompt(1, "Style", "Attribute - Color", theme="Design", subtheme="UI Design"),
        hand_made.prompt(2, "Text Generation", text=HOSTILE),
    ]
)


def write_run(folder: Path, rule: hand_made.Verdict = hand_made.case_b, **manifest: Any) -> Path:
    """A run folder of PROMPTS with its images beside it: 64 px, one colour per prompt."""
    images = folder.parent / "images of runs" / folder.name
    images.mkdir(parents=True)
    log = hand_made.run(PROMPTS, rule, images=2, **manifest)
    log.manifest["images"]["root"] = str(images)
    for judgement in log.judgements:
        color = (40 + 90 * judgement.prompt_index, 120, 30 + 100 * judgement.image_index)
        path = images / f"{judgement.prompt_index}_{judgement.image_index}.png"
        Image.new("RGB", (64, 64), color).save(path)
    log = replace(log, judgements=tuple(replace(j, image_sha256=digest(images, j)) for j in log.judgements))
    with RunStore(folder, log.manifest, PROMPTS) as store:
        for judgement in log.judgements:
            store.append(judgement)
    return folder


def digest(images: Path, judgement: Judgement) -> str:
    return hashlib.sha256((images / f"{judgement.prompt_index}_{judgement.image_index}.png").read_bytes()).hexdigest()


class Elements(HTMLParser):
    """Every start tag of a page, and the text of its script and style elements."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.code: list[tuple[str, dict[str, str | None], str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] in ("script", "style") and data.strip():
            self.code.append((*self.tags[-1], data))


def records(page: Path) -> dict[str, Any]:
    """What the page's script reads, unpacked the way the script does it."""
    block = re.search(r'id="data">([^<]*)<', page.read_text("utf-8"))
    assert block is not None
    return json.loads(zlib.decompress(base64.b64decode(block[1])))


def written(tmp_path: Path, logs: list[RunLog], **options: Any) -> Path:
    comparisons = [beside(logs[0], log) for log in logs[1:]]
    summaries = [summarise(log, bootstrap=50) for log in logs]
    return write_page(logs, summaries, comparisons, tmp_path / "report.html", **options).path


def test_the_page_asks_for_nothing_and_runs_only_its_own_script(tmp_path: Path):
    page = write_report([write_run(tmp_path / "a"), write_run(tmp_path / "b")], tmp_path / "report.html").path
    elements = Elements(page.read_text("utf-8"))
    addresses = [attributes[name] for _, attributes in elements.tags for name in ("src", "href") if name in attributes]
    assert all(value is not None and value.startswith("#") for value in addresses)
    assert not [tag for tag, _ in elements.tags if tag in ("link", "iframe", "object", "embed", "base")]
    names = {name for _, attributes in elements.tags for name in attributes}
    assert not [name for name in names if name.startswith("on") or name == "style"]
    policy = next(a["content"] or "" for tag, a in elements.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    for tag, attributes, text in elements.code:
        if "type" not in attributes:
            digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
            assert f"{tag}-src 'sha256-{digest}'" in policy
    assert sum(tag == "script" and "type" not in attributes for tag, attributes in elements.tags) == 1


def test_a_script_tag_in_prompts_replies_and_names_is_text(tmp_path: Path):
    log = hand_made.run(PROMPTS, hand_made.case_b, images=1, banner=HOSTILE)
    page = written(tmp_path, [log])
    tags = Elements(page.read_text("utf-8")).tags
    assert not [attributes for tag, attributes in tags if tag == "img" or "onerror" in attributes]
    assert sum(tag == "script" for tag, _ in tags) == 2  # the data and the page's own
    assert records(page)["prompts"][2]["text"] == HOSTILE


def test_only_named_fields_of_a_manifest_reach_the_page(tmp_path: Path):
    secret = "sk-1234567890abcdef"
    log = hand_made.run(
        PROMPTS,
        hand_made.case_b,
        endpoint=f"https://user:{secret}@host/v1?key={secret}",
        command=f"unigenbench judge --key {secret}",
        judge={"id": "0123456789ab", "name": "openai:m", "spec": {"model": "m", "extra": {"token": secret}}},
        generation={"token": secret},
    )
    page = written(tmp_path, [log])
    assert secret not in page.read_text("utf-8")
    assert secret not in json.dumps(records(page))


def test_a_key_of_the_environment_is_taken_out_of_replies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-1234567890abcdef")
    prompt = PROMPTS.prompts[1]
    reply = replace(
        hand_made.judgement(prompt, 0, None), raw="bad key sk-1234567890abcdef", error="sk-1234567890abcdef"
    )
    packed = json.dumps(records(written(tmp_path, [hand_made.log(hand_made.prompt_set([prompt]), [reply], images=1)])))
    assert "sk-1234567890abcdef" not in packed
    assert "bad key [key]" in packed


def test_the_command_writes_the_page_and_says_where(tmp_path: Path):
    run, out = write_run(tmp_path / "a"), tmp_path / "page.html"
    ran = CliRunner().invoke(app, ["report", str(run), "--out", str(out), "--thumbs", "32", "--embed-images"])
    assert (ran.exit_code, ran.exception) == (0, None)
    assert str(out) in ran.stdout.replace("\n", "")
    assert out.stat().st_size > 10_000


def test_the_command_refuses_a_folder_that_is_no_run(tmp_path: Path):
    ran = CliRunner().invoke(app, ["report", str(tmp_path), "--out", str(tmp_path / "page.html")])
    assert isinstance(ran.exception, InputError)
    assert list(tmp_path.iterdir()) == []


def test_axes_go_clockwise_from_the_top_in_the_order_of_the_board():
    rows = [Row(d.id, d.name, [Score(0.5, 0.25, 1.0, 4)], [None], []) for d in DIMENSIONS]
    drawn = radar(rows)
    assert [axis.id for axis in drawn.axes] == [d.id for d in DIMENSIONS]
    assert len(drawn.axes) == 10
    assert (drawn.axes[0].x, drawn.axes[0].y) == (CENTER_X, CENTER_Y - RADIUS)
    assert all(axis.x > CENTER_X for axis in drawn.axes[1:5])
    assert drawn.axes[5].y == CENTER_Y + RADIUS
    vertex = drawn.outlines[0].vertices[0]
    assert (vertex.x, vertex.y) == (CENTER_X, CENTER_Y - RADIUS / 2)
    assert vertex.whisker == (CENTER_X, CENTER_Y - RADIUS / 4, CENTER_X, CENTER_Y - RADIUS)
    assert [share for share, _ in drawn.rings] == [0.2, 0.4, 0.6, 0.8, 1.0]


def test_a_dimension_without_a_score_breaks_the_line_and_is_no_zero():
    rows = [Row(d.id, d.name, [Score(None if d.id == "attribute" else 0.5)], [None], []) for d in DIMENSIONS]
    outline = radar(rows).outlines[0]
    assert not outline.is_closed
    assert len(outline.vertices) == 9
    assert outline.path.count("M") == 2  # style to world knowledge, then from action on
    assert f"{CENTER_X:g} {CENTER_Y:g}" not in outline.path


def test_bars_show_the_ten_dimensions_and_the_23_criteria_of_those_that_have_several():
    log = hand_made.run(PROMPTS, hand_made.case_b)
    rows = bar_rows([summarise(log, bootstrap=50)])
    assert len(rows) == 10
    assert sum(len(row.children) for row in rows) == 23
    # Style: a point of prompt 0 and of prompt 1, at position 0 in both, four images each
    met = sum(hand_made.case_b(index, image, 0) for index in (0, 1) for image in range(4))
    assert rows[0].scores[0].value == met / 8
    assert rows[0].scores[0].total == 8


def test_differences_to_the_first_run_carry_interval_and_adjusted_p():
    prompts = hand_made.prompt_set([hand_made.prompt(index, "Style", "Text Generation") for index in range(20)])
    # Style: the first run never, the second always; Text: both always
    first, second = (hand_made.run(prompts, lambda *at, v=value: max(v, at[2]), images=1) for value in (0, 1))
    rows = bar_rows([summarise(log, bootstrap=50) for log in (first, second)], [beside(first, second).table])
    style, text = rows[0].differences, rows[-1].differences
    assert style[0] is None
    assert style[1] is not None
    assert style[1][:3] == (1.0, 1.0, 1.0)
    assert style[1].direction == "up"
    assert text[1] is not None
    assert (text[1].value, text[1].p, text[1].direction) == (0.0, 1.0, "level")


def test_runs_that_cannot_be_compared_are_shown_with_the_reason(tmp_path: Path):
    whole = hand_made.run(PROMPTS, hand_made.case_b, images=1)
    judged = [hand_made.judgement(prompt, 0, None) for prompt in PROMPTS.prompts]
    page = written(tmp_path, [whole, hand_made.log(PROMPTS, judged, images=1)]).read_text("utf-8")
    assert "B is not compared with A" in page
    assert "100.0% of 3 replies failed" in page


def test_the_difference_of_two_runs_is_the_second_minus_the_first():
    never, always = (hand_made.run(PROMPTS, lambda *_, v=value: v, images=1) for value in (0, 1))
    tables = heat_tables(["a", "b"], [summarise(log, bootstrap=50) for log in (never, always)])
    assert [table.title for table in tables] == ["b − a", "a", "b"]
    cells = dict(tables[0].rows)
    assert cells["Art"][0].value == 1.0
    assert cells["Design"][1].value is None  # no test point of world knowledge there


def test_runs_share_a_card_only_where_prompt_and_image_are_the_same(tmp_path: Path):
    other = hand_made.prompt_set([hand_made.prompt(0, "Style", text="another"), PROMPTS.prompts[1]], sha256="0" * 64)
    logs = [hand_made.run(PROMPTS, hand_made.case_b, images=1), hand_made.run(other, hand_made.case_b, images=1)]
    page = written(tmp_path, logs)
    sides = [[side is not None for side in card["sides"]] for card in records(page)["cards"]]
    assert sides == [[True, False], [True, True], [True, False], [False, True]]
    assert "different prompts" in page.read_text("utf-8")


def test_a_failed_judgement_is_shown_as_such_and_has_no_verdicts(tmp_path: Path):
    prompt = PROMPTS.prompts[1]
    judged = [hand_made.judgement(prompt, 0, [1, 0]), hand_made.judgement(prompt, 1, None, "refused")]
    page = written(tmp_path, [hand_made.log(hand_made.prompt_set([prompt]), judged, images=2)])
    answers = [card["sides"][0]["answers"] for card in records(page)["cards"]]
    assert answers[0][0]["verdicts"] == [1, 0]
    assert answers[1][0]["status"] == "refused"
    assert "verdicts" not in answers[1][0]
    assert "only 50.0 % of the images have verdicts" in page.read_text("utf-8")


def test_images_are_linked_relative_to_the_page(tmp_path: Path):
    page = write_report([write_run(tmp_path / "a")], tmp_path / "pages" / "report.html").path
    side = records(page)["cards"][0]["sides"][0]
    assert side["src"] == "../images%20of%20runs/a/0_0.png"
    assert not list(page.parent.glob("*thumbs*"))


def test_thumbnails_are_webp_of_the_asked_size_and_link_to_the_original(tmp_path: Path):
    page = write_report([write_run(tmp_path / "a")], tmp_path / "report.html", thumbs=16).path
    side = records(page)["cards"][0]["sides"][0]
    with Image.open(page.parent / side["src"]) as thumbnail:
        assert (thumbnail.format, thumbnail.size) == ("WEBP", (16, 16))
    assert side["full"] == "images%20of%20runs/a/0_0.png"


@pytest.mark.parametrize("thumbs", [None, 16])
def test_embedded_images_are_inside_the_file(tmp_path: Path, thumbs: int | None):
    page = write_report([write_run(tmp_path / "a")], tmp_path / "report.html", thumbs=thumbs, embed=True).path
    side = records(page)["cards"][0]["sides"][0]
    blocks = {a["id"]: (a["type"], text) for tag, a, text in Elements(page.read_text("utf-8")).code if a.get("id")}
    media_type, content = blocks[side["src"][1:]]
    if thumbs is None:
        original = (tmp_path / "images of runs" / "a" / "0_0.png").read_bytes()
        assert (media_type, base64.b64decode(content)) == ("image/png", original)
    else:
        assert media_type == "image/webp"
    assert "file:" not in page.read_text("utf-8").split("<title>")[0]
    assert list(tmp_path.glob("*thumbs*")) == []


def test_images_that_are_gone_are_said_and_do_not_stop_the_report(tmp_path: Path):
    run = write_run(tmp_path / "a")
    (tmp_path / "images of runs" / "a" / "1_0.png").unlink()
    report = write_report([run], tmp_path / "report.html")
    assert len(report.warnings) == 1
    assert report.warnings[0].startswith("not where they were judged: 1 image")
    assert "1_0" in report.warnings[0]


def test_an_image_that_was_made_anew_after_it_was_judged_is_said(tmp_path: Path):
    run = write_run(tmp_path / "a")
    report = write_report([run], tmp_path / "report.html")
    assert report.warnings == []
    image = tmp_path / "images of runs" / "a" / "1_0.png"
    later = (run / "judgements.jsonl").stat().st_mtime + 10
    os.utime(image, (later, later))  # only copied
    assert write_report([run], tmp_path / "report.html").warnings == []
    Image.new("RGB", (64, 64), "white").save(image)
    os.utime(image, (later, later))
    report = write_report([run], tmp_path / "report.html")
    assert len(report.warnings) == 1
    assert "not those that were judged" in report.warnings[0]
    assert "not those that were judged" in report.path.read_text("utf-8")


def test_a_damaged_image_ends_thumbnails_with_its_name(tmp_path: Path):
    run = write_run(tmp_path / "a")
    (tmp_path / "images of runs" / "a" / "1_0.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"1_0\.png: no readable image"):
        write_report([run], tmp_path / "report.html", thumbs=16)


def test_runs_of_one_folder_name_are_told_apart(tmp_path: Path):
    runs = [write_run(tmp_path / "base" / "run"), write_run(tmp_path / "aligned" / "run")]
    page = write_report(runs, tmp_path / "report.html").path
    assert [run["name"] for run in records(page)["runs"]] == ["base/run", "aligned/run"]


def test_runs_of_different_judges_are_warned_of(tmp_path: Path):
    logs = [hand_made.run(PROMPTS, hand_made.case_b, judge={"id": name * 12, "spec": {}}) for name in "ab"]
    assert "different judges" in written(tmp_path, logs).read_text("utf-8")


@pytest.mark.parametrize("count", [0, 5])
def test_a_report_shows_one_to_four_runs(count: int):
    with pytest.raises(InputError, match=f"{count} runs given"):
        check_count(count)
