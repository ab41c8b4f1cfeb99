"""Our own wording, and the official one of a checkout with made-up sentences under the official names."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from unigenbench.errors import InputError
from unigenbench.protocol.native import NativeRubric, render
from unigenbench.protocol.official import OFFICIAL_FILE, OfficialRubric
from unigenbench.protocol.parsing import Parsed, parse
from unigenbench.protocol.rubric import open_rubric
from unigenbench.taxonomy import CRITERIA
from unigenbench.types import Point, Prompt

ROOT = Path(__file__).parents[3]
MADE_UP = '''
"""A file with the official names and none of the official words."""
import nothing_of_this_name
raise SystemExit("executed")

SYSTEM_PROMPT_EN_TEMPLATE = (
    "Look at 「{prompt}」 for {testpoint}.\\n"
    "{explanation}\\n{test_explanation}\\nAnswer {{like this}}: {prompt}\\n"
)
SYSTEM_PROMPT_ZH_TEMPLATE = """看「{prompt}」：{testpoint}
{explanation}
{test_explanation}"""
EXPLANATION_DICT_EN: dict = {"Attribute - Color": "hue", "Action - Full-body (Character/Anthropomorphic)": "moves"}
EXPLANATION_DICT_ZH = {"属性-颜色": "色彩"}
LANG_CONFIGS = {
    "en": {"prompt_key": SYSTEM_PROMPT_EN_TEMPLATE, "checkpoint_header": "Means", "checkpoint_desc_header": "Here"},
    "zh": {"clean": str.strip, "checkpoint_header": "含义", "checkpoint_desc_header": "此处"},
}
'''


def prompt_of(text: str, *points: tuple[str, str, str]) -> Prompt:
    return Prompt(7, text, "", "", "", "", tuple(Point(*point) for point in points))


COLOR = ("attribute.color", "Attribute - Color", "the ball is {red}")
BODY = ("action.full_body", "Action - Full-body (Character/Anthropomorphic)", 'it\'s "dancing"')
PROMPT = prompt_of("A {red} ball", COLOR, BODY)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    path = tmp_path / OFFICIAL_FILE
    path.parent.mkdir(parents=True)
    path.write_text(MADE_UP, encoding="utf-8")
    return tmp_path


def test_the_official_wording_is_rendered_byte_for_byte_and_nothing_is_executed(checkout):
    # Python writes a list of strings with single quotes; braces of the prompt stay, those of the template are undone
    assert OfficialRubric(checkout, "en").render(PROMPT) == (
        "Look at 「A {red} ball」 for ['Attribute - Color', 'Action - Full-body (Character/Anthropomorphic)'].\n"
        "Means:「\nAttribute - Color: hue\nAction - Full-body (Character/Anthropomorphic): moves\n」\n"
        "Here:「\nAttribute - Color: the ball is {red}\n"
        'Action - Full-body (Character/Anthropomorphic): it\'s "dancing"\n」\n'
        "Answer {like this}: A {red} ball\n"
    )
    chinese = prompt_of("红球", ("attribute.color", "属性-颜色", "球是红的"))
    assert OfficialRubric(checkout, "zh").render(chinese) == (
        "看「红球」：['属性-颜色']\n含义:「\n属性-颜色: 色彩\n」\n此处:「\n属性-颜色: 球是红的\n」"
    )


def test_the_official_backends_differ_in_order_and_encoding(checkout):
    gemini, vllm = (open_rubric(f"official-{name}", "en", checkout) for name in ("gemini", "vllm"))
    assert (gemini.image_first, gemini.encoding) == (False, "raw")
    assert (vllm.image_first, vllm.encoding) == (True, "jpeg95")
    assert gemini.sha256 == vllm.sha256
    assert gemini.sha256 != open_rubric("official-gemini", "zh", checkout).sha256
    (checkout / OFFICIAL_FILE).write_text(MADE_UP.replace('"hue"', '"shade"'), encoding="utf-8")
    assert OfficialRubric(checkout, "en").sha256 != gemini.sha256


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("EXPLANATION_DICT_EN", "EXPLANATIONS_EN", "EXPLANATION_DICT_EN: not there"),
        ('"hue"', "hue()", r"eval_common.py:\d+: EXPLANATION_DICT_EN: an expression; it must be a literal"),
        ("{explanation}\\n", "{explanation.__class__}", r"fields explanation.__class__; known are"),
        ('"Look', '"}Look', "the template is no format string"),
        ('"en": {', '"english": {', "a dictionary with the key 'en'"),
        ("raise SystemExit", "raise raise", "no Python file"),
    ],
)
def test_a_checkout_that_is_not_as_expected_is_named(checkout, old, new, message):
    path = checkout / OFFICIAL_FILE
    assert old in path.read_text(encoding="utf-8")
    path.write_text(MADE_UP.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(InputError, match=message):
        OfficialRubric(checkout, "en")


def test_an_official_rubric_needs_a_checkout_and_known_labels(checkout, tmp_path):
    with pytest.raises(InputError, match="--official-checkout"):
        open_rubric("official-gemini", "en")
    with pytest.raises(InputError, match="native-v1, official-gemini, official-vllm"):
        open_rubric("official", "en", checkout)
    with pytest.raises(InputError, match=r"eval_common.py: not there"):
        OfficialRubric(tmp_path / "elsewhere", "en")
    with pytest.raises(InputError, match=r"prompt 7: label 'Style' has no explanation there"):
        OfficialRubric(checkout, "en").render(prompt_of("x", ("style", "Style", "")))


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_own_wording_says_everything_once(language):
    text = NativeRubric(language).render(PROMPT)
    assert text == render(PROMPT, language)
    assert text.count("«A {red} ball»") == 1
    color = next(criterion for criterion in CRITERIA if criterion.id == "attribute.color")
    assert (color.meaning if language == "en" else color.meaning_zh) in text
    assert re.findall(r"(?:Check|第) (\d)(?::| 项：)", text) == ["1", "2"]
    for _, label, description in (COLOR, BODY):
        assert text.count(label) == 1
        assert text.count(description) == 1
    assert not re.search(r"\{(prompt|n|k|label|meaning|description)\}", text)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_point_without_a_description_has_no_line_for_it(language):
    without = prompt_of("A ball", (*COLOR[:2], " "))
    rubric = NativeRubric(language)
    lines = rubric.render(prompt_of("A ball", COLOR)).split("\n")
    assert [line for line in lines if COLOR[2] not in line] == rubric.render(without).split("\n")
    with pytest.raises(InputError, match="no test points"):
        rubric.render(prompt_of("A ball"))


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("n", [1, 2, 10])
def test_the_form_that_the_own_wording_shows_is_the_one_that_is_read(language, n):
    points = [(criterion.id, criterion.name, "x") for criterion in CRITERIA[:n]]
    text = NativeRubric(language).render(prompt_of("x", *points))
    shown = re.search(r"<score>\[(.*)\]</score>\Z", text)
    assert shown
    answered = text[: shown.start(1)] + ", ".join("1" for _ in shown[1].split(", ")) + text[shown.end(1) :]
    found = parse(answered, n)
    assert isinstance(found, Parsed)
    assert found.verdicts == (1,) * n
    assert len(found.analyses) == n
    assert not isinstance(parse(text, n), Parsed), "the question itself is no answer"


def test_the_hash_is_of_the_words():
    english, chinese = NativeRubric("en"), NativeRubric("zh")
    assert english.sha256 == NativeRubric("en").sha256
    assert english.sha256 != chinese.sha256
    assert english.id == chinese.id == "native-v1"


def test_the_shipped_judge_was_trained_on_these_words():
    record = json.loads((ROOT / "assets/shapes-judge/training.json").read_text(encoding="utf-8"))
    english = NativeRubric("en")
    assert (record["rubric"], record["rubric_sha256"]) == (english.id, english.sha256), (
        "the wording or a meaning changed: give the rubric a new id and train the judge again, or take the change back"
    )
