"""A recorded run, asked again."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from made_runs import judgement, manifest, prompt_set, write_images

from unigenbench.errors import InputError
from unigenbench.judges.base import FatalFailure, JudgeRefused, JudgeTruncated, open_judge
from unigenbench.prompts import prompt_sha256
from unigenbench.runs.store import RunStore
from unigenbench.types import JudgeRequest

WORDS = "<analysis>['a', 'b']</analysis><score>[0, 1]</score>"


@pytest.fixture
def recorded(tmp_path: Path):
    """(judge, function from the number of an image and a sample to a request)."""
    prompts, images = prompt_set(6, tmp_path), write_images(tmp_path / "images", 6)
    kinds = [
        {"raw": WORDS},
        {"raw": "seen by no words"},
        {"status": "refused", "error": "no"},
        {"status": "truncated", "raw": "<analysis>['a"},
        {"status": "transport_failed", "error": "HTTP 500"},
    ]
    with RunStore(tmp_path / "run", manifest(), prompts) as store:
        for k, fields in enumerate(kinds):
            about = {"image_sha256": images[k].sha256, "prompt_sha256": prompt_sha256(prompts.prompts[k])}
            store.append(judgement(f"en/{k}/0/0", **{**about, **fields}))

    def request(k: int, sample: int = 0) -> JudgeRequest:
        return JudgeRequest(f"other/{k}/0/{sample}", prompts.prompts[k], images[k], "text", b"", "image/png", True)

    return open_judge(f"replay:{tmp_path / 'run'}"), request


def test_words_are_replayed_to_be_read_anew_and_verdicts_where_there_are_no_words(recorded):
    judge, request = recorded
    said = asyncio.run(judge.judge(request(0)))
    assert (said.text, said.verdicts) == (WORDS, None)
    assert asyncio.run(judge.judge(request(1))).verdicts == (1, 0)


@pytest.mark.parametrize(
    ("k", "error", "message"),
    [
        (2, JudgeRefused, "^no$"),
        (3, JudgeTruncated, "cut, as recorded"),
        (4, FatalFailure, "recorded as transport_failed: HTTP 500"),
        (5, FatalFailure, "no judgement of 5_0.png"),
    ],
)
def test_what_was_no_verdict_stays_none(recorded, k, error, message):
    judge, request = recorded
    with pytest.raises(error, match=message):
        asyncio.run(judge.judge(request(k)))


def test_another_sample_or_wording_of_the_prompt_was_not_recorded(recorded):
    judge, request = recorded
    other = replace(request(0), prompt=replace(request(0).prompt, text="two red dogs"))
    for asked in (request(0, sample=1), other):
        with pytest.raises(FatalFailure, match="no judgement"):
            asyncio.run(judge.judge(asked))


def test_a_replay_says_whose_verdicts_it_gives(recorded):
    judge, _ = recorded
    assert judge.spec == {"kind": "replay", "judge": {"id": "j", "spec": {}}}
    assert "5 judgements" in asyncio.run(judge.probe()).notes[0]


def test_a_folder_that_is_no_run_is_named(tmp_path):
    with pytest.raises(InputError, match="no run folder"):
        open_judge(f"replay:{tmp_path}")
