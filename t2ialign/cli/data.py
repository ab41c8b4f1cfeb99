"""`t2ialign data perturb` and `relabel`: new labels for images that are there. The other commands are in `cli`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from t2ialign.errors import InputError

if TYPE_CHECKING:
    from t2ialign.feedback.negative_captions.base import Editor

out = Console()


def perturb(
    data: Annotated[Path, typer.Argument(help="Images with prompts: a table or folder; of pairs the preferred ones.")],
    out_dir: Annotated[Path, typer.Option("--out", help="Folder of the images and text_pairs.csv.")],
    by: Annotated[str, typer.Option(help="shapes, english (rules, offline), or openai:MODEL on any such server.")],
    base_url: Annotated[
        str | None, typer.Option(help="Of the server; OPENAI_BASE_URL or OpenAI's if not said.")
    ] = None,
    kind: Annotated[
        list[str] | None, typer.Option(help="content, attribute, relation or context; all if not said. Repeatable.")
    ] = None,
    per_image: Annotated[int, typer.Option(min=1, help="Mismatched prompts of an image, each of another kind.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Seed of all randomness.")] = 0,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests to the server at once.")] = 8,
    max_failed: Annotated[float, typer.Option(min=0, max=1, help="Share of questions that may have no answer.")] = 0.05,
) -> None:
    """Give images a second prompt that does not fit, for TDPO and TKTO."""
    from t2ialign.feedback.negative_captions.base import KINDS
    from t2ialign.feedback.negative_captions.write import describe, perturb_images

    perturbed = perturb_images(
        data,
        out_dir,
        _editor(by, base_url, concurrency),
        kinds=kind or tuple(KINDS),  # type: ignore[arg-type]  # checked there
        per_image=per_image,
        seed=seed,
        max_failed=max_failed,
    )
    out.print(describe(perturbed), highlight=False, soft_wrap=True)


def relabel(
    pairs: Annotated[Path, typer.Argument(help="A table or folder of pairs.")],
    out_dir: Annotated[Path, typer.Option("--out", help="Folder of the images and pairs.csv.")],
    reward: Annotated[str, typer.Option(help="Name, module:attr or file.py:attr.")],
    margin: Annotated[float, typer.Option(min=0, help="Scores that differ by no more are a tie, left out.")] = 0.0,
    max_failed: Annotated[float, typer.Option(min=0, max=1, help="Share of images that may have no score.")] = 0.05,
) -> None:
    """Label pairs anew by a reward, and keep the label they had beside it."""
    from t2ialign.feedback.relabel import describe, relabel_pairs
    from t2ialign.rewards.base import parse_reward

    relabelled = relabel_pairs(pairs, out_dir, parse_reward(reward).reward, margin=margin, max_failed=max_failed)
    out.print(describe(relabelled), highlight=False, soft_wrap=True)


def _editor(by: str, base_url: str | None, concurrency: int) -> Editor:
    if by == "shapes":
        from t2ialign.feedback.negative_captions.shapes import ShapesEditor

        return ShapesEditor()
    if by == "english":
        from t2ialign.feedback.negative_captions.english import EnglishEditor

        return EnglishEditor()
    kind, _, model = by.partition(":")
    if kind != "openai" or not model:
        raise InputError(f"--by {by}: give shapes, english or openai:MODEL")
    from t2ialign.feedback.negative_captions.language_model import ModelEditor

    return ModelEditor(model, base_url=base_url, concurrency=concurrency)
