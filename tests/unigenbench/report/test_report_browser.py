"""The report in a real browser without a network; run by `make test-browser`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hand_made
import pytest
from browser import PATIENCE, chromium
from PIL import Image

from unigenbench.report.build import write_page
from unigenbench.taxonomy import CRITERIA
from unigenbench.types import RunLog

pytestmark = pytest.mark.browser

HOSTILE = "</script><script>document.title = 'taken'</script><img src=x onerror=\"document.title = 'taken'\">"
PROMPTS = hand_made.prompt_set(
    [
        hand_made.prompt(0, *(criterion.name for criterion in CRITERIA)),
        hand_made.prompt(1, "Text Generation", "Style", text=HOSTILE, theme="Design", subtheme="Logo/Icon Design"),
        *(hand_made.prompt(index, "Style", "Attribute - Color") for index in range(2, 110)),
    ]
)
IMAGES = 2


def all_but_text(prompt: int, image: int, place: int) -> int:
    return int(not (prompt == 1 and place == 0))


def all_but_one_style(prompt: int, image: int, place: int) -> int:
    """Against `all_but_text`: the text of prompt 1 is gained, Style of prompt 2 lost on image 1."""
    return int(not (prompt == 2 and image == 1 and place == 0))


def make_run(folder: Path, name: str, rule: hand_made.Verdict) -> RunLog:
    images = folder / name
    images.mkdir()
    for index in range(3):
        for image in range(IMAGES):
            Image.new("RGB", (64, 64), (80 * index, 90, 120 * image)).save(images / f"{index}_{image}.png")
    log = hand_made.run(PROMPTS, rule, images=IMAGES)
    log.manifest["images"]["root"] = str(images)
    refused = hand_made.judgement(PROMPTS.prompts[-1], IMAGES - 1, None, "refused")
    return RunLog(images, log.manifest, log.prompts, (*log.judgements[:-1], refused))


def until(page: Any, claim: str) -> None:
    """Waits for a claim in JavaScript; asked anew from here, as the page's policy forbids a script that polls it."""
    deadline = time.monotonic() + PATIENCE / 1000
    while not page.evaluate(claim):
        assert time.monotonic() < deadline, claim
        time.sleep(0.05)


class Opened:
    """A report that a browser has opened, with what happened meanwhile."""

    def __init__(self, context: Any, path: Path):
        self.path = path
        self.requests: list[str] = []
        self.faults: list[str] = []
        self.page = context.new_page()
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("console", lambda message: self.faults.append(message.text) if message.type == "error" else None)
        self.open()

    def open(self, hash: str = "") -> None:
        """Loads the page anew, as from a bookmark."""
        self.page.goto("about:blank")
        self.page.goto(self.path.as_uri() + hash)
        self.page.locator("article.card").first.wait_for()

    def count(self) -> str:
        return self.page.locator("#count").inner_text()


@pytest.fixture(scope="module")
def context() -> Iterator[Any]:
    with chromium() as context:
        yield context


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> list[RunLog]:
    folder = tmp_path_factory.mktemp("runs")
    return [make_run(folder, "base", all_but_text), make_run(folder, "aligned", all_but_one_style)]


@pytest.fixture(scope="module")
def single(context: Any, logs: list[RunLog], tmp_path_factory: pytest.TempPathFactory) -> Opened:
    """One run, its images inside the file."""
    out = tmp_path_factory.mktemp("page") / "single.html"
    write_page(logs[:1], out, bootstrap=20, embed=True)
    return Opened(context, out)


@pytest.fixture(scope="module")
def pair(context: Any, logs: list[RunLog], tmp_path_factory: pytest.TempPathFactory) -> Opened:
    """Two runs, their images linked."""
    out = tmp_path_factory.mktemp("page") / "pair.html"
    write_page(logs, out, bootstrap=20)
    return Opened(context, out)


def test_it_opens_without_a_network_and_asks_for_nothing(single: Opened):
    single.open()
    assert single.page.locator(".radar .axis").count() == 10
    assert single.page.locator(".radar .outline").count() == 1
    until(single.page, "document.querySelector('article.card img').naturalWidth === 64")
    assert {url.split(":")[0] for url in single.requests} <= {"file", "data", "about"}
    assert {url for url in single.requests if url.startswith("file:")} == {single.path.as_uri()}
    assert single.faults == []


