"""The report as a file: what is in it, what cannot be, and where its figures come from."""

from __future__ import annotations

import base64
import hashlib
import html
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
from unigenbench.report import runs as runs_module
from unigenbench.report.build import check_count, write_page, write_report
from unigenbench.report.facts import shared_images
from unigenbench.report.radar import CENTER_X, CENTER_Y, RADIUS, radar
from unigenbench.report.runs import compare_with, gather
from unigenbench.report.scores import Difference, Row, Score, bar_rows, heat_tables
from unigenbench.runs.store import RunStore
from unigenbench.scoring import compare as compare_module
from unigenbench.scoring.scores import summarise
from unigenbench.taxonomy import CRITERIA, DIMENSIONS
from unigenbench.types import STATUSES, Judgement, PromptSet, RunLog

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
    return write_page(logs, tmp_path / "report.html", bootstrap=50, **options).path


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
    assert drawn is not None
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
    drawn = radar(rows)
    assert drawn is not None
    outline = drawn.outlines[0]
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
    rows = bar_rows([summarise(log, bootstrap=50) for log in (first, second)], [compare_with(first, second).table])
    style, text = rows[0].differences, rows[-1].differences
    assert style[0] is None
    assert style[1] is not None
    assert style[1][:3] == (1.0, None, None)  # all prompts alike: no interval
    assert (style[1].is_thin, style[1].direction, style[1].word) == (True, "up", "better")
    assert text[1] is not None
    assert (text[1].value, text[1].p, text[1].word) == (0.0, 1.0, "unclear")


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


SHORT = hand_made.prompt_set([hand_made.prompt(index, "Style", "Text Generation") for index in range(8)])


def partly(rule: hand_made.Verdict, missing: set[int], prompts: PromptSet = SHORT) -> RunLog:
    """A run of one image per prompt, some prompts of which have no verdict."""
    judged = [
        hand_made.judgement(prompt, 0, None if prompt.index in missing else [rule(prompt.index, 0, k) for k in (0, 1)])
        for prompt in prompts.prompts
    ]
    return hand_made.log(prompts, judged, images=1)


def text_of(page: Path) -> str:
    """What a reader sees above the gallery, spaces joined."""
    whole = page.read_text("utf-8").split("<main>")[1].split('<section id="gallery">')[0]
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", whole)))


