"""A tiny policy, batches of random latents and an engine over them: the core without data and config."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from t2ialign.backbones.adapters import add_adapter
from t2ialign.backbones.stable_diffusion import StableDiffusion15, StableDiffusionXL
from t2ialign.config.schema import Lora, Optim
from t2ialign.noisers.forward import ForwardNoiser
from t2ialign.objectives.dpo import DiffusionDPO
from t2ialign.policy import Policy
from t2ialign.rng import generator
from t2ialign.training.engine import Engine
from t2ialign.training.offline import compute_loss
from t2ialign.types import Batch, Conditioning, LossOutput

LEARNER = "learner"
LOOSE = 1e9
"""A max_grad_norm that never clips."""


def backbone(folder: Path, *, family: str = "sd15") -> Any:
    config = StableDiffusionXL if family == "sdxl" else StableDiffusion15
    return config(pretrained=str(folder)).build(torch.device("cpu"))


def lora_policy(
    folder: Path, *, moved: float = 0.0, family: str = "sd15", dtype: torch.dtype = torch.float32, **lora: Any
) -> Policy:
    """A policy whose learner is `moved` away from the base by random numbers of that size."""
    made = backbone(folder, family=family)
    add_adapter(made.denoiser, LEARNER, Lora(**{"rank": 2, "alpha": 4, **lora}), seed=0, trainable=True)
    made.denoiser.to(dtype)
    policy = Policy(made)
    move(policy, moved)
    return policy


def full_policy(folder: Path, *, moved: float = 0.0) -> Policy:
    """An SDXL whose whole denoiser is trained, `moved` away from its reference by random numbers of that size."""
    made = backbone(folder, family="sdxl")
    made.denoiser.requires_grad_(True)
    policy = Policy(made, full_finetune=True)
    move(policy, moved)
    return policy


@torch.no_grad()
def move(policy: Policy, size: float) -> None:
    for name, parameter in policy.trained_parameters().items():
        parameter += size * torch.randn(parameter.shape, generator=generator("moved", name))


def batch(policy: Policy, keys: list[int], *, views: int = 2, weights: list[float] | None = None) -> Batch:
    """Random latents and text of the policy's type, the same for a key whatever its company."""
    dtype = policy.denoiser.dtype
    channels, side = policy.backbone.latent_channels, policy.backbone.resolution // policy.backbone.vae_factor
    null = policy.backbone.null()
    latents = [torch.randn(views, channels, side, side, generator=generator("latents", key)) for key in keys]
    tokens = [torch.randn(1, *null.tokens.shape[1:], generator=generator("tokens", key)) for key in keys]
    pooled = None
    if null.pooled is not None:
        pooled = torch.stack([torch.randn(1, *null.pooled.shape[1:], generator=generator("pooled", k)) for k in keys])
    size = policy.backbone.geometry((64, 64), (0, 0), (64, 64))
    return Batch(
        keys=torch.tensor(keys),
        rows=torch.tensor(keys),
        latents=torch.stack(latents).to(dtype),  # type: ignore[arg-type]
        cond=Conditioning(torch.stack(tokens), pooled).to(dtype=dtype),
        geometry=None if size is None else size.expand(len(keys), views, 6),
        weights=None if weights is None else torch.tensor(weights),
    )


def dpo(policy: Policy, rows: Batch, *, beta: float = 100.0, seed: int = 0) -> LossOutput:
    return compute_loss(policy, rows, ForwardNoiser(), DiffusionDPO(beta=beta), seed)


class Recording(torch.optim.AdamW):
    """AdamW that keeps the gradients of every step."""

    def __init__(self, parameters: Any, **settings: Any):
        super().__init__(parameters, **settings)
        self.seen: list[list[Tensor]] = []

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.seen.append([p.grad.clone() for group in self.param_groups for p in group["params"]])
        super().step(closure)


def engine(policy: Policy, run_dir: Path, *, accumulation: int = 1, optim: Optim | None = None, **more: Any) -> Engine:
    optim = optim or Optim(lr=1e-3, max_grad_norm=LOOSE)
    return Engine(
        policy=policy,
        optimizer=Recording(list(policy.trained_parameters().values()), lr=optim.lr),
        optim=optim,
        steps=more.pop("steps", 100),
        accumulation=accumulation,
        run_dir=run_dir,
        seed=0,
        identity=more.pop("identity", {"data": "d1"}),
        **more,
    )


def gradients(made: Engine) -> list[Tensor]:
    """The gradients of the latest optimizer step."""
    assert isinstance(made.optimizer, Recording)
    return made.optimizer.seen[-1]


def state(policy: Policy) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in policy.denoiser.state_dict().items()}


def assert_same_gradients(found: list[Tensor], expected: list[Tensor], *, relative: float = 1e-4) -> None:
    """Within `relative` in every tensor, and no bias: the residual neither scales the gradient nor shifts it.

    A row's own rounding scales all of its gradient, so a tenth of the tolerance is left to the projection.
    """
    for one, other in zip(found, expected, strict=True):
        assert (one - other).norm() <= relative * other.norm() + 1e-12
    one, other = (torch.cat([g.flatten() for g in part]).double() for part in (found, expected))
    residual = one - other
    assert other.norm() > 0
    assert abs(residual @ other) <= relative / 10 * (other @ other)
    assert abs(residual.mean()) <= relative / 100 * other.abs().mean()


def pair_folder(folder: Path, count: int = 8, *, side: int = 64, seed: int = 0, scores: bool = False) -> Path:
    """`count` pairs of smooth random images as PNG files, and pairs.csv, perhaps with scores; returns the table."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["prompt,chosen,rejected" + (",score_chosen,score_rejected" if scores else "")]
    for row in range(count):
        for view in ("chosen", "rejected"):
            coarse = torch.rand(1, 3, 4, 4, generator=generator(seed, view, row))
            pixels = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bilinear")[0]
            image = Image.fromarray((pixels * 255).to(torch.uint8).permute(1, 2, 0).numpy())
            image.save(folder / f"{row}_{view}.png")
        cells = [f"a {('red', 'green', 'blue')[row % 3]} circle {row // 3}", f"{row}_chosen.png", f"{row}_rejected.png"]
        lines.append(",".join([*cells, *([f"{0.3 + row / 100}", "0.25"] if scores else [])]))
    table = folder / "pairs.csv"
    table.write_text("\n".join(lines) + "\n")
    return table


def write_config(path: Path, *, model: Path, pairs: Path, run_dir: Path, extra: str = "") -> Path:
    """A DPO config of the tiny model: three steps of four pairs."""
    path.write_text(
        f"run_dir: {run_dir}\n"
        f"backbone: {{name: sd15, pretrained: {model}}}\n"
        "lora: {rank: 2, alpha: 4}\n"
        f"data: {{name: pairs, path: {pairs}}}\n"
        "noiser: {name: forward}\n"
        "objective: {name: dpo, beta: 100}\n"
        "optim: {lr: 1e-3}\n"
        "train: {steps: 3, effective_batch: 4, micro_batch: 2}\n"
        "checkpoint: {every_steps: 2}\n" + extra
    )
    return path


def saved_lora(run_dir: Path) -> dict[str, Tensor]:
    return load_file(run_dir / "lora" / "pytorch_lora_weights.safetensors")
