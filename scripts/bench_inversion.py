"""Times what inversion and fixed draws cost beside a DPO step, and our step beside the public DPO LoRA recipe.

python scripts/bench_inversion.py                 # an embedded model, 32 pairs a step
python scripts/bench_inversion.py --full-size     # SD1.5's own size with random weights, one pair of 256 px a step
"""

# diffusers annotates modules as unions:
# pyright: reportAttributeAccessIssue=false

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from bench_parts import (
    Floor,
    Inputs,
    Ratio,
    Steps,
    forget_gradients,
    full_size_changes,
    interleave,
    machine,
    medians,
    pairs_folder,
    passes,
    run,
)
from torch import Tensor

from t2ialign.config.reader import load
from t2ialign.training.reference_errors import CARRIED
from t2ialign.types import Conditioning

DPO = "DPO step"
WARM = "DPO step with warm draws"
PASS = "policy's forward and backward pass"
CACHED = "noiser.weights=reference noiser.levels=10"
RUNS = {
    DPO: ("shapes_dpo", ""),
    "InPO step with cached levels": ("shapes_inpo", CACHED),
    "SmPO step with cached levels": ("shapes_smpo", CACHED),
    "InPO step that inverts": ("shapes_inpo", ""),
    "SmPO step that inverts": ("shapes_smpo", ""),
    WARM: ("shapes_dpo", "noiser.draws=1"),
}
"""What is timed -> recipe and what is added to it."""
RATIOS = [
    *(Ratio(name, DPO, "at most 1.05") for name in RUNS if name.endswith("cached levels")),
    *(Ratio(name, DPO) for name in RUNS if name.endswith("inverts")),
    Ratio(WARM, PASS, "at most 1.05"),
]
RECIPE = "public recipe's calls"
FULL_SIZE_RATIOS = [
    Ratio(RECIPE, DPO, "at least 1.4"),
    Ratio(RECIPE, WARM, "at least 2"),
    Ratio(WARM, PASS, "at most 1.05"),
]


class PublicRecipe:
    """The calls of a step of diffusers' Diffusion-DPO LoRA script (examples/research_projects/diffusion_dpo), one pair.

    Both images go through the VAE and the prompt through the text encoder; they are noised; reference and policy
    predict; one backward pass. Images are neither read nor resized, and no weights are changed, so it is the least that
    such a step takes.
    """

    def __init__(self, steps: Steps, side: int) -> None:
        self.policy = steps.core.policy
        self.parts: dict[str, Any] = self.policy.backbone.pipeline().components
        self.pixels = torch.rand(2, 3, side, side, device=self.policy.device) * 2 - 1

    def __call__(self) -> None:
        latents, text = self._encode("a large red circle")
        noise = torch.randn_like(latents[:1]).expand_as(latents)
        scheduler = self.parts["scheduler"]
        timesteps = torch.randint(0, scheduler.config.num_train_timesteps, (1,), device=latents.device).expand(2)
        x_t = scheduler.add_noise(latents, noise, timesteps)
        passes(self.policy, Inputs(x_t, timesteps, Conditioning(text), None))
        forget_gradients(self.policy)

    @torch.no_grad()
    def _encode(self, prompt: str) -> tuple[Tensor, Tensor]:
        """Latents [2, C, h, w] and token states [2, L, D]."""
        vae, tokenizer = self.parts["vae"], self.parts["tokenizer"]
        posterior = vae.encode(self.pixels.to(vae.dtype)).latent_dist
        words = tokenizer([prompt], padding="max_length", truncation=True, return_tensors="pt")
        states = self.parts["text_encoder"](words.input_ids.to(self.pixels.device))[0]
        return posterior.sample() * vae.config.scaling_factor, states.expand(2, -1, -1)


def check_warm(steps: Steps) -> None:
    """Every error of the reference is known, so that no timed step computed one."""
    (table,) = steps.core.engine.carried[CARRIED].values()
    assert table.isfinite().all(), "the draws were not warm"


def embedded(folder: Path, model: str, block: int) -> dict[str, list[float]]:
    """The recipes of RUNS at a micro-batch of 32 pairs: two steps see all of 64."""
    table = pairs_folder(folder / "pairs", 64)
    changes = [f"backbone.pretrained={model}", f"data.path={table}", "train.effective_batch=32", "train.steps=1000000"]
    runs = {
        name: Steps(load(f"configs/{recipe}.yaml", [*changes, f"run_dir={folder / name}", *more.split()]))
        for name, (recipe, more) in RUNS.items()
    }
    return timed(runs, {PASS: Floor(runs[WARM], reference=False)}, block)


def full_size(folder: Path, block: int) -> dict[str, list[float]]:
    """One pair of 256 px a step on SD1.5's own size: three steps see all of 3."""
    changes = full_size_changes(folder, 3)
    runs = {
        name: Steps(load("configs/dpo_sd15.yaml", [*changes, f"run_dir={folder / name}", *more]))
        for name, more in {DPO: [], WARM: ["noiser.draws=1"]}.items()
    }
    others = {RECIPE: PublicRecipe(runs[DPO], 256), PASS: Floor(runs[WARM], reference=False)}
    return timed(runs, others, block)


def timed(runs: dict[str, Steps], others: dict[str, Callable[[], None]], block: int) -> dict[str, list[float]]:
    times = interleave({**runs, **others}, block)
    check_warm(runs[WARM])
    for steps in runs.values():
        steps.close()
    return times


def report(options: argparse.Namespace, folder: Path) -> Iterator[str]:
    """The lines, as they are measured."""
    yield from machine()
    if options.full_size:
        yield from ("", "SD1.5 at full size, random weights, bfloat16, LoRA rank 64, one pair of 256 px")
        times, ratios = full_size(folder, options.block), FULL_SIZE_RATIOS
    else:
        yield from ("", f"{options.model}, LoRA rank 16 on all layers, 32 pairs")
        times, ratios = embedded(folder, options.model, options.block), RATIOS
    yield from [*medians(times), "", *(ratio.line(times) for ratio in ratios)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full-size", action="store_true", help="SD1.5's own size instead of an embedded model")
    parser.add_argument("--model", default="assets/shapes-sd", help="folder of a model of Shapes, backbone sd15")
    parser.add_argument("--block", type=int, default=8, help="steps timed together")
    parser.add_argument("--out", type=Path, help="a text file that gets the lines too")
    run(report, parser.parse_args())


if __name__ == "__main__":
    main()
