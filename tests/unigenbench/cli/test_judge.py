"""The commands `judge` and `estimate` as a user runs them: exit codes, kills, secrets."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from made_runs import prompt_set, write_csv, write_images
from stub import Answer, Call, Stub, error, fine, scene, scores, serve

from unigenbench.cli.judge import config_from_options
from unigenbench.cli.main import main
from unigenbench.runs.store import open_log
from unigenbench.scoring.scores import summarise

KEY = "sk-very-secret-4711"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Eight prompts with an image each; no key in the environment."""
    for name in ("UNIGENBENCH_API_KEY", "OPENAI_API_KEY", "OPENAI_BASE_URL", "GEMINI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    make_folder(tmp_path, 8)
    return tmp_path


def make_folder(folder: Path, prompts: int) -> None:
    write_csv(folder / "prompts.csv", prompt_set(prompts, folder))
    write_images(folder / "images", prompts)


def arguments(folder: Path, url: str, *more: str) -> list[str]:
    return [
        *("judge", "--data", str(folder / "prompts.csv"), "--images", str(folder / "images")),
        *("--run", str(folder / "run"), "--judge", "openai:m", "--base-url", url, "--images-per-prompt", "1", *more),
    ]


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Exit code of `unigenbench`, in this process."""
    monkeypatch.setattr(sys, "argv", ["unigenbench", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    return int(caught.value.code or 0)


def test_a_run_ends_with_0_and_says_what_was_judged(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    with serve(fine) as stub:
        assert command(monkeypatch, *arguments(folder, stub.url)) == 0
        assert len(stub.judged) == 8
        words = capsys.readouterr()
        assert f"{folder / 'run'}: 8 ok" in words.out
        assert "9 requests" not in words.out  # the probe is none of the run's
        assert "8 of 8 asked, 8 judged, 0 failed, 16 at once" in words.err
        assert command(monkeypatch, *arguments(folder, stub.url, "--json")) == 0
        assert len(stub.calls) == 9
    shown = json.loads(capsys.readouterr().out)
    assert (shown["state"], shown["requests"], shown["statuses"]) == ("done", 0, {"ok": 8})
    log = open_log(folder / "run")
    manifest = log.manifest
    assert manifest["status"] == "done"
    assert manifest["served_model"] == "m@main"
    assert manifest["usage"] == {"input": 8000, "output": 800, "reasoning": 0, "cached_input": 0}
    assert manifest["endpoint"] == stub.url
    assert manifest["images"] | {"root": ""} == {
        "root": "", "pattern": "{index}_{image}", "per_prompt": 1, "samples": 1, "found": 8, "missing": 0, "bad": 0,
    }  # fmt: skip
    assert manifest["comparable"] is False
    assert "its judge was asked in our own wording" in manifest["banner"]
    assert all(judgement.judge_id == manifest["judge"]["id"] for judgement in log.judgements)


def test_too_many_failures_end_with_1(folder: Path, monkeypatch: pytest.MonkeyPatch):
    with serve(lambda call: Answer("prose") if scene(call) == 3 else fine(call)) as stub:
        assert command(monkeypatch, *arguments(folder, stub.url, "--max-failed", "0.12")) == 1  # 1 of 8 is 0.125
        assert command(monkeypatch, *arguments(folder, stub.url, "--max-failed", "0.13", "--keep-failed")) == 0


def test_all_that_failed_says_why_and_counts_as_asked(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    with serve(lambda call: fine(call) if call.is_probe else error(401, "Incorrect API key provided")) as stub:
        assert command(monkeypatch, *arguments(folder, stub.url)) == 1
    words = capsys.readouterr()
    assert "8 of 8 asked, 0 judged, 8 failed" in words.err
    assert f"{folder / 'run'}: 8 transport_failed\n" in words.out
    reason = f"{stub.url}/v1: HTTP 401: Incorrect API key provided"
    assert f"most frequent failure (8 of 8): {reason}\n" in words.out


def test_a_stop_is_no_error(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    with serve(fine) as stub:
        assert command(monkeypatch, *arguments(folder, stub.url, "--max-requests", "3")) == 3
        assert "stopped: --max-requests 3: reached" in capsys.readouterr().err
    with serve(lambda _: error(429, "come back tomorrow", retry_after="86400")) as stub:
        assert command(monkeypatch, *arguments(folder, stub.url)) == 75
        assert "stopped: " in capsys.readouterr().err
    with serve(lambda _: error(404, "The model `m` does not exist.")) as stub:
        assert command(monkeypatch, *arguments(folder, stub.url)) == 3
        words = capsys.readouterr().err
    assert "error: the judge cannot be used: " in words
    assert "stopped" not in words


def test_a_log_says_that_a_run_waits_and_until_when(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    busy = iter([error(429, "slow down", retry_after="2.2")])
    with serve(lambda call: fine(call) if call.is_probe else next(busy, fine(call))) as stub:
        assert command(monkeypatch, *arguments(folder, stub.url, "--concurrency", "1")) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "waiting until " in line]
    assert len(lines) == 1  # and one line only
    assert re.fullmatch(r"0 of 8 asked, .*, waiting until \d\d:\d\d:\d\d: .*HTTP 429: slow down", lines[0])


def test_paths_and_answers_are_printed_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    folder = tmp_path / "[bold]red :smile: ²"
    folder.mkdir()
    make_folder(folder, 2)
    (folder / "images" / "²_0.png").write_bytes((folder / "images" / "1_0.png").read_bytes())
    with serve(lambda call: fine(call) if call.is_probe else error(413, "[/red] :boom: too large")) as stub:
        assert command(monkeypatch, *arguments(folder, stub.url)) == 1
        words = capsys.readouterr()
        assert f"{folder / 'run'}: 2 transport_failed" in words.out
        assert "[/red] :boom: too large" in words.out
        assert f"unigenbench score '{folder / 'run'}'" in words.out  # can be pasted


def record_prompts(folder: Path, **texts: str) -> None:
    """generation.json of images made from these texts, by the prompt's number."""
    rows = [{"index": int(key[1:]), "k": 0, "prompt": text, "file": f"{key[1:]}_0.png"} for key, text in texts.items()]
    (folder / "images" / "generation.json").write_text(json.dumps({"seed": 0, "images": rows}))


def test_images_made_from_other_prompts_are_refused_or_marked(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    record_prompts(folder, p0="three  red dogs, scene 0 ", p1="three blue dogs", p2="a cat", p99="not asked about")
    with serve(fine) as stub:
        assert command(monkeypatch, *arguments(folder, stub.url)) == 2
        words = capsys.readouterr().err
        assert "generation.json: 2 of 8 prompts are not those of " in words
        assert "number 1 was made from 'three blue dogs' and would be judged by 'three red dogs, scene 1'" in words
        assert not stub.calls
        assert not (folder / "run").exists()
        assert command(monkeypatch, *arguments(folder, stub.url, "--prompts-differ")) == 0
        manifest = open_log(folder / "run").manifest
        assert "the images of 2 prompts were made from other texts" in manifest["banner"]
        assert manifest["comparable"] is False
        record_prompts(folder, p0="three red dogs, scene 0", p1="three red dogs, scene 1")
        assert command(monkeypatch, *arguments(folder, stub.url)) == 0


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ("{", 2), ("[" * 100_000, 2), ("[]", 0), ("{}", 0), ('{"images": 1}', 0), ('{"images": [1, {"index": []}]}', 0),
        ('{"images": [{"index": 1, "prompt": null}]}', 0),
    ],
)  # fmt: skip
def test_a_record_without_prompts_compares_with_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, content: str, code: int
):
    (folder / "images" / "generation.json").write_text(content)
    with serve(fine) as stub:
        assert command(monkeypatch, *arguments(folder, stub.url)) == code


