"""Data sets of a user's own, small and on disk, and a backbone that costs nothing."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from t2ialign.types import Conditioning, Posterior


def write_image(path: Path, seed: int = 0, size: tuple[int, int] = (20, 16)) -> Path:
    """A random RGB image of (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(values).save(path)
    return path


def write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


class PlainBackbone:
    """Encoders without weights: latents are averaged pixels, an embedding spells its prompt."""

    name = "plain"
    latent_channels = 3
    vae_factor = 8
    resolution = 16
    fingerprint = "plain-1"

    def __init__(self) -> None:
        self.images_encoded = 0
        self.prompts_encoded = 0

    def encode_images(self, pixels: Tensor) -> Posterior:
        self.images_encoded += len(pixels)
        mean = torch.nn.functional.avg_pool2d(pixels, self.vae_factor)
        return Posterior(mean, mean.abs() / 10 + 0.01)

    def encode_prompts(self, prompts: list[str]) -> Conditioning:
        self.prompts_encoded += len(prompts)
        letters = [[ord(letter) for letter in prompt[:12].ljust(12)] for prompt in prompts]
        tokens = torch.tensor(letters, dtype=torch.float32).view(-1, 4, 3)
        return Conditioning(tokens, tokens.mean(1))

    def null(self) -> Conditioning:
        return Conditioning(torch.zeros(1, 4, 3), torch.zeros(1, 3))

    def geometry(self, original: tuple[int, int], crop: tuple[int, int], target: tuple[int, int]) -> Tensor:
        return torch.tensor([*original, *crop, *target], dtype=torch.float32)
