"""Columns of a table, found by what they mean."""

from __future__ import annotations

import difflib
import re
from typing import NamedTuple

from t2ialign.config.component import Section
from t2ialign.data.tables.table import Table
from t2ialign.errors import DataError


class Role(NamedTuple):
    """What a column can mean, and the names that say so."""

    key: str
    """Its key under data.columns."""
    meaning: str
    names: tuple[str, ...]


PROMPT = Role("prompt", "the prompt", ("prompt", "caption", "text"))
CHOSEN = Role("chosen", "the chosen image", ("chosen", "win", "winner", "jpg_w", "image_w", "chosen_image"))
REJECTED = Role("rejected", "the rejected image", ("rejected", "lose", "loser", "jpg_l", "image_l", "rejected_image"))
IMAGE_0 = Role("image_0", "the first image", ("image_0", "jpg_0"))
IMAGE_1 = Role("image_1", "the second image", ("image_1", "jpg_1"))
LABEL = Role("label", "which image is better", ("label_0", "label"))
LABEL_1 = Role("label_1", "how good the second image is", ("label_1",))
PREFERRED = Role("preferred", "the number of the better image", ("preferred",))
IMAGE = Role("image", "the image", ("image", "images", "file_name", "file", "jpg"))
SCORE_CHOSEN = Role("score_chosen", "the chosen image's score", ("score_chosen", "chosen_score", "score_w"))
SCORE_REJECTED = Role("score_rejected", "the rejected image's score", ("score_rejected", "rejected_score", "score_l"))
SCORE = Role("score", "the image's score", ("score", "scores"))
RANK = Role("rank", "the image's rank", ("rank", "ranks", "ranking"))
PREFERENCE = Role("preference", "how good each image of a list is", ("preference", "human_preference"))
REWARD = Role("reward", "which reward gave the score", ("reward",))
LIKED = Role("liked", "whether the image is liked", ("liked", "desirable", "label"))
HAS_LABEL = Role("has_label", "whether the row has a label", ("has_label",))
ARE_DIFFERENT = Role("are_different", "whether the two images differ", ("are_different",))
BEST_UID = Role("best_uid", "the better image's identifier", ("best_image_uid",))
UID_0 = Role("uid_0", "the first image's identifier", ("image_0_uid",))
UID_1 = Role("uid_1", "the second image's identifier", ("image_1_uid",))
NSFW = Role("nsfw", "whether the row is not safe for work", ("nsfw", "is_nsfw", "unsafe", "nsfw_flag"))
MISMATCHED = Role("mismatched", "the mismatched prompt", ("mismatched", "mismatched_prompt", "prompt_l", "caption_l"))
ROLES = (
    PROMPT,
    CHOSEN,
    REJECTED,
    IMAGE_0,
    IMAGE_1,
    LABEL,
    LABEL_1,
    PREFERRED,
    IMAGE,
    SCORE_CHOSEN,
    SCORE_REJECTED,
    SCORE,
    RANK,
    PREFERENCE,
    REWARD,
    LIKED,
    NSFW,
    MISMATCHED,
)
"""Those that the config can name a column for."""
PICK_A_PIC = (HAS_LABEL, ARE_DIFFERENT, BEST_UID, UID_0, UID_1)
"""Those of Pick-a-Pic alone."""


