"""Replies on disk: what a judge has answered once is never asked again, whatever happens to the process."""

from __future__ import annotations

import asyncio
import hashlib
import json
import sqlite3
from dataclasses import asdict
from pathlib import Path

from unigenbench.errors import DataError, TryAgainError
from unigenbench.runs.files import disk_errors
from unigenbench.types import JudgeReply, JudgeRequest, Usage

_SCHEMA = "CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, reply TEXT NOT NULL) WITHOUT ROWID"


def cache_key(judge_id: str, server: str, request: JudgeRequest) -> str:
    """SHA-256 of all that an answer depends on: judge, its server, image, text, sample and parse retry."""
    text = hashlib.sha256(request.text.encode(errors="surrogatepass")).hexdigest()
    sample = request.key.rpartition("/")[2]
    parts = (judge_id, server, request.image.sha256, text, sample, str(request.attempt))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


class ReplyCache:
    """Replies with verdicts by key, in one SQLite file. Whatever cannot be read as verdicts is not kept.

    `put` returns when the reply is safe on disk. Replies that arrive while an earlier one is being written are written
    together, so that the number of forced writes does not grow with the number of judges.
    """

    def __init__(self, path: Path):
        """Opens or makes the file.

        Raises:
            TryAgainError: the disk is full.
            DataError: it is no SQLite file, or cannot be written.
        """
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        try:
            self._reader = sqlite3.connect(path)
            self._reader.execute("PRAGMA journal_mode=WAL")
            self._reader.execute(_SCHEMA)
            self._writer = sqlite3.connect(path, check_same_thread=False, timeout=60)
            self._writer.execute("PRAGMA synchronous=FULL")
        except sqlite3.Error as error:
            if _is_full_disk(error):
                raise self._full(error) from error
            raise DataError(f"{path}: cannot be used as a cache of replies: {error}; name another file") from error
        self._waiting: list[tuple[str, str]] = []
        self._next: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()

    def get(self, key: str) -> JudgeReply | None:
        """The reply kept under a key; None where there is none, or none that can be read.

        Raises:
            DataError: the file is damaged.
        """
        try:
            row = self._reader.execute("SELECT reply FROM replies WHERE key = ?", (key,)).fetchone()
        except sqlite3.Error as error:
            raise self._damaged(error) from error
        try:
            return reply_from_json(row[0]) if row else None
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
            return None

    async def put(self, key: str, reply: JudgeReply) -> None:
        """Keeps a reply; on return it survives a kill and a power cut.

        Raises:
            TryAgainError: it cannot be written, for example as the disk is full.
            DataError: the file is damaged.
        """
        self._waiting.append((key, reply_to_json(reply)))
        if self._next is None:
            self._next = asyncio.create_task(self._write_waiting())
        await asyncio.shield(self._next)

    async def _write_waiting(self) -> None:
        async with self._turn:
            rows, self._waiting, self._next = self._waiting, [], None
            await asyncio.to_thread(self._write, rows)

    def _write(self, rows: list[tuple[str, str]]) -> None:
        try:
            with self._writer:
                self._writer.executemany("INSERT OR REPLACE INTO replies VALUES (?, ?)", rows)
        except sqlite3.OperationalError as error:
            raise self._full(error) from error
        except sqlite3.Error as error:
            raise self._damaged(error) from error

    def _full(self, error: sqlite3.Error) -> TryAgainError:
        return TryAgainError(f"{self._path}: {error}; free some space and run the same command again")

    def _damaged(self, error: sqlite3.Error) -> DataError:
        return DataError(f"{self._path}: {error}; remove the file, or name another with --cache")

    def close(self) -> None:
        """Closes the file; nothing waits to be written when every `put` has returned."""
        self._reader.close()
        self._writer.close()


def _is_full_disk(error: sqlite3.Error) -> bool:
    """Whether SQLite ran out of space; it says so in words, and names no code before Python 3.11."""
    return isinstance(error, sqlite3.OperationalError) and "full" in str(error)


def reply_to_json(reply: JudgeReply) -> str:
    """One line; lone surrogates, which SQLite does not take, as JSON escapes."""
    return json.dumps(asdict(reply), ensure_ascii=False).encode(errors="backslashreplace").decode()


def reply_from_json(text: str) -> JudgeReply:
    """Back from `reply_to_json`."""
    fields = json.loads(text)
    fields["usage"] = Usage(**fields["usage"])
    for name in ("verdicts", "probabilities"):
        fields[name] = tuple(fields[name]) if fields[name] is not None else None
    return JudgeReply(**fields)
