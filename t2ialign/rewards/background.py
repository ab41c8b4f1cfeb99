"""One event loop for rewards that are `async def`, as long as the process lives: connection pools belong to a loop."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Awaitable
from threading import Thread
from typing import Any


def wait_for(answer: Any) -> Any:
    """What an awaitable comes to; anything else as it is. What it raises is raised here."""
    if not inspect.isawaitable(answer):
        return answer
    under_way = asyncio.run_coroutine_threadsafe(_outcome(answer), _event_loop())
    try:
        result, error = under_way.result()
    finally:
        under_way.cancel()
    if error is not None:
        raise error
    return result


@functools.cache
def _event_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    Thread(target=loop.run_forever, name="rewards", daemon=True).start()
    return loop


async def _outcome(answer: Awaitable[Any]) -> tuple[Any, BaseException | None]:
    """(result, exception): a SystemExit that a task raises would end the loop itself."""
    try:
        return await answer, None
    except BaseException as error:
        return None, error
