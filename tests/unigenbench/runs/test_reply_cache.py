"""Replies on disk."""

from __future__ import annotations

import asyncio
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from unigenbench.errors import DataError
from unigenbench.runs.cache import ReplyCache, cache_key, reply_from_json, reply_to_json
from unigenbench.types import ImageFile, JudgeReply, JudgeRequest, Point, Prompt, Usage

PROMPT = Prompt(3, "a red dog", "", "", "", "", (Point("attribute.color", "Attribute - Color", "red"),))
IMAGE = ImageFile(3, 1, Path("3_1.png"), "a" * 64, 8, 8, "PNG")
REQUEST = JudgeRequest("en/3/1/0", PROMPT, IMAGE, "the rubric", b"bytes", "image/png", True)
REPLY = JudgeReply("<score>[1]</score>", usage=Usage(1, 2, 3, 4), verdicts=(1,), probabilities=(0.75,), requests=2)


def test_a_key_changes_with_all_that_changes_an_answer_and_nothing_else():
    same = replace(REQUEST, key="other_name/3/1/0", image=replace(IMAGE, path=Path("elsewhere/3_1.png")), max_tokens=9)
    assert cache_key("judge", "http://a", same) == cache_key("judge", "http://a", REQUEST)
    others = [
        cache_key("another", "http://a", REQUEST),
        cache_key("judge", "http://a", replace(REQUEST, text="other words")),
        cache_key("judge", "http://a", replace(REQUEST, image=replace(IMAGE, sha256="b" * 64))),
        cache_key("judge", "http://a", replace(REQUEST, key="en/3/1/1")),
        cache_key("judge", "http://a", replace(REQUEST, attempt=1)),
    ]
    assert len({cache_key("judge", "http://a", REQUEST), *others}) == 6


def test_a_reply_survives_json():
    assert reply_from_json(reply_to_json(REPLY)) == REPLY


def test_what_put_has_returned_for_is_on_disk(tmp_path: Path):
    async def main() -> None:
        cache = ReplyCache(tmp_path / "replies.sqlite")
        await asyncio.gather(*(cache.put(str(k), replace(REPLY, text=str(k))) for k in range(200)))
        reader = sqlite3.connect(tmp_path / "replies.sqlite")  # another connection, the first not closed
        assert reader.execute("SELECT count(*) FROM replies").fetchone() == (200,)
        assert cache.get("7") == replace(REPLY, text="7")
        assert cache.get("absent") is None
        cache.close()

    asyncio.run(main())


def test_replies_that_come_together_are_written_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    async def main() -> list[int]:
        cache = ReplyCache(tmp_path / "replies.sqlite")
        sizes: list[int] = []
        write = cache._write
        monkeypatch.setattr(cache, "_write", lambda rows: (sizes.append(len(rows)), write(rows)))
        await asyncio.gather(*(cache.put(str(k), REPLY) for k in range(64)))
        cache.close()
        return sizes

    sizes = asyncio.run(main())
    assert sum(sizes) == 64
    assert len(sizes) <= 3


def test_a_file_that_is_no_cache_is_refused(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("these are notes, and a rather long line of them at that" * 9)
    with pytest.raises(DataError, match=r"notes\.txt: cannot be used as a cache"):
        ReplyCache(tmp_path / "notes.txt")
