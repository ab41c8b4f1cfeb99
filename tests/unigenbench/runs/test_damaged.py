"""Run folders whose files hold any JSON: read, or refused with the place; never a traceback."""

from __future__ import annotations

import asyncio
import json
import random
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_runs import judgement, manifest, prompt_set
from odd_json import any_json

from unigenbench.errors import BenchError, DataError
from unigenbench.judging.validate import validate_run
from unigenbench.runs.cache import ReplyCache
from unigenbench.runs.judgements import from_fields, last_judgements, read_judgements, to_line
from unigenbench.runs.store import JUDGEMENTS, RunStore, open_log
from unigenbench.types import JudgeReply, Usage

SEEDS = st.integers(0, 2**40)


def replaced(value: Any, rng: random.Random) -> Any:
    """The value with one part, at any depth, replaced or left out."""
    if not isinstance(value, dict | list) or not value or rng.random() < 0.1:
        return any_json(rng)
    keys = list(value) if isinstance(value, dict) else range(len(value))
    key = rng.choice(list(keys))
    changed = dict(value) if isinstance(value, dict) else list(value)
    if rng.random() < 0.2:
        del changed[key]
    else:
        changed[key] = replaced(value[key], rng)
    return changed


@given(SEEDS)
def test_a_line_of_any_shape_is_a_judgement_or_is_named(tmp_path_factory: pytest.TempPathFactory, seed: int):
    line = judgement("en/0/0/0", analyses=("a", "b"), probabilities=(0.5, 1.0))
    path = tmp_path_factory.mktemp("run") / JUDGEMENTS
    path.write_text(json.dumps(replaced(json.loads(to_line(line)), random.Random(seed))) + "\n")
    try:
        (read,) = read_judgements(path)
    except DataError as error:
        words = str(error)
        assert f"{path}:1: no judgement" in words
        return
    assert repr(from_fields(json.loads(to_line(read)))) == repr(read)
    assert read.usage + Usage(1, 1)
    assert len(last_judgements(path)) == 1


@given(SEEDS, st.sampled_from(["run.json", "prompts.json", JUDGEMENTS]))
def test_a_folder_with_a_file_of_any_shape_is_opened_or_refused(
    tmp_path_factory: pytest.TempPathFactory, seed: int, name: str
):
    run = tmp_path_factory.mktemp("runs") / "run"
    prompts = prompt_set(1, run.parent)
    with RunStore(run, manifest(), prompts) as store:
        store.append(judgement("en/0/0/0"))
    content = json.loads((run / name).read_text())
    (run / name).write_text(json.dumps(replaced(content, random.Random(seed))) + "\n")
    validate_run(run)
    for use in (open_log, lambda run: RunStore(run, manifest(), prompts).__exit__()):
        try:
            use(run)
        except BenchError as error:
            words = str(error)
            assert str(run) in words


def test_a_cached_reply_that_cannot_be_read_is_none(tmp_path: Path):
    path = tmp_path / "replies.sqlite"
    ReplyCache(path).close()
    with sqlite3.connect(path) as file:
        for key, row in enumerate(('{"text": 1', "[]", "null", '{"usage": []}', '{"no": "field"}', "[" * 100_000)):
            file.execute("INSERT INTO replies VALUES (?, ?)", (str(key), row))
    cache = ReplyCache(path)
    assert [cache.get(str(key)) for key in range(6)] == [None] * 6
    cache.close()


def test_a_damaged_cache_is_named(tmp_path: Path):
    path = tmp_path / "replies.sqlite"

    async def fill() -> None:
        cache = ReplyCache(path)
        await asyncio.gather(*(cache.put(str(key), JudgeReply("x" * 2000)) for key in range(50)))
        cache.close()

    asyncio.run(fill())
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"replies\.sqlite: .*(--cache|name another file)"):
        ReplyCache(path).get("7")
