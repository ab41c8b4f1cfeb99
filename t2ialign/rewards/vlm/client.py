"""Asks a model behind one server or several, and tells one question without an answer from a server that is away."""

from __future__ import annotations

import asyncio
import io
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from threading import Lock

from PIL.Image import Image

from t2ialign.errors import EnvironmentProblem, InputError
from unigenbench.judges.base import FatalFailure, JudgeError, TransientFailure
from unigenbench.judges.chat_completion import Completion
from unigenbench.judges.http_failures import QuotaSpent, RequestRejected
from unigenbench.judges.pool import JudgePool
from unigenbench.judges.questions import Question
from unigenbench.judges.text import shorten

logger = logging.getLogger(__name__)
Score = float | None


class JudgeClient:
    """Questions in, numbers out.

    Args:
        name: of the reward, for messages.
        pool: what is asked.
        read: the number that a reply stands for; None where it holds none.
        advice: what to do about a model that cannot judge so.
    """

    def __init__(self, name: str, pool: JudgePool, read: Callable[[Completion], Score], advice: str):
        self._name = name
        self._pool = pool
        self._read = read
        self._advice = advice
        self._kept: dict[str, Score] = {}
        """answers of a call that came to no end, by the question; they are not asked for again"""
        self._is_open = False
        self._has_answered = False

    async def scores(self, questions: Sequence[Question]) -> list[Score]:
        """A number for each question; None where the reply cannot be read, is cut, is refused or fails to come.

        Raises:
            EnvironmentProblem: no server answers even the question of the probe. What was answered before is kept.
            InputError: the servers do not take such questions: a wrong model, a wrong key, one image at most.
        """
        if not self._is_open:
            await self.probe()
            self._is_open = True
        found = await asyncio.gather(*(self._score(question) for question in questions))
        failures = [one for one in found if isinstance(one, JudgeError)]
        for failure in failures:
            if not isinstance(failure, TransientFailure) and self._is_fatal(failure):
                raise self._stopped(failure)
        if any(isinstance(failure, TransientFailure) for failure in failures):
            await self.probe()
        self._kept.clear()
        self._report(failures, len(found))
        return [None if isinstance(one, JudgeError) else one for one in found]

    async def probe(self) -> None:
        """Makes sure that a server answers.

        Raises:
            EnvironmentProblem, InputError: as `scores`.
        """
        try:
            await self._pool.probe()
        except JudgeError as error:
            raise self._stopped(error) from None

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._pool.aclose()

    async def _score(self, question: Question) -> Score | JudgeError:
        identity = question.identity
        if identity in self._kept:
            return self._kept[identity]
        try:
            completion = await self._pool.ask(question)
        except JudgeError as error:
            return error
        self._has_answered = True
        score = self._read(completion)
        if score is None:
            return JudgeError(f"no verdict in {shorten(completion.reply.text, 80)!r}")
        self._kept[identity] = score
        return score

    def _is_fatal(self, failure: JudgeError) -> bool:
        """Whether the next question would meet the same. A request that is rejected may be about its images alone."""
        if isinstance(failure, RequestRejected):
            return not self._has_answered
        return isinstance(failure, FatalFailure)

    def _stopped(self, error: JudgeError) -> EnvironmentProblem | InputError:
        if isinstance(error, TransientFailure):
            return EnvironmentProblem(f"reward '{self._name}': no server answers: {error}; is it up?")
        if isinstance(error, QuotaSpent):
            return EnvironmentProblem(f"reward '{self._name}': {error}")
        return InputError(f"reward '{self._name}': {error}; {self._advice}")

    def _report(self, failures: Sequence[JudgeError], asked: int) -> None:
        if failures:
            said, _ = Counter(str(failure) for failure in failures).most_common(1)[0]
            seen = f"{len(failures)} of {asked} questions have no verdict; most often: {said}"
            logger.warning("reward '%s': %s", self._name, seen)


def png(image: Image) -> bytes:
    """The image as a PNG file, without loss."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


class Files:
    """Images as PNG files; each image, which several pairs share, is written once while it is in use.

    Args:
        size: images that are kept, the last used.
    """

    def __init__(self, size: int = 64):
        self._size = size
        self._kept: dict[int, tuple[Image, bytes]] = {}
        self._lock = Lock()

    def png(self, image: Image) -> bytes:
        """See `png`; threads may share it."""
        with self._lock:
            kept = self._kept.pop(id(image), None)
            if kept is None or kept[0] is not image:
                kept = image, png(image)
            self._kept[id(image)] = kept
            if len(self._kept) > self._size:
                del self._kept[next(iter(self._kept))]
            return kept[1]
