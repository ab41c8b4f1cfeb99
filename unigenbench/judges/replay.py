"""A judge that answers from a recorded run and never calls anybody."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from unigenbench.judges.base import FatalFailure, JudgeOptions, JudgeRefused, JudgeTruncated, Probe, judge_id
from unigenbench.prompts import prompt_sha256
from unigenbench.protocol.parsing import Parsed, parse
from unigenbench.runs.store import open_log
from unigenbench.types import Judgement, JudgeReply, JudgeRequest


def open_replay(run: str, options: JudgeOptions) -> Replay:
    """The judge of a run folder; no option concerns it."""
    return Replay(Path(run))


class Replay:
    """Says again what a run recorded about the same image, prompt and sample; words are parsed anew.

    Raises:
        BenchError: the folder is no run folder, or damaged.
    """

    def __init__(self, run: Path):
        log = open_log(run)
        self.run = run
        self.spec: dict[str, Any] = {"kind": "replay", "judge": log.manifest["judge"]}
        self.id = judge_id(self.spec)
        self._recorded = {
            (judgement.image_sha256, judgement.prompt_sha256, _sample(judgement.key)): judgement
            for judgement in log.judgements
        }

    async def probe(self) -> Probe:
        """Says how much is recorded."""
        return Probe(notes=(f"Replayed from {self.run}, which holds {len(self._recorded)} judgements.",))

    async def judge(self, request: JudgeRequest) -> JudgeReply:
        """The recorded reply.

        Raises:
            JudgeRefused, JudgeTruncated: that is what was recorded.
            FatalFailure: nothing was recorded, or no reply.
        """
        about = (request.image.sha256, prompt_sha256(request.prompt), _sample(request.key))
        found = self._recorded.get(about)
        if found is None:
            raise FatalFailure(f"{self.run}: no judgement of {request.image.path.name} with this prompt")
        return _reply(found, len(request.prompt.points))

    async def aclose(self) -> None:
        """Holds nothing open."""


def _sample(key: str) -> str:
    return key.rpartition("/")[2]


def _reply(found: Judgement, n: int) -> JudgeReply:
    """What was recorded; it costs nothing a second time, so no usage."""
    if found.status == "refused":
        raise JudgeRefused(found.error or "refused, as recorded")
    if found.status == "truncated":
        raise JudgeTruncated(found.error or "cut, as recorded", JudgeReply(found.raw, "length"))
    if found.status not in ("ok", "parse_failed"):
        raise FatalFailure(f"recorded as {found.status}: {found.error}")
    readable = isinstance(parse(found.raw, n), Parsed)
    return JudgeReply(
        text=found.raw,
        verdicts=None if readable else found.verdicts,
        probabilities=found.probabilities,
    )
