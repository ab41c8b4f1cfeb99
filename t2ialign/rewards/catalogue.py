"""What is known of each reward that comes with t2ialign: `t2ialign reward list`."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import huggingface_hub

from t2ialign.config.component import COMPONENTS
from t2ialign.errors import UserError
from t2ialign.rewards.aesthetic import HEAD_SHA256, HEAD_URL
from t2ialign.rewards.base import RewardConfig
from t2ialign.rewards.checks import Kind, infer_kind
from t2ialign.rewards.clip_family import CLIP_H, CLIP_L, MODEL_FILES, PICKSCORE
from t2ialign.rewards.registry import ENTRY_POINTS, find
from t2ialign.rewards.weights import cached_file

OWN = "t2ialign; Apache-2.0"
BY_HAND = "by hand on made images"
SMALL = "against transformers on small random weights; no published score was reproduced"


class About(NamedTuple):
    """Where a reward comes from."""

    range: str
    """Of its numbers, or what is usual."""
    source: str
    """Who made it; the licence of code and weights as stated there."""
    verified: str
    """How it was."""
    hub: tuple[str, ...] = ()
    """Ids of the weights that it loads by default."""
    needs: str = ""
    """What the user must name."""
    package: str = ""
    """Optional package that holds its weights."""


_SHAPES = "every constraint against hand-made scenes"
ABOUT: dict[str, About] = {
    "aesthetic": About(
        "about 1 to 10", "LAION, predictor v2 on CLIP ViT-L/14; Apache-2.0, MIT", SMALL, (CLIP_L,), needs=HEAD_URL
    ),
    "brightness": About("0 to 1", OWN, BY_HAND),
    "clip_score": About("-1 to 1, usually .20 to .35", "OpenAI, CLIP ViT-L/14; MIT", SMALL, (CLIP_L,)),
    "hpsv2": About(
        "-1 to 1, usually .20 to .37", "HPS v2.1, arXiv:2306.09341; Apache-2.0", SMALL, needs="weights=FILE,sha256=…"
    ),
    "http": About("the server's", "any server; its own", "readers and faults over a real socket", needs="url=,kind="),
    "image_reward": About(
        "usually -2.3 to 2", "ImageReward v1.0, arXiv:2304.05977; Apache-2.0", SMALL, needs="weights=FILE,sha256=…"
    ),
    "jpeg_size": About("kB, above 0", OWN, BY_HAND),
    "ocr": About(
        "0 to 1",
        "RapidOCR with PP-OCRv6; Apache-2.0",
        "by hand on made texts, and on rendered words",
        package="rapidocr",
    ),
    "pickscore": About("usually 19 to 24", "PickScore v1, arXiv:2305.01569; MIT", SMALL, (PICKSCORE, CLIP_H)),
    "saturation": About("0 to 1", OWN, BY_HAND),
    "shapes.all_right": About("0 or 1", OWN, _SHAPES),
    "shapes.faithfulness": About("0 to 1", OWN, _SHAPES),
    "shapes.mixed": About("0 to 1", OWN, _SHAPES),
    "shapes.prefers": About("0, 0.5 or 1", OWN, _SHAPES),
    "shapes.taste": About("0 to 1", OWN, _SHAPES),
    "sharpness": About("0 and above", OWN, BY_HAND),
    "vlm.prefers": About(
        "0 to 1",
        "any model on a server or here; the model's own",
        "readers and faults over a real socket",
        needs="model=,url= or model=hf:FOLDER",
    ),
    "vlm.scores": About(
        "0 to 1, or 1 to 5",
        "any model on a server or here; the model's own",
        "as vlm.prefers",
        needs="model=,url= or model=hf:FOLDER",
    ),
}


class Listed(NamedTuple):
    """A reward as `reward list` shows it."""

    name: str
    kind: Kind | None
    about: About | None
    """None of what another package offers."""
    weights: str


def catalogue() -> Iterator[Listed]:
    """Every reward that has a name: those of t2ialign, then those that other packages offer. Nothing is fetched."""
    for name in sorted(COMPONENTS["reward"]):
        yield Listed(name, kind_of(name), ABOUT[name], _weights(ABOUT[name]))
    for point in sorted(entry_points(group=ENTRY_POINTS)):
        yield Listed(point.name, kind_of(point.name), None, f"of {point.value}")


def kind_of(name: str) -> Kind | None:
    """The kind of a named reward; None where it cannot be imported."""
    try:
        target = find(name).target
        if inspect.isclass(target) and issubclass(target, RewardConfig):
            return target.model_fields["kind"].default
        return infer_kind(target)
    except UserError:
        return None


def _weights(about: About) -> str:
    """Whether what it loads by default is on this machine."""
    missing = [name for name in about.hub if not _is_cached(name)]
    if about.needs == HEAD_URL and not cached_file(HEAD_URL, HEAD_SHA256).is_file():
        missing.append(Path(HEAD_URL).name)
    if about.package and find_spec(about.package) is None:
        missing.append(f"package {about.package}")
    if missing:
        return f"not here: {', '.join(missing)}"
    if about.needs and about.needs != HEAD_URL:
        return f"name {about.needs}"
    return "here" if about.hub or about.package else "needs none"


def _is_cached(name: str) -> bool:
    return any(isinstance(huggingface_hub.try_to_load_from_cache(name, file), str) for file in MODEL_FILES)


def describe(listed: Listed) -> str:
    """Two lines."""
    about = listed.about or About("not stated", "another package", "not stated")
    return (
        f"{listed.name}: {listed.kind or 'cannot be imported'}, {about.range}; weights: {listed.weights}\n"
        f"  {about.source}; verified {about.verified}"
    )