def test_a_wrong_model_ends_with_3_and_the_servers_words(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    with serve(lambda _: error(404, "The model `m` does not exist.")) as stub:
        assert command(monkeypatch, *arguments(folder, stub.url)) == 3
    assert "The model `m` does not exist." in capsys.readouterr().err


def test_a_spent_budget_ends_with_3(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    with serve(fine) as stub:
        assert command(monkeypatch, *arguments(folder, stub.url, "--max-requests", "3")) == 3
        assert len(stub.judged) == 3
        assert "--max-requests 3: reached" in capsys.readouterr().err
        (folder / "prices.json").write_text('{"m": {"input": 1.0, "output": 1.0}}')  # 1100 tokens: 0.0011 each
        prices = ("--prices", str(folder / "prices.json"))
        assert command(monkeypatch, *arguments(folder, stub.url, "--max-cost", "0.0056", *prices)) == 3
        assert len(stub.judged) == 5
        assert "--max-cost 0.0056: another call might go over it" in capsys.readouterr().err
    assert open_log(folder / "run").manifest["status"] == "stopped"
    assert open_log(folder / "run").manifest["cost"] == pytest.approx(0.0055)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--max-cost", "1"), "--max-cost: money needs prices; give --prices FILE"),
        (("--limit", "3", "--pattern", "{index}-{image}"), "no image of the chosen prompts; names look like 0-0.png"),
        (("--api-key-file", "absent"), "absent: cannot be read as a key file"),
        (("--indices", "99"), "99 not in the file"),
        (("--rubric", "official-vllm"), "--official-checkout"),
        (("--max-cost", "nan", "--prices", "p.json"), "should be greater than or equal to 0"),
        (("--timeout", "inf"), "should be less than or equal to"),
        (("--temperature", "inf"), "should be less than or equal to"),
        (("--requests-per-minute", "inf"), "should be less than or equal to"),
        (("--images-per-prompt", "1000000000"), "should be less than or equal to 1000"),
        (("--pattern", "{index.x}_{image}"), "write it with {index} and {image}"),
        (("--pattern", "{index:99999999999}_{image}"), "write it with {index} and {image}"),
    ],
)
def test_a_wrong_option_ends_with_2_before_anything_is_made(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys, more: tuple[str, ...], words: str
):
    assert command(monkeypatch, *arguments(folder, "http://127.0.0.1:9", *more)) == 2
    assert words in " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert not (folder / "run").exists()