def test_no_more_than_200_cards_are_in_the_document_and_pages_turn(single: Opened):
    single.open()
    assert single.count() == "220 images"
    assert 0 < single.page.locator("article.card").count() <= 200
    first = single.page.locator("article.card").first.get_attribute("id")
    single.page.locator("#next").click()
    assert single.page.locator("article.card").first.get_attribute("id") != first
    assert "page=2" in single.page.url


def test_filters_change_the_cards_and_the_address_brings_them_back(single: Opened):
    single.open()
    single.page.select_option("[name=dimension]", "text")
    assert single.count() == "4 of 220 images"  # prompts 0 and 1, two images each
    single.page.keyboard.press("Escape")
    single.page.locator("h2", has_text="Gallery").click()
    single.page.keyboard.press("f")
    assert single.count() == "2 of 220 images"  # only prompt 1 fails
    assert single.page.locator("article.card").count() == 2
    hash = single.page.url.partition("#")[2]
    single.open(f"#{hash}")
    assert single.count() == "2 of 220 images"
    single.page.locator("#reset").click()
    single.page.fill("[name=q]", "#17")
    assert single.count() == "2 of 220 images"
    single.page.fill("[name=q]", "")
    single.page.select_option("[name=theme]", "Design/Logo/Icon Design")
    assert single.count() == "2 of 220 images"


def test_an_image_without_a_verdict_is_found_by_its_status_and_says_so(single: Opened):
    single.open("#status=refused")
    assert single.count() == "1 of 220 images"
    assert single.page.locator(".trouble").inner_text() == "no verdict: refused by the judge"
    assert set(single.page.locator(".verdict").all_inner_texts()) == {"–"}
    single.open("#verdict=none")
    assert single.count() == "1 of 220 images"


def test_a_cell_of_the_heat_table_leads_to_its_images(single: Opened):
    single.open()
    single.page.locator(".heat tbody tr", has_text="Design").locator("a").last.click()
    until(single.page, "document.querySelectorAll('article.card').length === 2")
    assert single.page.locator("[name=dimension]").input_value() == "text"


def test_j_and_k_walk_through_the_cards_and_leave_a_permalink(single: Opened):
    single.open()
    single.page.locator("h2", has_text="Gallery").click()
    for key in "jjk":
        single.page.keyboard.press(key)
    current = single.page.locator("article.card.current")
    assert current.get_attribute("id") == "card-0.0"
    assert single.page.url.endswith("card=0.0")
    single.open("#card=60.1")  # on a later page
    assert single.page.locator("article.card.current .where").inner_text().startswith("#60 image 1")


def test_script_tags_of_prompts_and_scripts_from_elsewhere_are_inert(single: Opened):
    single.open("#card=1.0")
    assert single.page.locator("article.card.current .prompt").inner_text() == HOSTILE
    assert single.page.evaluate(
        """() => {
            try {
                const script = document.createElement("script");
                script.textContent = "document.title = 'taken'";
                document.body.append(script);
            } catch (refused) { }
            try { document.body.insertAdjacentHTML("beforeend", "<img src=x onerror=\\"document.title = 'taken'\\">"); }
            catch (refused) { return document.title; }
            return "HTML was taken from a string";
        }"""
    ).startswith("UniGenBench")
    single.faults.clear()


def test_two_runs_stand_side_by_side_and_changed_verdicts_are_marked(pair: Opened):
    pair.open("#change=any")
    assert pair.count() == "3 of 220 images"  # the text of prompt 1 on both images, Style of prompt 2 on image 1
    cards = pair.page.locator("article.card")
    assert [cards.nth(place).locator("figure").count() for place in range(3)] == [2, 2, 2]
    assert cards.nth(0).locator("tr.changed .tag").all_inner_texts() == ["better"]
    assert cards.nth(0).locator("tr.changed .verdict").all_inner_texts() == ["✗", "✓"]
    assert cards.nth(2).locator("tr.changed .tag").all_inner_texts() == ["worse"]
    until(pair.page, "[...document.querySelectorAll('article.card img')].every(i => i.naturalWidth === 64)")
    assert {url.split(":")[0] for url in pair.requests} <= {"file", "about"}
    assert pair.faults == []
    pair.page.select_option("[name=change]", "gained")
    assert pair.count() == "2 of 220 images"
    pair.page.select_option("[name=change]", "")
    pair.page.select_option("[name=sort]", "changes")
    assert pair.page.locator("article.card").first.locator(".tag").count() == 1


