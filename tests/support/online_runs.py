"""A tiny online run, and the rows that it recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from t2ialign.config.reader import load
from t2ialign.config.schema import OnlineConfig
from t2ialign.training.trackers import read_metrics

PROMPTS = ["a red circle", "a blue square", "a green cross", "two rings", "a cyan diamond"]
STEPS = (
    "objective={name: grpo}", "noiser={name: transitions}", "rollout.eta=1", "rollout.weights=policy",
    "rollout.inference_steps=4",
)  # fmt: skip
"""What makes it learn from trajectories."""
TEXT = """
loop: online
run_dir: {run_dir}
backbone: {{name: {family}, pretrained: {model}}}
lora: {{rank: 2, alpha: 4}}
data: {{name: prompts, path: {prompts}}}
rewards: [brightness]
rollout: {{prompts: 2, images: 3, timesteps: 2, inference_steps: 2}}
advantage: {{scale: group_std}}
noiser: {{name: forward}}
objective: {{name: nft}}
optim: {{lr: 1e-3}}
train: {{steps: 3, effective_batch: 12, micro_batch: 4}}
checkpoint: {{every_steps: 2}}
"""


def config_of(folder: Path, model: Path, *overrides: str, family: str = "sd15", name: str = "run") -> OnlineConfig:
    (folder / "prompts.txt").write_text("\n".join(PROMPTS) + "\n")
    path = folder / f"{name}.yaml"
    path.write_text(
        TEXT.format(run_dir=folder / name, model=model, family=family, prompts=folder / "prompts.txt").lstrip()
    )
    config = load(path, list(overrides))
    assert isinstance(config, OnlineConfig)
    return config


def rows(config: OnlineConfig) -> list[dict[str, Any]]:
    return read_metrics(config.run_dir / "metrics.jsonl")
