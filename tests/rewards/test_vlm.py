"""A vision-language model as a reward, over a real socket that works, fails and comes back."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from stub import Answer, Call, Stub, error, serve
from vlm_server import after_probe, brighter, digits, grey, levels

from t2ialign.errors import EnvironmentProblem, InputError
from t2ialign.rewards.base import PairwiseReward, PointwiseReward
from t2ialign.rewards.registry import parse_reward, validated

DARK, BRIGHT = grey(0), grey(255)
QUICK = {"tries": 2, "wait_seconds": 0.01, "timeout_seconds": 0.5}


def config(url: str | list[str], name: str = "vlm.prefers", **options: Any):
    return validated("reward", {"name": name, "model": "m", "url": url, **QUICK, **options})


def prefers(server: Stub, **options: Any) -> PairwiseReward:
    reward = config(server.url, **options).load()
    assert isinstance(reward, PairwiseReward)
    return reward


def one(server: Stub, **options: Any) -> float | None:
    """What is said of a bright image beside a dark one."""
    return prefers(server, **options)([BRIGHT], [DARK], ["a cat"])[0]


def test_the_first_token_is_a_soft_verdict_and_both_orders_are_exact_mirrors():
    with serve(brighter) as server:
        reward = prefers(server)
        images = [DARK, grey(51), BRIGHT]
        assert reward(images, images[::-1], ["a"] * 3) == pytest.approx([0.0, 0.5, 1.0], abs=1e-6)
        call = server.judged[0]
    assert call.body["temperature"] == 0
    assert call.body["max_tokens"] == 1
    assert call.body["logprobs"] is True
    assert levels(call) in ([0, 255], [51, 51], [255, 0])


def test_an_image_is_scored_by_the_probability_of_a_yes():
    with serve(after_probe(lambda call: Answer("1", top_logprobs=[("1", -0.2231436), ("0", -1.6094379)]))) as server:
        reward = config(server.url, "vlm.scores").load()
        assert isinstance(reward, PointwiseReward)
        assert reward([DARK], ["a cat"]) == pytest.approx([0.8])
        assert "a cat" in server.judged[0].text


@pytest.mark.parametrize(
    ("options", "reply", "score"),
    [
        ({"format": "plain"}, "Image 2 is better", 0.0),
        ({"format": "plain"}, "Both images are equally good", 0.5),
        ({"format": "think"}, "<think>…</think><answer>Image 1 is better</answer>", 1.0),
        ({"format": "flex"}, json.dumps({"winner": "Image 1"}), 1.0),
    ],
)
def test_replies_are_read_in_the_format_that_was_asked_for(options, reply, score):
    with serve(lambda _: Answer(reply)) as server:
        assert one(server, **options) == score
        assert server.judged[0].body["max_tokens"] > 1
        assert "logprobs" not in server.judged[0].body


# What is no verdict

NONE = {
    "prose instead of a digit": ({}, Answer("The", top_logprobs=[("The", -0.01), ("1", -5.0)]), "no verdict in 'The'"),
    "prose": ({"format": "think"}, Answer("I like both."), "no verdict in 'I like both.'"),
    "other labels": ({"format": "plain"}, Answer("Image B is better"), "no verdict in 'Image B is better'"),
    "both labels": ({"format": "plain"}, Answer("Image 1 is better. Image 2 is better."), "no verdict in"),
    "cut": ({"format": "think"}, Answer("<think>Image 1 is better", finish_reason="length"), "ended at the limit"),
    "refused": ({"format": "plain"}, Answer("I cannot", refusal="I cannot look at this"), "the judge declined"),
    "null": ({"format": "plain"}, Answer(None), "no verdict in ''"),
    "message: null": ({"format": "plain"}, Answer(raw=b'{"choices": [{"message": null}]}'), "no chat completion"),
    "filtered": ({}, error(400, "content_filter"), "content_filter"),
}


@pytest.mark.parametrize("case", NONE)
def test_what_is_no_verdict_is_none_and_is_said(case: str, caplog):
    options, fault, message = NONE[case]

    def answer(call: Call) -> Answer:
        if levels(call) != [255, 0]:
            said = "Image 1 is better <answer>Image 1 is better</answer>"
            return digits(0.75) if "logprobs" in call.body else Answer(said)
        return fault

    with serve(answer) as server, caplog.at_level(logging.WARNING):
        reward = prefers(server, **options)
        assert reward([DARK], [DARK], ["a"])[0] is not None
        assert reward([BRIGHT, DARK], [DARK, BRIGHT], ["a"] * 2)[0] is None
    assert "reward 'vlm.prefers': 1 of 2 questions have no verdict; most often: " in caplog.text
    assert message in caplog.text


@pytest.mark.parametrize(
    "fault",
    [error(500, "broken"), error(429, "slower"), Answer(seconds=3), Answer(cut=True), Answer(drip_seconds=0.1)],
    ids=["500", "429", "hang", "cut", "slow drip"],
)
def test_one_question_that_a_living_server_fails_is_none_and_the_others_are_answered(fault: Answer):
    def answer(call: Call) -> Answer:
        return fault if levels(call) == [255, 0] else brighter(call)

    with serve(answer) as server:
        found = prefers(server, tries=1)([BRIGHT, DARK, DARK], [DARK, BRIGHT, DARK], ["a"] * 3)
    assert found[0] is None
    assert found[1:] == pytest.approx([0.0, 0.5], abs=1e-6)


def test_a_fault_that_passes_leaves_no_trace():
    faults = [error(500, "broken"), Answer(cut=True)]
    with serve(after_probe(lambda call: faults.pop() if faults else brighter(call))) as server:
        assert one(server, tries=3) == pytest.approx(1.0)


# Servers that are away


def test_a_server_that_is_away_is_the_environment_and_what_was_answered_is_not_asked_again():
    with serve(brighter) as first:
        port, reward = first.port, prefers(first)
        reward([DARK], [DARK], ["a"])
    with pytest.raises(EnvironmentProblem, match=r"reward 'vlm.prefers': no server answers: http://127.*; is it up\?"):
        reward([BRIGHT], [DARK], ["a"])

    def dying(call: Call) -> Answer:
        return brighter(call) if levels(call) == [0, 255] else Answer(cut=True)

    with serve(dying, port=port), pytest.raises(EnvironmentProblem, match="no server answers"):
        reward([BRIGHT, DARK], [DARK, BRIGHT], ["a"] * 2)
    with serve(brighter, port=port) as back:
        assert reward([BRIGHT, DARK], [DARK, BRIGHT], ["a"] * 2) == pytest.approx([1.0, 0.0], abs=1e-6)
        assert [levels(call) for call in back.judged] == [[255, 0]]


def test_of_several_addresses_those_that_answer_do_the_work():
    with serve(brighter) as good:
        reward = config([good.url, "http://127.0.0.1:9", good.url + "/v1"]).load()
        assert isinstance(reward, PairwiseReward)
        assert reward([BRIGHT] * 6, [DARK] * 6, [str(k) for k in range(6)]) == pytest.approx([1.0] * 6)
        assert parse_reward(f"vlm.prefers,model=m,url={good.url} http://127.0.0.1:9").options()["url"] == [
            good.url,
            "http://127.0.0.1:9",
        ]


STOPPED = {
    "wrong model": (error(404, "The model `m` does not exist."), "HTTP 404: The model `m` does not exist"),
    "wrong key": (error(401, "invalid key"), "HTTP 401: invalid key"),
    "one image at most": (error(400, "At most 1 image may be provided"), "HTTP 400: At most 1 image"),
    "no log-probabilities": (Answer("1"), "gives no logprobs"),
}


@pytest.mark.parametrize("case", STOPPED)
def test_a_server_that_cannot_judge_so_is_a_wrong_input(case: str):
    fault, message = STOPPED[case]
    answer = after_probe(lambda _: fault) if case == "one image at most" else lambda _: fault
    with serve(answer) as server:
        with pytest.raises(InputError, match=f"reward 'vlm.prefers': .*{message}.*; look after its url"):
            one(server)
        if case != "one image at most":
            with pytest.raises(InputError, match=message):
                config(server.url).check()


def test_checking_before_a_run_bears_a_server_that_is_away(caplog):
    config("http://127.0.0.1:9").check()
    assert "no server answers" in caplog.text


# What is written down


def test_the_fingerprint_is_of_what_is_asked_and_not_of_the_address(tmp_path):
    key = tmp_path / "key"
    key.write_text("sk-0123456789")
    here = config("http://a:1").fingerprint()
    assert (
        here == config(["http://b:2", "http://c:3"], concurrency=3, key_file=str(key), timeout_seconds=9).fingerprint()
    )
    others = [
        config("http://a:1", format="plain"),
        config("http://a:1", model="n"),
        config("http://a:1", extra={"a": 1}),
    ]
    assert len({here, *(other.fingerprint() for other in others)}) == 4


def test_a_key_reaches_the_server_and_nothing_else(tmp_path, monkeypatch, caplog):
    key = "sk-secret-0123456789"
    (tmp_path / "key").write_text(f"{key}\n")
    fault = error(500, f"no use of {key}")
    with serve(after_probe(lambda call: fault if levels(call) == [0, 0] else brighter(call))) as server:
        section = config(server.url, key_file=str(tmp_path / "key"))
        section.load()([BRIGHT, DARK], [DARK, DARK], ["a"] * 2)  # type: ignore[operator]
        assert server.calls[0].headers["authorization"] == f"Bearer {key}"
    assert "[key]" in caplog.text
    assert key not in caplog.text + str(section.model_dump(mode="json")) + section.fingerprint()
    monkeypatch.setenv("UNIGENBENCH_API_KEY", key)
    with serve(brighter) as server:
        assert one(server) == pytest.approx(1.0)
        assert server.calls[0].headers["authorization"] == f"Bearer {key}"


@pytest.mark.parametrize("url", ["http://user:sk-0123456789@host", "http://host/v1?key=sk-0123456789"])
def test_an_address_with_a_key_in_it_is_refused_without_a_word_of_it(url: str, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    for options in ({"url": url}, {}):
        with pytest.raises(InputError, match=r"http://host.*: an address with a user") as caught:
            validated("reward", {"name": "vlm.prefers", "model": "m", **options})
        assert "sk-" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("vlm.prefers,model=m,url=host", "'host' is no http"),
        ("vlm.prefers,url=http://host", "model: Field required"),
        ("vlm.prefers,model=m,url=http://host,format=json", "format: Input should be 'logits', 'think', 'flex' or"),
        ("vlm.scores,model=m,url=http://host,kind=pairwise", "this reward is pointwise"),
        ("vlm.scores,model=m,url=http://host,order=both", "order is of pairs, and reward 'vlm.scores' is pointwise"),
    ],
)
def test_wrong_options_are_named(text: str, message: str):
    with pytest.raises(InputError, match=message):
        parse_reward(text)


def test_openai_itself_needs_a_key(monkeypatch):
    for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY", "UNIGENBENCH_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InputError, match=r"https://api.openai.com/v1 needs a key; set UNIGENBENCH_API_KEY or OPENAI"):
        parse_reward("vlm.prefers,model=m").load()