def test_the_legend_hides_a_run(pair: Opened):
    pair.open()
    second = pair.page.locator(".radar .outline.r1")
    assert second.is_visible()
    pair.page.locator(".legend button").nth(1).click()
    assert not second.is_visible()
    assert pair.page.locator(".radar .outline.r0").is_visible()


def test_it_prints_without_its_controls_and_goes_dark_when_asked(pair: Opened):
    pair.open()
    light = pair.page.evaluate("getComputedStyle(document.body).backgroundColor")
    pair.page.emulate_media(color_scheme="dark")
    assert pair.page.evaluate("getComputedStyle(document.body).backgroundColor") != light
    pair.page.emulate_media(media="print")
    assert pair.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not pair.page.locator("#filters").is_visible()
    assert pair.page.locator("article.card").first.is_visible()
    pair.page.emulate_media(media="screen", color_scheme="light")


SECTIONS = ("overall", "dimensions", "themes", "gallery", "made")
PHONE, DESK = (390, 844), (1200, 900)


@pytest.fixture(params=[DESK, PHONE], ids=["desk", "phone"])
def sized(request: pytest.FixtureRequest, pair: Opened) -> Iterator[Opened]:
    """Two runs at the width of a desk and of a phone."""
    pair.page.set_viewport_size(dict(zip(("width", "height"), request.param, strict=True)))
    yield pair
    pair.page.set_viewport_size({"width": DESK[0], "height": DESK[1]})


def lands(opened: Opened, section: str) -> None:
    """Waits until a section's start is at the top of the window, with nothing above it, or the page has ended."""
    until(
        opened.page,
        f"""(() => {{
            const {{ top, left, width }} = document.getElementById("{section}").getBoundingClientRect();
            const isAtEnd = scrollY + innerHeight >= document.documentElement.scrollHeight - 1;
            const covering = document.elementFromPoint(left + width / 2, Math.max(0, top) + 1);
            return (0 <= top && top < 32 || isAtEnd && 0 < top && top < innerHeight)
                && !document.getElementById("bar").contains(covering);
        }})()""",
    )


@pytest.mark.parametrize("section", SECTIONS)
def test_an_anchor_lands_on_its_section(section: str, sized: Opened):
    sized.open(f"#{section}")
    lands(sized, section)
    sized.open()
    sized.page.locator(f"nav a[href='#{section}']").click()
    lands(sized, section)


def test_what_was_found_is_visible_on_a_phone_without_scrolling_sideways(pair: Opened, single: Opened):
    for opened, shown in ((pair, (".value", ".delta", ".range:not(.own)", ".count")), (single, (".value", ".range"))):
        opened.page.set_viewport_size({"width": PHONE[0], "height": PHONE[1]})
        opened.open()
        row = opened.page.locator("#dimensions tr.dimension", has_text="Style")
        for name in shown:
            box = row.locator(name).first.bounding_box()
            assert box, name
            assert box["x"] >= 0, name
            assert box["x"] + box["width"] <= PHONE[0], name
        assert "prompts" in row.inner_text()
        assert opened.page.evaluate("document.documentElement.scrollWidth") == PHONE[0]
        assert not opened.page.evaluate(
            """[...document.querySelectorAll("#overall *, #dimensions *, #themes *, #made *")]
                .filter((one) => one.getBoundingClientRect().right > innerWidth).map((one) => one.outerHTML)"""
        )
        opened.page.set_viewport_size({"width": DESK[0], "height": DESK[1]})


def test_the_scale_shows_its_end_above_the_bars(sized: Opened):
    sized.open()
    end = sized.page.locator("#dimensions .scale span").last.bounding_box()
    track = sized.page.locator("#dimensions .track svg").first.bounding_box()
    assert sized.page.locator("#dimensions .scale span").last.inner_text() == "100"
    assert end["x"] + end["width"] <= sized.page.viewport_size["width"]
    assert end["x"] + end["width"] / 2 == pytest.approx(track["x"] + track["width"], abs=2)
