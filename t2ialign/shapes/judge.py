"""The verifier of Shapes as a judge of unigenbench: exact, free and quick, on prompts of Shapes only."""

from __future__ import annotations

from io import BytesIO
from typing import Any

from PIL import Image

from t2ialign.shapes.caption import constraints
from t2ialign.shapes.scene import Scene
from t2ialign.shapes.verify import Unreadable, verify
from unigenbench.judges.base import FatalFailure, Probe, judge_id
from unigenbench.taxonomy import criterion_of
from unigenbench.types import JudgeReply, JudgeRequest, Point


def points_of(caption: str) -> tuple[Point, ...]:
    """The test points of a caption: point k is the verifier's k-th constraint.

    Raises:
        ValueError: the text is no caption of Shapes.
    """
    return tuple(
        Point(criterion_of(stated.criterion).id, stated.criterion, str(stated)) for stated in constraints(caption)
    )


class ShapesJudge:
    """Verdict k is the verifier's on the prompt's k-th constraint; an unreadable picture is wrong everywhere."""

    def __init__(self) -> None:
        self.spec: dict[str, Any] = {"kind": "shapes", "version": 1}
        self.id = judge_id(self.spec)

    async def probe(self) -> Probe:
        """Always available: no server is asked."""
        return Probe(notes=("Judged by the verifier of Shapes, which reads the pixels.",))

    async def judge(self, request: JudgeRequest) -> JudgeReply:
        """The verdicts, and what was seen in the picture.

        Raises:
            FatalFailure: the prompt is no caption of Shapes, or its test points are not the caption's constraints.
        """
        prompt = request.prompt
        try:
            stated = constraints(prompt.text)
        except ValueError as error:
            raise FatalFailure(f"prompt {prompt.index}: {error}") from error
        labels = [point.label for point in prompt.points]
        if labels != [constraint.criterion for constraint in stated]:
            raise FatalFailure(
                f"prompt {prompt.index}: test points {labels} are not the constraints of {prompt.text!r}, "
                f"which are {[str(constraint) for constraint in stated]}; use the suite 'shapes'"
            )
        with Image.open(BytesIO(request.image_bytes)) as image:
            judged = verify(stated, image)
        return JudgeReply(text=_described(judged.seen), verdicts=tuple(int(v.right) for v in judged.verdicts))

    async def aclose(self) -> None:
        """Nothing is open."""


def _described(seen: Scene | Unreadable) -> str:
    """What was seen, in words, for the report."""
    if isinstance(seen, Unreadable):
        return f"unreadable: {seen.reason}"
    things = ", ".join(f"a {thing.size} {thing.color} {thing.shape}" for thing in seen.things) or "nothing"
    return f"{things} on {seen.background}"
