"""`t2ialign score`: what rewards say of images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from t2ialign.cli.options import Rewards, out


def score(
    folder: Annotated[Path, typer.Argument(help="Images with generation.json, a table, or a text file beside each.")],
    reward: Rewards,
    out_file: Annotated[
        Path | None, typer.Option("--out", help="The table; default: scores.jsonl in the folder.")
    ] = None,
) -> None:
    """Score a folder of images with one or more rewards."""
    from t2ialign.feedback.scoring import describe_scores, score_folder
    from t2ialign.rewards.registry import load_pointwise

    scored = score_folder(folder, load_pointwise(reward, "score"), out=out_file)
    out.print(describe_scores(scored.summaries))
    out.print(f"scores in {scored.table}")
