"""The verifier as a judge of unigenbench."""

from __future__ import annotations

import asyncio
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from t2ialign.shapes.caption import constraints, describe
from t2ialign.shapes.families import FAMILIES
from t2ialign.shapes.render import render
from t2ialign.shapes.scene import Scene, Thing, sample_scene
from t2ialign.shapes.verify import verify
from unigenbench.judges.base import FatalFailure, open_judge
from unigenbench.prompts import read_prompts
from unigenbench.taxonomy import criterion_of
from unigenbench.types import ImageFile, JudgeReply, JudgeRequest, Point, Prompt

SCENE = Scene("navy", (Thing("circle", "red", "large", 20, 20), Thing("square", "blue", "small", 46, 46)))


def asked(caption: str, image: Image.Image, labels: list[str] | None = None) -> JudgeReply:
    labels = [stated.criterion for stated in constraints(caption)] if labels is None else labels
    points = tuple(Point(criterion_of(label).id, label, "") for label in labels)
    buffer = BytesIO()
    image.save(buffer, "PNG")
    file = ImageFile(0, 0, Path("0_0.png"), "", *image.size, "PNG")
    prompt = Prompt(0, caption, "", "", "", "", points)
    request = JudgeRequest("shapes/0/0/0", prompt, file, "", buffer.getvalue(), "image/png", True)
    return asyncio.run(open_judge("shapes").judge(request))


def test_verdict_k_is_of_constraint_k():
    # two things as stated, the red circle is there, the blue square is there, but it is not the one on the left
    reply = asked("a blue square to the left of a red circle", render(SCENE))
    assert reply.verdicts == (1, 1, 1, 0)
    assert reply.text == "a large red circle, a small blue square on navy"


def test_the_verdicts_are_the_verifiers():
    rng = np.random.default_rng(0)
    for name in FAMILIES:
        scene, caption = sample_scene(rng), None
        while caption is None:
            caption = describe(sample_scene(rng), name, rng)
        image = render(scene)
        wanted = tuple(int(verdict.right) for verdict in verify(caption, image).verdicts)
        assert asked(caption, image).verdicts == wanted


def test_an_unreadable_picture_is_wrong_everywhere():
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    reply = asked("a red circle", Image.fromarray(noise))
    assert reply.verdicts == (0, 0, 0)
    assert reply.text.startswith("unreadable: ")


def test_prompts_from_elsewhere_are_not_judged():
    with pytest.raises(FatalFailure, match="'a red dog' is not a caption of Shapes"):
        asked("a red dog", render(SCENE), ["Attribute - Color"])
    with pytest.raises(FatalFailure, match=r"test points \['Style'\] are not the constraints of 'a red circle'"):
        asked("a red circle", render(SCENE), ["Style"])


def test_every_prompt_of_the_shapes_suite_is_judged():
    image = render(SCENE)
    for prompt in read_prompts("shapes").prompts:
        reply = asked(prompt.text, image, [point.label for point in prompt.points])
        assert reply.verdicts is not None
        assert len(reply.verdicts) == len(prompt.points)
