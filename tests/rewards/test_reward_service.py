"""Rewards over HTTP: the same numbers as in the process, and every fault by name, over real sockets."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Any

import pytest
from plain_server import Sent, plain_server
from vlm_server import grey

from t2ialign.errors import EnvironmentProblem, InputError
from t2ialign.rewards.base import GroupwiseReward, PairwiseReward, PointwiseReward, Reward
from t2ialign.rewards.registry import load_reward, validated
from t2ialign.rewards.service.protocol import decoded, encoded
from t2ialign.rewards.service.server import RewardServer

IMAGES = [grey(0), grey(128), grey(255)]
QUICK = {"tries": 2, "wait_seconds": 0.01, "timeout_seconds": 0.5}


def level(image) -> float:
    return float(image.getpixel((0, 0))[0])


def bright() -> PointwiseReward:
    return PointwiseReward("bright", lambda images, prompts: [level(i) if level(i) else None for i in images])


def judge() -> PairwiseReward:
    return PairwiseReward(
        "judge",
        lambda images_a, images_b, prompts: [
            float(level(a) > level(b)) for a, b in zip(images_a, images_b, strict=True)
        ],
    )


def ranker() -> GroupwiseReward:
    return GroupwiseReward("ranker", lambda images, prompt: [level(i) + len(prompt) for i in images])


@contextmanager
def serving(*rewards: Reward, **options: Any) -> Iterator[RewardServer]:
    with RewardServer(rewards, ("127.0.0.1", 0), **options) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def config(url: Any, **options: Any):
    return validated("reward", {"name": "http", "url": url, **QUICK, **options})


def over(url: Any, **options: Any) -> Any:
    return config(url, **options).load()


def test_an_image_travels_without_loss():
    assert decoded(encoded(IMAGES[1]), "it").tobytes() == IMAGES[1].tobytes()


def test_rewards_of_all_kinds_say_over_http_what_they_say_here():
    with serving(bright(), judge(), ranker()) as server:
        points = over(server.url, reward="bright", batch_size=2)
        assert points(IMAGES, ["a", "b", "c"]) == [None, 128.0, 255.0]
        verdicts = over(server.url, reward="judge", kind="pairwise")(IMAGES, IMAGES[::-1], ["a"] * 3)
        assert verdicts == [0.0, 0.0, 1.0]
        assert over(server.url, reward="ranker", kind="groupwise")(IMAGES, "abc") == [3.0, 131.0, 258.0]


def test_the_known_brightness_is_the_same_to_the_bit():
    reward = load_reward("brightness")
    with serving(reward) as server:
        assert over(server.url)(IMAGES, ["a"] * 3) == reward(IMAGES, ["a"] * 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reward": "none"}, "serves bright, judge; name one by reward="),
        ({}, "serves bright, judge; name one by reward="),
        ({"reward": "judge"}, "serves judge, which is pairwise; give kind=pairwise"),
    ],
)
def test_what_is_not_served_so_is_said_before_a_run(options, message):
    with serving(bright(), judge()) as server:
        config(server.url, reward="bright").check()
        with pytest.raises(InputError, match=message):
            config(server.url, **options).check()
    config(server.url, reward="bright").check()  # away: it may be back


def post(server: RewardServer, body: bytes | str, *, path: str = "/score", **headers: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection(*server.server_address[:2], timeout=5)  # type: ignore[misc]
    sent = {"Content-Type": "application/json"} | {key.replace("_", "-"): value for key, value in headers.items()}
    connection.request("POST", path, body, sent)
    response = connection.getresponse()
    return response.status, json.loads(response.read())


PNG = encoded(IMAGES[0])
REFUSED = {
    "not JSON": (b"{", {}, 400, "the body is not JSON"),
    "too deep": (b"[" * 100_000, {}, 400, "the body is not JSON"),
    "no object": (b"[]", {}, 400, "no JSON object"),
    "no images": ({"prompts": ["a"]}, {}, 400, "no images; a pointwise reward is asked with images, prompts"),
    "unknown key": ({"images": [], "prompts": [], "step": 1}, {}, 400, "unknown key step"),
    "no list": ({"images": PNG, "prompts": ["a"]}, {}, 400, "images is no list"),
    "no text": ({"images": [PNG], "prompts": [1]}, {}, 400, "prompts are not all texts"),
    "lengths": ({"images": [PNG], "prompts": []}, {}, 400, "1 images, 0 prompts; give as many of each"),
    "no base64": ({"images": ["é"], "prompts": ["a"]}, {}, 400, "images[0] is no PNG image in base64"),
    "no PNG": ({"images": ["R0lGODlhAQABAAAAACw="], "prompts": ["a"]}, {}, 400, "images[0] is no PNG"),
    "cut PNG": ({"images": [PNG[:60]], "prompts": ["a"]}, {}, 400, "images[0] is no PNG"),
    "unknown reward": ({"reward": "x", "images": [], "prompts": []}, {}, 404, "no reward 'x'; served are bright"),
    "unknown path": ({}, {"path": "/pickle"}, 404, "no /pickle; ask POST /score or GET /rewards"),
    "another type": ({}, {"Content_Type": "text/plain"}, 415, "send Content-Type: application/json"),
    "too large": (b" " * 100_001, {}, 413, "more than 100000 bytes; send fewer images at once"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_request_gets_a_clear_status_and_the_server_lives_on(case: str):
    body, options, status, message = REFUSED[case]
    content = body if isinstance(body, bytes) else json.dumps(body)
    with serving(bright(), max_bytes=100_000) as server:
        found, answer = post(server, content, **options)
        assert (found, answer["error"][: len(message)]) == (status, message)
        assert post(server, json.dumps({"images": [PNG], "prompts": ["a"]})) == (
            200,
            {"scores": [None], "message": "1 of 1 could not be scored"},
        )


def test_a_request_without_a_length_is_refused():
    with serving(bright()) as server:
        connection = http.client.HTTPConnection(*server.server_address[:2], timeout=5)  # type: ignore[misc]
        connection.putrequest("POST", "/score")
        connection.putheader("Content-Type", "application/json")
        connection.putheader("Transfer-Encoding", "chunked")
        connection.endheaders()  # the server answers by the headers alone; a body sent now would meet a closed socket
        assert connection.getresponse().status == 411


def test_the_refusal_of_a_body_that_is_sent_on_reaches_its_sender():
    with serving(bright(), max_bytes=10_000_000) as server:
        for _ in range(20):
            connection = http.client.HTTPConnection(*server.server_address[:2], timeout=5)  # type: ignore[misc]
            chunks = (b"x" * 100_000 for _ in range(20))
            connection.request("POST", "/score", chunks, {"Content-Type": "application/json"}, encode_chunked=True)
            assert connection.getresponse().status == 411


def failing(error: BaseException) -> PointwiseReward:
    def function(images, prompts):
        raise error

    return PointwiseReward("failing", function)


def test_a_reward_that_raises_there_scores_nothing_here_and_says_why(caplog):
    with serving(failing(ValueError("no"))) as server:
        assert over(server.url)(IMAGES, ["a"] * 3) == [None] * 3
    assert "HTTP 500: " in caplog.text
    assert "reward 'failing' raised ValueError: no" in caplog.text
    with (
        serving(failing(ConnectionError("gone"))) as server,
        pytest.raises(EnvironmentProblem, match=r"HTTP 503: .*gone"),
    ):
        over(server.url)(IMAGES, ["a"] * 3)


def test_a_server_that_is_away_is_the_environment_and_another_address_stands_in():
    with serving(bright()) as server:
        assert over(["http://127.0.0.1:9", server.url])(IMAGES, ["a"] * 3)[1:] == [128.0, 255.0]
        reward, port = over(server.url), server.server_address[1]
    with pytest.raises(EnvironmentProblem, match=r"reward 'http': no server answers: http://127.*; is it up\?"):
        reward(IMAGES, ["a"] * 3)
    with RewardServer([bright()], ("127.0.0.1", port)) as back:
        Thread(target=back.serve_forever, daemon=True).start()
        assert reward(IMAGES, ["a"] * 3)[1:] == [128.0, 255.0]
        back.shutdown()


FAULTS: dict[str, tuple[Sent, type[Exception], str]] = {
    "429": (Sent(429, b"{}"), EnvironmentProblem, "no server answers: http://127.*HTTP 429"),
    "502": (Sent(502, b"<html>bad gateway</html>"), EnvironmentProblem, "HTTP 502: bad gateway"),
    "hang": (Sent(200, b"{}", seconds=3), EnvironmentProblem, "no answer within 0.3 s"),
    "slow drip": (Sent(200, b'{"scores": [1, 2, 3]}', drip_seconds=0.1), EnvironmentProblem, "no answer within 0.3 s"),
    "cut": (Sent(200, b'{"scores": [1', length=99), EnvironmentProblem, "no server answers"),
    "prose": (Sent(200, b"I like them"), InputError, "HTTP 200: I like them"),
    "no scores": (Sent(200, b'{"rewards": []}'), InputError, "no scores but"),
    "wrong length": (Sent(200, b'{"scores": [1]}'), InputError, "got 3 images and returned 1 value"),
    "text": (Sent(200, b'{"scores": ["good", 1, 2]}'), InputError, r"returned 'good' \(str\) for an image"),
    "redirect": (Sent(302, b""), InputError, "HTTP 302"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_no_fault_of_a_server_becomes_a_number(case: str):
    sent, kind, message = FAULTS[case]
    with plain_server(sent) as url, pytest.raises(kind, match=message):
        over(url, tries=1, timeout_seconds=0.3)(IMAGES, ["a"] * 3)


def test_nan_and_null_are_no_numbers():
    with plain_server(Sent(200, b'{"scores": [NaN, null, 1]}')) as url:
        assert over(url)(IMAGES, ["a"] * 3) == [None, None, 1.0]


def test_rewards_are_served_under_one_name_each():
    with pytest.raises(InputError, match="rewards bright, bright: name each once"):
        RewardServer([bright(), bright()], ("127.0.0.1", 0))


def test_the_fingerprint_is_of_the_address_and_the_names():
    one = config("http://a:1").fingerprint()
    assert one == config("http://a:1", tries=9).fingerprint()
    others: list[Callable[[], Any]] = [
        lambda: config("http://b:1"),
        lambda: config("http://a:1", reward="x"),
        lambda: config("http://a:1", kind="pairwise"),
    ]
    assert len({one, *(other().fingerprint() for other in others)}) == 4
