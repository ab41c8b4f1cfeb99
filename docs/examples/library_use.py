"""Train, generate and score from Python.

python library_use.py configs/shapes_dpo.yaml runs/mine train.steps=20
"""

from __future__ import annotations

import sys
from pathlib import Path

from t2ialign import GenerationConfig, generate_images, load_config, load_reward, open_model, train

SETTINGS = GenerationConfig(guidance_scale=1.5, inference_steps=10)
PROMPTS = ["a red circle above a blue square", "three large rings"]


def main(path: str, run: str, *overrides: str) -> None:
    config = load_config(path, [f"run_dir={run}", *overrides])
    train(config)  # continues a run that was stopped; does nothing if it is finished

    reward = load_reward("sharpness")
    for name, loras in {"base": {}, "aligned": {run: 1.0}}.items():
        policy, weights = open_model(config.backbone.pretrained, loras=loras)
        images = list(generate_images(policy, PROMPTS, [0, 1], SETTINGS, weights=weights))
        for number, image in enumerate(images):
            image.save(Path(run) / f"{name}_{number}.png")
        print(name, reward(images, PROMPTS))


if __name__ == "__main__":
    main(*sys.argv[1:])
