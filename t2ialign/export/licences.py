"""Under which licence a base model is published, and what it asks of those who pass on what was made of it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from t2ialign.backbones.hub import MOVED, cached_folder, hub_model, is_hub_name


class Licence(NamedTuple):
    """A base model's licence."""

    tag: str
    """Its name in the front matter of a model card; empty where it is not known."""
    name: str
    link: str
    clause: str
    """What it asks for, in our words."""


_CLAUSE = (
    "What is made from the base may be passed on only with the same limits of use: its Attachment A has to be part of "
    "the terms for whoever gets these weights, and they have to get a copy of the licence and be told that the weights "
    "were changed (section III, paragraphs 4 and 5)."
)
OPEN_RAIL = {
    "sd15": Licence(
        "creativeml-openrail-m",
        "CreativeML Open RAIL-M",
        "https://huggingface.co/spaces/CompVis/stable-diffusion-license",
        _CLAUSE,
    ),
    "sdxl": Licence(
        "openrail++",
        "CreativeML Open RAIL++-M",
        "https://huggingface.co/stabilityai/stable-diffusion-xl-base-1.0/blob/main/LICENSE.md",
        _CLAUSE,
    ),
}
"""Family -> the licence of its first model, which descendants inherit unless their publisher says more."""
_BASES = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": OPEN_RAIL["sd15"],
    "CompVis/stable-diffusion-v1-4": OPEN_RAIL["sd15"],
    "stabilityai/stable-diffusion-xl-base-1.0": OPEN_RAIL["sdxl"],
}
_BY_TAG = {licence.tag: licence for licence in OPEN_RAIL.values()}
_STATED = re.compile(r"^license:[ \t]*[\"']?([\w.+-]+)", re.MULTILINE)


def licence_of(base: str, family: str) -> Licence:
    """The licence of a base model: that of a known hub id, or what the model card in its folder states.

    Args:
        base: hub id, folder or file.
        family: of its architecture; says what its weights most likely descend from.
    """
    given = Path(base).expanduser()
    hub = None if given.exists() or not is_hub_name(base) else hub_model(base).name
    if hub is not None and MOVED.get(hub, hub) in _BASES:
        return _BASES[MOVED.get(hub, hub)]
    tag = _stated_tag(given if hub is None else cached_folder(base))
    link = "" if hub is None else f"https://huggingface.co/{hub}"
    if tag is not None:
        unread = "The base's own licence says what holds for weights that were made from it."
        return _BY_TAG.get(tag, Licence(tag, tag, link, unread))
    likely = OPEN_RAIL.get(family)
    inherited = (
        "" if likely is None else f"what descends from Stable Diffusion inherits {likely.name} ({likely.link}); "
    )
    clause = f"The files of the base do not state it; {inherited}look it up before these weights are passed on."
    return Licence("", "not stated", link, clause)


def _stated_tag(folder: Path | None) -> str | None:
    """`license` in the front matter of the model card in a folder."""
    card = None if folder is None else folder / "README.md"
    if card is None or not card.is_file():
        return None
    _, _, rest = card.read_text(encoding="utf-8", errors="replace").partition("---\n")
    found = _STATED.search(rest.partition("\n---")[0])
    return None if found is None else found[1]
