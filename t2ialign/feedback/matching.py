"""Two folders of images as pairs that differ in the model alone: the same prompt from the same noise."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from t2ialign.errors import DataError, InputError
from t2ialign.feedback.pictures import Picture, read_pictures
from t2ialign.generation.record import RECORD, UNCOMPARED

_NO_SETTING = {"images", "prompts_sha256", "truncated_prompts", "fingerprint", UNCOMPARED}
"""Keys of a folder's record that say nothing of how its images were made."""


class Twin(NamedTuple):
    """Two images of one prompt and seed."""

    first: Picture
    second: Picture

    @property
    def prompt(self) -> str:
        return self.first.prompt


class Matched(NamedTuple):
    """Two folders, image by image."""

    twins: list[Twin]
    """In the order of the first folder."""
    has_seeds: bool
    """Whether both folders record the seeds; else images are matched by their names."""
    settings: dict[str, tuple[object, object]]
    """Settings that differ between the records -> both values; None where one lacks it."""


def match_folders(first: Path, second: Path) -> Matched:
    """Pairs the images of two folders by prompt and seed, or by prompt and name where a folder records no seeds.

    Raises:
        InputError: prompts, seeds or numbers of images are not the same, or a folder cannot be read.
        DataError: a folder has no images, or some are missing.
    """
    if first.resolve() == second.resolve():
        raise InputError(f"{first}: is given twice; give two folders of images")
    folders = read_pictures(first), read_pictures(second)
    has_seeds = all(picture.seed is not None for pictures in folders for picture in pictures)
    if not all(len(pictures) for pictures in folders):
        raise DataError(f"{first}, {second}: no images")
    a, b = (dict(zip(_keys(pictures, has_seeds), pictures, strict=True)) for pictures in folders)
    if a.keys() != b.keys():
        raise InputError(f"{first} and {second} cannot be compared: {_mismatch(*folders, has_seeds=has_seeds)}")
    twins = [Twin(picture, b[key]) for key, picture in a.items()]
    return Matched(twins, has_seeds, _differing(_record(first), _record(second)))


Key = tuple[str, int | str | None, int]


def _keys(pictures: Sequence[Picture], has_seeds: bool) -> Iterable[Key]:
    """(prompt, seed or name, which of those that share both) of each picture."""
    seen: Counter[tuple[str, int | str | None]] = Counter()
    for picture in pictures:
        key = (picture.prompt, picture.seed if has_seeds else Path(picture.name).stem)
        yield *key, seen[key]
        seen[key] += 1


def _mismatch(a: Sequence[Picture], b: Sequence[Picture], *, has_seeds: bool) -> str:
    """Why not every image has its counterpart, and what to do."""
    counts = [Counter(picture.prompt for picture in pictures) for pictures in (a, b)]
    alone = [[prompt for prompt in counts[side] if prompt not in counts[1 - side]] for side in (0, 1)]
    if any(alone):
        told = [
            f"{len(own)} only in the {which}, first {own[0]!r}"
            for own, which in zip(alone, ("first", "second"), strict=True)
            if own
        ]
        return f"their prompts differ ({'; '.join(told)}); make both of the same prompts"
    uneven = next((prompt for prompt in counts[0] if counts[0][prompt] != counts[1][prompt]), None)
    if uneven is not None:
        return (
            f"prompt {uneven!r} has {counts[0][uneven]} images in the first and {counts[1][uneven]} in the second; "
            "make as many of each prompt"
        )
    found, others = set(_keys(a, has_seeds)), set(_keys(b, has_seeds))
    prompt, own, _ = min(found - others, key=str)
    other = next(key[1] for key in sorted(others - found, key=str) if key[0] == prompt)
    if not has_seeds:
        return f"prompt {prompt!r} has an image {own} in the first and {other} in the second; give both the same name"
    return (
        f"prompt {prompt!r} was drawn with seed {own} in the first and {other} in the second; make both with the same "
        "--seed and --seed-policy"
    )


def _record(folder: Path) -> dict[str, object]:
    path = folder / RECORD
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _differing(a: dict[str, object], b: dict[str, object]) -> dict[str, tuple[object, object]]:
    if not (a and b):
        return {}
    keys = [key for key in {**a, **b} if key not in _NO_SETTING]
    return {key: (a.get(key), b.get(key)) for key in keys if a.get(key) != b.get(key)}
