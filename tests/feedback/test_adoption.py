"""Images come into the folder beside their table at the end, over nothing that is there, and only if they are named."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from captioned import image_table, rows_of
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from t2ialign.errors import DataError, EnvironmentProblem, InputError, TryAgainError, UserError
from t2ialign.feedback import adoption
from t2ialign.feedback.build import build_pairs
from t2ialign.feedback.negative_captions.base import Answer
from t2ialign.feedback.negative_captions.write import perturb_images
from t2ialign.feedback.pairing import Pairing
from t2ialign.feedback.pictures import read_pictures
from t2ialign.feedback.relabel import relabel_pairs
from t2ialign.rewards.base import PointwiseReward

COLOURS = 6


class Feedback:
    """A reward, and an editor of prompts, that can be made to fail; counts what they are asked."""

    fingerprint = "feedback"
    concurrency = 1

    def __init__(self) -> None:
        self.asked = 0
        self.gone = False

    def reward(self) -> PointwiseReward:
        def red(images, prompts):
            self.asked += 1
            if self.gone:
                raise ConnectionError("server gone")
            return [float(image.getpixel((0, 0))[0]) for image in images]

        return PointwiseReward("red", red, fingerprint="red", batch_size=2)

    def __call__(self, prompt: str, kind: str, seed: int) -> Answer:
        self.asked += 1
        if self.gone:
            return Answer("failed", "server gone")
        return Answer("written", f"{prompt} of another {kind}")


def pairs(folder: Path, rows: list[tuple[int, int]], name: str = "pairs.csv") -> Path:
    """A table of pairs of images whose red is their number."""
    folder.mkdir(exist_ok=True)
    for number in range(COLOURS):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(folder / f"{number}.png")
    lines = [f"{chosen} and {rejected},{chosen}.png,{rejected}.png\n" for chosen, rejected in rows]
    (folder / name).write_text("prompt,chosen,rejected\n" + "".join(lines))
    return folder / name


def relabel(here: Path, feedback: Feedback) -> None:
    relabel_pairs(pairs(here / "in", [(0, 1), (3, 2)]), here / "out", feedback.reward())


def perturb(here: Path, feedback: Feedback) -> None:
    perturb_images(image_table(here / "in", ["a cat", "a dog"]), here / "out", feedback, kinds=["content"])


def build(here: Path, feedback: Feedback) -> None:
    table = image_table(here / "in", ["a cat", "a cat", "a dog", "a dog"])
    build_pairs(here / "out", [feedback.reward()], Pairing(), images=table.parent)


COMMANDS = (relabel, perturb, build)
Command = Callable[[Path, Feedback], None]


def image_names(out: Path) -> set[str]:
    return {path.name for path in out.glob("images/*.png")}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_call_whose_feedback_fails_leaves_no_image(command: Command, tmp_path: Path):
    feedback = Feedback()
    feedback.gone = True
    with pytest.raises((EnvironmentProblem, TryAgainError), match="server gone"):
        command(tmp_path, feedback)
    assert feedback.asked
    assert not image_names(tmp_path / "out")


@pytest.mark.parametrize("name", ["0.png", "stranger.JPG"])
@pytest.mark.parametrize("command", COMMANDS)
def test_an_image_that_was_there_before_is_kept_and_named_before_anything_is_asked(
    command: Command, name: str, tmp_path: Path
):
    own = tmp_path / "out" / "images" / name
    own.parent.mkdir(parents=True)
    own.write_bytes(b"mine")
    feedback = Feedback()
    with pytest.raises(InputError, match=rf"holds other images \(.*{name}\); remove them, or give another folder"):
        command(tmp_path, feedback)
    assert feedback.asked == 0
    assert own.read_bytes() == b"mine"
    own.unlink()
    command(tmp_path, feedback)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_link_to_nothing_is_not_replaced(command: Command, tmp_path: Path):
    (tmp_path / "out" / "images").mkdir(parents=True)
    (tmp_path / "out" / "images" / "0.png").symlink_to(tmp_path / "nothing")
    with pytest.raises(InputError, match="holds other images"):
        command(tmp_path, Feedback())


@pytest.mark.parametrize("command", COMMANDS)
def test_a_call_that_was_cut_while_images_came_in_goes_on(command: Command, tmp_path: Path, monkeypatch):
    link, done = adoption.link_or_copy, []

    def full(source: Path, target: Path) -> None:
        if done:
            raise TryAgainError(f"{target}: the disk is full")
        link(source, target)
        done.append(target)

    with monkeypatch.context() as patched:
        patched.setattr(adoption, "link_or_copy", full)
        with pytest.raises(TryAgainError, match="the disk is full"):
            command(tmp_path, Feedback())
    assert len(image_names(tmp_path / "out")) == 1
    command(tmp_path, Feedback())
    (tmp_path / "fresh").mkdir()
    command(tmp_path / "fresh", Feedback())
    assert image_names(tmp_path / "out") == image_names(tmp_path / "fresh" / "out")


def test_only_images_that_the_table_names_come_in(tmp_path: Path):
    relabel_pairs(pairs(tmp_path / "in", [(0, 1), (2, 2), (4, 3)]), tmp_path / "out", Feedback().reward())
    rows = rows_of(tmp_path / "out" / "pairs.csv")
    assert {f"images/{name}" for name in image_names(tmp_path / "out")} == {
        row[view] for row in rows for view in ("chosen", "rejected")
    }
    assert len(rows) == 2


def test_two_images_that_would_have_one_name_are_refused(tmp_path: Path):
    """An image outside the folder is named by its row; an image inside may be named so already."""
    for path, level in (("in/1_x.png", 10), ("x.png", 20)):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4), (level, 0, 0)).save(tmp_path / path)
    (tmp_path / "in" / "t.csv").write_text("image,prompt\n1_x.png,a cat\n../x.png,a cat\n")
    assert [picture.name for picture in read_pictures(tmp_path / "in")] == ["1_x.png", "1_x.png"]
    with pytest.raises(InputError, match=r"x\.png and .*1_x\.png would both be .*1_x\.png; rename one of them"):
        build_pairs(tmp_path / "out", [Feedback().reward()], Pairing(), images=tmp_path / "in")
    assert not image_names(tmp_path / "out")


def test_bytes_inside_a_table_that_are_no_image_are_named_with_their_row(tmp_path: Path):
    columns = {"prompt": ["p"], "chosen": [b"GIF89a but no image"], "rejected": [b"nor this"]}
    pq.write_table(pa.table(columns), tmp_path / "p.parquet")
    with pytest.raises(DataError, match=r"p\.parquet.*: chosen in row 1: not an image"):
        relabel_pairs(tmp_path / "p.parquet", tmp_path / "out", Feedback().reward())


ROWS = st.lists(
    st.tuples(st.integers(0, COLOURS - 1), st.integers(0, COLOURS - 1)).filter(lambda row: row[0] != row[1]),
    min_size=1,
    max_size=4,
    unique=True,
)
CUTS = st.sampled_from(["reward", "first image", "second image", "table", ""])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(ROWS, CUTS), min_size=1, max_size=4))
def test_whatever_calls_failed_before_a_row_has_its_own_images_or_the_call_is_refused(
    calls: list[tuple[list[tuple[int, int]], str]],
):
    here = Path(tempfile.mkdtemp())
    try:
        for rows, cut in calls:
            _one_call(here, rows, cut)
    finally:
        shutil.rmtree(here)


def _one_call(here: Path, rows: list[tuple[int, int]], cut: str) -> None:
    feedback = Feedback()
    feedback.gone = cut == "reward"
    countdown = {"first image": 0, "second image": 1}.get(cut, 10_000)

    def cut_off(source: Path, target: Path) -> None:
        nonlocal countdown
        countdown -= 1
        if countdown < 0:
            raise TryAgainError("cut")
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(source, target)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(adoption, "link_or_copy", cut_off)
        if cut == "table":

            def full(*_: object) -> None:
                raise OSError(errno.EIO, "cut")

            patched.setattr("t2ialign.feedback.relabel.write_csv", full)
        try:
            done = relabel_pairs(pairs(here / "in", rows), here / "out", feedback.reward())
        except (UserError, OSError):
            return
    found = rows_of(done.table)
    assert len(found) == len(rows)
    for row, wanted in zip(found, rows, strict=True):
        for view, number in (("chosen", max(wanted)), ("rejected", min(wanted))):
            with Image.open(here / "out" / row[view]) as image:
                assert image.getpixel((0, 0)) == (number, 0, 0)
    named = {Path(row[view]).name for row in found for view in ("chosen", "rejected")}
    assert image_names(here / "out") == named
