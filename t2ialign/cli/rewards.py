"""`t2ialign score`, `t2ialign reward`: what rewards say of images, which there are, and whether one keeps its word."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from t2ialign.cli.options import Rewards, Seed, out

app = typer.Typer(help="List rewards, try them on a few images, or serve them.", no_args_is_help=True)
Named = Annotated[
    list[str], typer.Argument(help="Name, module:attr or file.py:attr, then =WEIGHT,option=value if wanted.")
]


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


@app.command("list")
def list_rewards() -> None:
    """List the rewards that have a name: kind, range, source, how verified, and whether their weights are here."""
    from t2ialign.rewards.catalogue import catalogue, describe

    for listed in catalogue():
        out.print(describe(listed))


@app.command()
def serve(
    rewards: Named,
    host: Annotated[
        str, typer.Option(help="Address to listen on; others than this machine need 0.0.0.0.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8900,
    max_mb: Annotated[int, typer.Option(min=1, help="Largest request in MB.")] = 64,
) -> None:
    """Serve rewards to other processes and machines: POST /score in JSON, see docs/reward-service.md."""
    from t2ialign.rewards.registry import parse_reward
    from t2ialign.rewards.service.server import RewardServer

    configs = [parse_reward(reward) for reward in rewards]
    with RewardServer([config.load() for config in configs], (host, port), max_mb * 2**20) as server:
        out.print(f"{', '.join(server.rewards)} at {server.url}; Ctrl-C ends it")
        server.serve_forever()


@app.command("test")
def try_rewards(
    rewards: Named,
    images: Annotated[
        Path | None, typer.Option(help="Images with their prompts, as score takes them; default: Shapes renders.")
    ] = None,
    count: Annotated[int, typer.Option(min=2, help="Images.")] = 16,
    seed: Seed = 0,
) -> None:
    """Try rewards on a few images: numbers, failures, repeatability, speed, both orders of pairs; exit 1 if broken.

    A reward is broken that raises, answers something else than one number or None an item, or prefers nothing.
    """
    from t2ialign.feedback.trial import describe_trial, folder_groups, shapes_groups, try_reward
    from t2ialign.rewards.registry import parse_reward

    configs = [parse_reward(reward) for reward in rewards]
    groups = folder_groups(images, count) if images else shapes_groups((count + 1) // 2, seed)
    trials = []
    for config in configs:
        trials.append(try_reward(config.load(), groups))
        out.print(describe_trial(trials[-1]))
    if any(trial.broken for trial in trials):
        raise typer.Exit(1)
