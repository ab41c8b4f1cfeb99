"""A language model behind a real socket: its answers, its failures, and what is never written as data."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import stub as server
from captioned import image_table, rows_of
from odd_json import odd_completion

from t2ialign.errors import EnvironmentProblem, InputError, TryAgainError
from t2ialign.feedback.negative_captions.base import Answer, Kind
from t2ialign.feedback.negative_captions.language_model import ModelEditor
from t2ialign.feedback.negative_captions.write import perturb_images


def caption(call: server.Call) -> str:
    """The prompt that is asked about."""
    return call.text.rsplit("Caption: ", 1)[1]


def editor(stub: server.Stub, **options) -> ModelEditor:
    return ModelEditor("tiny", base_url=stub.url + "/v1", **{"tries": 1, "timeout_seconds": 5.0, **options})


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch):
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("text", "outcome", "written"),
    [
        ("a blue car", "written", "a blue car"),
        ('"a blue car"', "written", "a blue car"),
        ("Caption: a blue car\n", "written", "a blue car"),
        ("<think>red, so\nblue</think>\na blue car", "written", "a blue car"),
        ("NONE", "inapplicable", ""),
        ("A red car.", "unchanged", "A red car."),
        ("a crimson car", "near_synonym", "a crimson car"),
        ("Sure!\nHere it is: a blue car", "malformed", "Sure!\nHere it is: a blue car"),
    ],
)
def test_an_answer_is_read_and_judged(text: str, outcome: str, written: str):
    with server.serve(lambda call: server.Answer(text)) as stub:
        assert editor(stub)("a red car", "attribute", 7) == Answer(outcome, written)  # type: ignore[arg-type]


def test_the_question_holds_the_kind_the_prompt_and_the_seed():
    with server.serve(lambda call: server.Answer("a dog")) as stub:
        editor(stub, temperature=0.3)("a cat", "content", 2**40 + 5)
    body = stub.calls[0].body
    assert caption(stub.calls[0]) == "a cat"
    assert "another object, animal or person" in stub.calls[0].text
    assert (body["model"], body["temperature"], body["seed"]) == ("tiny", 0.3, 5)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (server.Answer("a blu", finish_reason="length"), "ended by 'length'"),
        (server.Answer("", finish_reason="content_filter"), "ended by 'content_filter'"),
        (server.Answer(raw=b"not json"), ""),
        (server.Answer(raw=b"{}"), "no chat completion"),
        (server.error(500, "broken"), "HTTP 500"),
        (server.Answer(cut=True), ""),
    ],
)
def test_what_is_no_answer_is_a_failure(answer: server.Answer, message: str):
    with server.serve(lambda call: answer) as stub:
        found = editor(stub)("a red car", "attribute", 0)
    assert found.outcome == "failed"
    assert message in found.text


def test_transient_failures_are_tried_again():
    def answer(call: server.Call) -> server.Answer:
        return server.error(503, "busy", retry_after="0.01") if call.number < 2 else server.Answer("a blue car")

    with server.serve(answer) as stub:
        assert editor(stub, tries=3)("a red car", "attribute", 0).outcome == "written"
    assert len(stub.calls) == 3


@pytest.mark.parametrize("status", [401, 404, 400])
def test_a_server_that_will_refuse_everything_ends_the_run(status: int, tmp_path: Path):
    table = image_table(tmp_path / "in", [f"a dog {i}" for i in range(20)])
    with server.serve(lambda call: server.error(status, "no such thing")) as stub:
        with pytest.raises(EnvironmentProblem, match=f"HTTP {status} for model 'tiny': .*no such thing"):
            perturb_images(table, tmp_path / "out", editor(stub, concurrency=2))
        assert len(stub.calls) <= 4  # not twenty


def test_many_questions_at_once_but_no_more_than_allowed(tmp_path: Path):
    prompts = [f"a dog {i}" for i in range(12)]
    with server.serve(lambda call: server.Answer(caption(call).replace("dog", "cat")), latency=0.05) as stub:
        done = perturb_images(image_table(tmp_path / "in", prompts), tmp_path / "out", editor(stub, concurrency=3))
    assert stub.most_in_flight == 3
    assert [row["mismatched"] for row in rows_of(done.table)] == [prompt.replace("dog", "cat") for prompt in prompts]


def test_failures_are_asked_for_again_and_answers_never(tmp_path: Path):
    prompts = [f"a dog {i}" for i in range(8)]
    broken = {"a dog 3", "a dog 5"}

    def answer(call: server.Call) -> server.Answer:
        prompt = caption(call)
        return server.error(500, "broken") if prompt in broken else server.Answer(prompt.replace("dog", "cat"))

    kinds: list[Kind] = ["content"]
    table = image_table(tmp_path / "in", prompts)
    with server.serve(answer) as stub:
        with pytest.raises(TryAgainError, match="2 of 8 questions have no answer"):
            perturb_images(table, tmp_path / "out", editor(stub), kinds=kinds)
        assert not (tmp_path / "out" / "text_pairs.csv").exists()
        broken.clear()
        before = len(stub.calls)
        done = perturb_images(table, tmp_path / "out", editor(stub), kinds=kinds)
        assert sorted(map(caption, stub.calls[before:])) == ["a dog 3", "a dog 5"]
    assert done.totals.rows == 8


def test_no_address_and_no_key_are_told():
    with pytest.raises(InputError, match="no http"):
        ModelEditor("m", base_url="localhost")
    with pytest.raises(InputError, match="needs a key; set OPENAI_API_KEY, or give --base-url"):
        ModelEditor("m")


def test_no_reply_ends_a_run_or_cannot_be_written():
    """Chat completions with parts that are any JSON."""
    with server.serve(lambda call: server.Answer(raw=odd_completion(random.Random(call.number)))) as stub:
        ask = editor(stub)
        found = [ask("a red car", "attribute", 0) for _ in range(400)]
    assert {"written", "failed", "malformed"} <= {answer.outcome for answer in found}
    assert all(answer.text.encode() or answer.outcome != "written" for answer in found)


@pytest.mark.parametrize(
    ("message", "outcome", "text"),
    [
        (None, "failed", "no chat completion but"),
        ({"content": 7}, "failed", "no chat completion but"),
        ({"content": [{"type": "text", "text": "a blue car"}]}, "written", "a blue car"),
        ({"content": "a \ud83d car"}, "written", "a \ufffd car"),
    ],
)
def test_odd_messages(message: object, outcome: str, text: str):
    body = json.dumps({"choices": [{"message": message, "finish_reason": "stop"}]})
    with server.serve(lambda call: server.Answer(raw=body.encode())) as stub:
        found = editor(stub)("a red car", "attribute", 0)
    assert found.outcome == outcome
    assert text in found.text