def test_scores_of_a_comparison_are_over_the_images_of_its_difference(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(compare_module, "MAX_FAILED", 1.0)
    # Style: A meets it on prompts 0 to 3, B on all. A lacks prompt 0, B prompt 7: both have 1 to 6, of which A meets 3
    first, second = partly(lambda i, *_: int(i < 4), {0}), partly(lambda *_: 1, {7})
    comparison = compare_module.compare(first, second, max_failed=1.0, bootstrap=50)
    monkeypatch.setattr(runs_module, "compare", lambda *_, **__: comparison)
    runs, comparisons = gather([first, second], bootstrap=50)
    rows = bar_rows([run.scores for run in runs], [one.table for one in comparisons])
    style = rows[0]
    assert [score.value for score in style.scores] == [0.5, 1.0]
    assert style.differences[1] is not None
    assert style.differences[1].value == 0.5
    assert runs[0].summary["dimensions"]["style"]["score"] == 3 / 7  # over all of its own
    told = shared_images(runs, comparisons)
    assert "over the same 6 images of 6 prompts" in told
    assert "1 of A, 1 of B" in told


@pytest.mark.parametrize("count", [2, 3, 4])
def test_every_difference_is_that_of_the_scores_beside_it(count: int):
    prompts = hand_made.prompt_set([hand_made.prompt(index, "Style", "Text Generation") for index in range(40)])
    logs = [partly(lambda i, _, k, r=run: (i * (r + 2) + k) % 3 % 2, {run, 10 + run}, prompts) for run in range(count)]
    runs, comparisons = gather(logs, bootstrap=50)
    rows = bar_rows([run.scores for run in runs], [one.table for one in comparisons])
    assert all(one.table for one in comparisons)
    assert {run.images for run in runs} == {40 - 2 * count}
    for row in rows:
        for score, difference in zip(row.scores[1:], row.differences[1:], strict=True):
            if difference is not None:
                assert score.value is not None
                assert row.scores[0].value is not None
                assert difference.value == pytest.approx(score.value - row.scores[0].value, abs=1e-12)


def test_runs_that_share_no_image_of_all_are_shown_without_differences(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(runs_module, "compare", lambda *_, **__: {"warnings": []})
    logs = [partly(lambda *_: 1, missing) for missing in ({0, 1, 2}, {3, 4, 5}, {6, 7})]
    runs, comparisons = gather(logs, bootstrap=20)
    assert [one.table for one in comparisons] == [None, None]
    assert "no image has verdicts in all 3 runs" in comparisons[0].refusal
    assert runs[0].images == 5
    assert shared_images(runs, comparisons) == ""


@pytest.mark.parametrize(("prompts", "is_thin"), [(1, True), (4, True), (5, False)])
def test_an_interval_of_few_prompts_is_withheld_and_said_to_be_thin(prompts: int, is_thin: bool, tmp_path: Path):
    entry = {"score": 1.0, "total": 8, "prompts": prompts, "ci": [0.9, 1.0]}
    assert Score.read(entry).is_thin == is_thin
    assert (Score.read(entry).low is None) == is_thin
    assert Difference.read({"difference": 0.1, "ci": [0.0, 0.2], "p": 0.5, "prompts": prompts}) == Difference(
        0.1, *((None, None) if is_thin else (0.0, 0.2)), 0.5, is_thin
    )


def test_no_interval_has_two_equal_ends(tmp_path: Path):
    page = text_of(written(tmp_path, [hand_made.run(SHORT, lambda *_: 1), hand_made.run(SHORT, lambda *_: 0)]))
    assert "100.0–100.0" not in page
    assert not [ends for ends in re.findall(r"(\S+) to (\S+)", page) if ends[0].strip(",") == ends[1].strip(",")]
    assert "thin" in page


def test_counts_name_prompts_images_and_points(tmp_path: Path):
    page = text_of(written(tmp_path, [hand_made.run(SHORT, hand_made.case_b, images=2)]))
    assert "8 prompts, 16 images, 32 test points" in page
    assert "8 prompts 16 points" in page  # Style


def test_better_and_worse_are_words_with_minus_signs(tmp_path: Path):
    prompts = hand_made.prompt_set([hand_made.prompt(index, "Style", "Text Generation") for index in range(20)])
    lost = hand_made.run(prompts, lambda index, image, place: int(place == 1 or index == 0), images=1)
    page = written(tmp_path, [hand_made.run(prompts, lambda *_: 1, images=1), lost])
    assert "−47.50 points: worse than A" in text_of(page)
    assert "−95.0 worse" in text_of(page)
    assert "0.0 unclear" in text_of(page)
    assert "+0.0" not in text_of(page)
    assert not re.search(r"(?<![\w–])-\d", text_of(page))  # no hyphen before a number
    assert 'class="r1 down"' in page.read_text("utf-8")


@pytest.mark.parametrize(("labels", "is_radar"), [(1, False), (2, False), (3, True)])
def test_fewer_than_three_dimensions_are_bars(labels: int, is_radar: bool, tmp_path: Path):
    names = ("Style", "Text Generation", "World Knowledge")[:labels]
    prompts = hand_made.prompt_set([hand_made.prompt(index, *names) for index in range(6)])
    page = written(tmp_path, [hand_made.run(prompts, hand_made.case_b)]).read_text("utf-8")
    figure = page.split('<figure class="radar">')[1].split("</figure>")[0]
    assert ('class="outline' in figure) == is_radar
    assert figure.count('<rect class="bar"') == (0 if is_radar else labels)
    assert "Without test points: " in page


def test_axes_are_labelled_up_to_their_end(tmp_path: Path):
    page = written(tmp_path, [hand_made.run(PROMPTS, hand_made.case_b)]).read_text("utf-8")
    assert "<span>0</span><span>25</span><span>50</span><span>75</span><span>100</span>" in page
    assert re.findall(r'class="tick"[^>]*>(\d+)<', page) == ["20", "40", "60", "80", "100"]


def test_what_a_reader_sees_has_no_names_of_fields(tmp_path: Path):
    prompt = SHORT.prompts[0]
    judged = [hand_made.judgement(prompt, 0, [1, 0]), hand_made.judgement(prompt, 1, None, "transport_failed")]
    page = written(tmp_path, [hand_made.log(hand_made.prompt_set([prompt]), judged, images=2)])
    assert "_" not in re.sub(r"model/\S+", "", text_of(page))  # but in the name of a file
    assert "1 no reply" in page.read_text("utf-8")
    assert records(page)["statuses"].keys() == set(STATUSES)
    assert "no test points of World Knowledge, " in text_of(page)