def test_another_judge_in_the_same_folder_is_refused_and_fresh_keeps_the_old(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    with serve(fine) as stub:
        assert command(monkeypatch, *arguments(folder, stub.url)) == 0
        assert command(monkeypatch, *arguments(folder, stub.url, "--temperature", "1")) == 2
        assert "judge.temperature: the run was made with 0.0, now it is 1.0" in capsys.readouterr().err
        assert command(monkeypatch, *arguments(folder, stub.url, "--temperature", "1", "--fresh")) == 0
        assert len(stub.judged) == 16
    assert len(open_log(folder / "run.old-1").judgements) == 8


def test_a_part_of_the_prompts_can_grow_into_all_of_them(folder: Path, monkeypatch: pytest.MonkeyPatch):
    with serve(fine) as stub:
        assert command(monkeypatch, *arguments(folder, stub.url, "--limit", "3")) == 0
        assert open_log(folder / "run").manifest["selection"] == "first 3"
        assert command(monkeypatch, *arguments(folder, stub.url)) == 0
        assert len(stub.judged) == 8
        assert command(monkeypatch, *arguments(folder, stub.url, "--limit", "3")) == 2


def test_runs_share_a_cache_of_replies(folder: Path, monkeypatch: pytest.MonkeyPatch):
    shared = ("--cache", str(folder / "replies.sqlite"))
    with serve(fine) as stub:
        assert command(monkeypatch, *arguments(folder, stub.url, "--indices", "2-4", *shared)) == 0
        more = arguments(folder, stub.url, *shared)
        more[more.index("--run") + 1] = str(folder / "other")
        assert command(monkeypatch, *more) == 0
        assert len(stub.judged) == 8


def test_an_estimate_sends_nothing_and_needs_no_key(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    (folder / "prices.json").write_text('{"gemini-2.5-pro": {"input": 1.25, "output": 10}}')
    where = ("--data", str(folder / "prompts.csv"), "--images", str(folder / "images"), "--images-per-prompt", "1")
    prices = ("--judge", "gemini:gemini-2.5-pro", "--prices", str(folder / "prices.json"), "--json")
    assert command(monkeypatch, "estimate", *where, *prices) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["judgements"], found["requests"]) == (8, 8)
    assert found["usage"]["output"] == 8 * (10 + 2 * 95)  # two test points each
    each = found["usage"]["input"] / 8 - 258  # a small image on Gemini is one tile
    assert 300 < each < 900  # tokens of text
    assert found["cost"] == pytest.approx((found["usage"]["input"] * 1.25 + 1600 * 10) / 1e6)
    with serve(fine) as stub:
        assert command(monkeypatch, *arguments(folder, stub.url, "--max-requests", "3")) == 3
        calls = len(stub.calls)
        capsys.readouterr()
        assert command(monkeypatch, *arguments(folder, stub.url, "--dry-run")) == 0
        assert len(stub.calls) == calls
    assert "5 judgements, 5 requests" in capsys.readouterr().out


def test_a_key_reaches_the_server_and_nothing_else(folder: Path, monkeypatch: pytest.MonkeyPatch, capfd):
    """Not even where the server quotes it in replies, refusals and errors."""
    monkeypatch.setenv("UNIGENBENCH_API_KEY", KEY)
    quotes = {
        1: Answer(f"your key is {KEY}"),
        2: Answer(text=None, refusal=f"not for {KEY}"),
        3: error(400, f"Incorrect API key provided: {KEY}"),
        4: Answer(raw=f"<html>{KEY}</html>".encode()),
        5: Answer(f"<analysis>['{KEY}']</analysis>", finish_reason="length"),
        6: scores([1, 0]),
    }
    with serve(lambda call: quotes.get(scene(call), fine(call))) as stub:
        url = f"{stub.url}?key=AIza-also-secret"
        assert command(monkeypatch, *arguments(folder, url, "--tries", "1")) == 1
        assert {call.headers["authorization"] for call in stub.calls} == {f"Bearer {KEY}"}
        assert all("AIza-also-secret" in call.path for call in stub.calls)
        error_at_once = serve(lambda _: error(401, f"Incorrect API key provided: {KEY}"))
        with error_at_once as broken:
            assert command(monkeypatch, *arguments(folder, broken.url, "--fresh")) == 3
    words = capfd.readouterr()
    assert "[key]" in words.err
    spoken = [words.out.encode(), words.err.encode()]
    written = [path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.suffix != ".png"]
    assert len(written) >= 8
    for content in spoken + written:
        assert KEY.encode() not in content
        assert b"also-secret" not in content
    assert any(b"[key]" in content for content in written)


class Killer:
    """Kills the judging process with SIGKILL a while after its first calls of each start."""

    def __init__(self, rng: random.Random):
        self._rng = rng
        self.process: subprocess.Popen[bytes] | None = None
        self.calls_left = 0

    def __call__(self, call: Call) -> Answer:
        self.calls_left -= 1
        if self.calls_left == 0 and self.process is not None:
            threading.Timer(self._rng.uniform(0, 0.15), self.process.kill).start()
        return fine(call)


def kill_and_go_on(folder: Path, prompts: int, kills: int, seed: int) -> tuple[Stub, list[int]]:
    """Starts the same command until it ends by itself; it is killed so many times."""
    rng, concurrency = random.Random(seed), 4
    killer = Killer(rng)
    codes = []
    with serve(killer, latency=0.05) as stub:
        words = arguments(folder, stub.url, "--concurrency", str(concurrency))
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        for start in range(kills + 2):
            killer.calls_left = rng.randint(2, prompts // (kills + 1)) if start < kills else -1
            asked = len(stub.judged)
            killer.process = subprocess.Popen([sys.executable, "-m", "unigenbench", *words], env=environment)
            codes.append(killer.process.wait(timeout=300))
            time.sleep(0.1)  # threads of the server notice that the client is gone
        assert len(stub.judged) == asked  # the last start found nothing to do
    repeated = sum(stub.answered.values()) - len(stub.answered)
    assert len(stub.answered) == prompts
    assert repeated <= kills * concurrency
    return stub, codes


def check_kills(folder: Path, prompts: int, kills: int, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    make_folder(folder, prompts)
    _, codes = kill_and_go_on(folder, prompts, kills, seed)
    assert codes == [-9] * kills + [0, 0]
    killed = summarise(open_log(folder / "run"), bootstrap=50)
    (folder / "run").rename(folder / "killed")
    with serve(fine) as stub:
        assert command(monkeypatch, *arguments(folder, stub.url)) == 0
    whole = summarise(open_log(folder / "run"), bootstrap=50)
    differing = {"run_id", "usage", "cost", "warnings"}
    assert {k: v for k, v in killed.items() if k not in differing} == {
        k: v for k, v in whole.items() if k not in differing
    }
    assert killed["coverage"]["judged"] == prompts


def test_a_kill_at_any_moment_costs_only_what_was_in_flight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    check_kills(tmp_path, prompts=60, kills=2, seed=1, monkeypatch=monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_many_kills_cost_only_what_was_in_flight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int):
    check_kills(tmp_path, prompts=300, kills=8, seed=seed, monkeypatch=monkeypatch)


@pytest.mark.parametrize(("rubric", "given", "sent"), [
    ("native-v1", None, 4_000_000), ("official-vllm", None, None), ("official-vllm", 100, 100),
])  # fmt: skip
def test_official_wording_gets_images_whole_unless_told(rubric: str, given: int | None, sent: int | None):
    options = {"data": "en", "images": Path("x"), "judge": "shapes", "rubric": rubric, "max_pixels": given}
    config = config_from_options(options)
    assert config.settings.max_pixels == sent
