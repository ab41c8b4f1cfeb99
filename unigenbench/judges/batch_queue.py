"""Questions that wait for a model in this process, answered together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Sequence
from typing import Any

GATHER_SECONDS = 0.02
"""How long the first question of a batch waits for others."""


class BatchQueue:
    """Gathers questions of one event loop into batches.

    Args:
        answer: an answer, or an exception, for each question of a batch; called in a thread, one batch at a time.
        key: questions with the same key can share a batch.
        size: the most questions of a batch, as it is at the time.
    """

    def __init__(
        self,
        answer: Callable[[list[Any]], Sequence[Any]],
        key: Callable[[Any], Hashable],
        size: Callable[[], int],
    ):
        self._answer, self._key, self._size = answer, key, size
        self._waiting: list[tuple[Any, asyncio.Future[Any]]] = []
        self._worker: asyncio.Task[None] | None = None

    async def answer(self, question: Any) -> Any:
        """The question's answer; raises it where it is an exception."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append((question, future))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return await future

    async def aclose(self) -> None:
        """Lets the batch in the model end; those that wait are cancelled."""
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)
        for _, future in self._waiting:
            future.cancel()
        self._waiting = []

    async def _work(self) -> None:
        """Batches, until nobody waits."""
        while self._waiting:
            await asyncio.sleep(GATHER_SECONDS)
            batch, self._waiting = self._next_batch()
            if not batch:
                continue
            try:
                answers = await asyncio.to_thread(self._answer, [question for question, _ in batch])
            except Exception as error:
                answers = [error] * len(batch)
            for (_, future), found in zip(batch, answers, strict=True):
                if future.done():
                    continue
                if isinstance(found, Exception):
                    future.set_exception(found)
                else:
                    future.set_result(found)

    def _next_batch(self) -> tuple[list[Any], list[Any]]:
        """(questions that can share one batch, the rest)."""
        waiting = [pair for pair in self._waiting if not pair[1].done()]
        if not waiting:
            return [], []
        key = self._key(waiting[0][0])
        together = [pair for pair in waiting if self._key(pair[0]) == key][: self._size()]
        taken = {id(pair) for pair in together}
        return together, [pair for pair in waiting if id(pair) not in taken]
