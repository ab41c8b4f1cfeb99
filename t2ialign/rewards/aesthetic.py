"""LAION's aesthetic predictor v2: a small network on CLIP ViT-L/14's image embedding; the prompt plays no part."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor, nn
from torch.nn import functional as F

from t2ialign.errors import InputError
from t2ialign.rewards.clip_family import CLIP_L, TransformersCLIP, check_clip
from t2ialign.rewards.needs import NeedsWeights
from t2ialign.rewards.weights import check_weights, fetch, read_weights

HEAD_URL = (
    "https://raw.githubusercontent.com/christophschuhmann/improved-aesthetic-predictor/"
    "6934dd81792f086e613a121dbce43082cb8be85e/sac+logos+ava1-l14-linearMSE.pth"
)
HEAD_SHA256 = "21dd590f3ccdc646f0d53120778b296013b096a035a2718c9cb0d511bff0f1e0"


def score_layers(width: int) -> nn.Sequential:
    """[N, D] -> [N, 1]; linear layers alone, as they were published here and in ImageReward."""
    # dropout holds no weights but shifts the numbers by which the published files name their layers
    return nn.Sequential(
        nn.Linear(width, 1024),
        nn.Dropout(0.2),
        nn.Linear(1024, 128),
        nn.Dropout(0.2),
        nn.Linear(128, 64),
        nn.Dropout(0.1),
        nn.Linear(64, 16),
        nn.Linear(16, 1),
    )


class AestheticHead(nn.Module):
    """Unit-length image embedding [N, D] -> score [N]."""

    def __init__(self, width: int = 768):
        super().__init__()
        self.layers = score_layers(width)

    def forward(self, embedding: Tensor) -> Tensor:
        return self.layers(F.normalize(embedding.float(), dim=-1)).squeeze(-1)


class Aesthetic(NeedsWeights):
    """How much people would like the picture, about 1 to 10; 4.5 to 7 is usual.

    Args:
        pretrained: folder or hub id of CLIP ViT-L/14.
        weights: the head's file, .safetensors or .pth; default: fetched.
        sha256: checksum of a .pth file other than the published one.
        device: where it runs; default: the first GPU if there is one.
    """

    def __init__(
        self,
        pretrained: str = CLIP_L,
        weights: str | None = None,
        sha256: str = HEAD_SHA256,
        device: str | None = None,
    ):
        tensors = read_weights(_head_file(weights), sha256)
        self.clip = TransformersCLIP(pretrained, device=device)
        width = self.clip.model.config.projection_dim
        head = AestheticHead(width)
        shapes = {name: tuple(tensor.shape) for name, tensor in head.state_dict().items()}
        if {name: tuple(tensor.shape) for name, tensor in tensors.items()} != shapes:
            raise InputError(f"{weights}: not the weights of an aesthetic head on embeddings of width {width}")
        head.load_state_dict(tensors)
        self.head = head.eval().requires_grad_(False).to(self.clip.device)

    @classmethod
    def check(cls, options: Mapping[str, Any]) -> None:
        check_weights(_head_file(options["weights"]), options["sha256"])
        check_clip(options["pretrained"])

    @torch.no_grad()
    def __call__(self, images: list[Image], prompts: list[str]) -> list[float]:
        return self.head(self.clip.embed_images(images)).tolist()


def _head_file(weights: str | None) -> Path:
    """The head's file, a few megabytes, fetched where none is named."""
    return Path(weights) if weights else fetch(HEAD_URL, HEAD_SHA256)