class Columns(Section):
    """Names of columns, where they do not say by themselves what they mean.

    Endings _file_name and _path do not count: chosen_file_name is found as chosen.
    """

    prompt: str | None = None
    """The prompt; found by itself as prompt, caption or text."""
    chosen: str | None = None
    """The preferred image; found as chosen, win, winner, jpg_w, image_w or chosen_image."""
    rejected: str | None = None
    """The other image; found as rejected, lose, loser, jpg_l, image_l or rejected_image."""
    image_0: str | None = None
    """The first of two images with a label; found as image_0 or jpg_0."""
    image_1: str | None = None
    """The second of two images with a label; found as image_1 or jpg_1."""
    label: str | None = None
    """Pick-a-Pic's label: 1 where the first image is better, 0 where the second is, 0.5 for a tie; found as label_0."""
    label_1: str | None = None
    """The same for the second image, to be checked against the first; found as label_1."""
    preferred: str | None = None
    """Instead of a label: 0 where the first image is better, 1 where the second is; found as preferred."""
    image: str | None = None
    """The image of a data set of single images, or the list of a prompt's images; found as image, images, file_name,
    file or jpg."""
    score_chosen: str | None = None
    """A reward's score of the preferred image; found as score_chosen, chosen_score or score_w."""
    score_rejected: str | None = None
    """A reward's score of the other image; found as score_rejected, rejected_score or score_l."""
    score: str | None = None
    """The score of the image of a row, or of each image of its list, for lists; found as score or scores."""
    rank: str | None = None
    """Instead of scores the ranks, 1 for the best; found as rank, ranks or ranking."""
    preference: str | None = None
    """Of two images in a list 1 for the better and 0 for the other, as HPD has it; found as preference or
    human_preference."""
    reward: str | None = None
    """Which reward gave that score, where a table holds several; found as reward."""
    liked: str | None = None
    """1 where the image is liked, 0 where not, for labelled images; found as liked, desirable or label."""
    nsfw: str | None = None
    """Whether a row is not safe for work; found as nsfw, is_nsfw, unsafe or nsfw_flag."""
    mismatched: str | None = None
    """A prompt that does not fit the image, for text pairs; found as mismatched, mismatched_prompt, prompt_l or
    caption_l."""

    def named(self, role: Role) -> str | None:
        """The column the config names for a role."""
        return getattr(self, role.key, None)


def match_column(table: Table, role: Role, columns: Columns | None) -> str | None:
    """The column that has a role, or None.

    Raises:
        DataError: the config names a column that is not there, or several columns look alike.
    """
    named = None if columns is None else columns.named(role)
    if named is not None:
        if named not in table.columns:
            close = difflib.get_close_matches(named, table.columns, n=1)
            hint = f'; did you mean "{close[0]}"?' if close else ""
            raise DataError(
                f"{table.path}: data.columns.{role.key} is '{named}', but columns are {_names(table)}{hint}"
            )
        return named
    found = [column for column in table.columns if _plain(column) in role.names]
    found = found or [column for column in table.columns if _stripped(column) in role.names]
    if len(found) > 1:
        raise DataError(
            f"{table.path}: columns {' and '.join(found)} both look like {role.meaning}; "
            f"set data.columns.{role.key} to one of them"
        )
    return found[0] if found else None


def check_named_columns(table: Table, columns: Columns) -> None:
    """Checks that the columns which the config names are there, whether or not this kind of data reads them.

    Raises:
        DataError: one is not.
    """
    for role in ROLES:
        if columns.named(role) is not None:
            match_column(table, role, columns)


def find_column(table: Table, role: Role, columns: Columns | None) -> str:
    """The column that has a role.

    Raises:
        DataError: there is none; the message names the likely typo.
    """
    found = match_column(table, role, columns)
    if found is None:
        raise DataError(f"{table.path}: has columns {_names(table)}; {_remedy(table, role)}")
    return found


def _remedy(table: Table, role: Role) -> str:
    free = {_plain(column): column for column in table.columns if not _is_known(column)}
    for name in role.names:
        close = difflib.get_close_matches(name, list(free), n=1, cutoff=0.75)
        if close:
            column = free[close[0]]
            return (
                f'need a column for {role.meaning}; "{column}" looks like "{name}": rename it '
                f"or set data.columns.{role.key}={column}"
            )
    return f"need a column for {role.meaning} ({', '.join(role.names)}): rename one or set data.columns.{role.key}=NAME"


def _is_known(column: str) -> bool:
    return any({_plain(column), _stripped(column)} & {*role.names} for role in (*ROLES, *PICK_A_PIC))


def _plain(column: str) -> str:
    return column.strip().lower().replace(" ", "_").replace("-", "_")


def _stripped(column: str) -> str:
    """The name without the ending by which Hugging Face's imagefolder and others mark columns of paths."""
    return re.sub("_(file_names?|paths?)$", "", _plain(column))


def _names(table: Table) -> str:
    return ", ".join(table.columns)
