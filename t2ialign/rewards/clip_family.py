"""Rewards that compare an image with its prompt in CLIP's embedding space: CLIPScore, PickScore, HPS v2.1.

All run without gradients, in float32, in evaluation mode; prompts are cut at the text encoder's length.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor
from torch.nn import functional as F

from t2ialign.errors import EnvironmentProblem, InputError
from t2ialign.rewards.weights import read_weights

CLIP_L = "openai/clip-vit-large-patch14"
CLIP_H = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
PICKSCORE = "yuvalkirstain/PickScore_v1"


def default_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def from_hub(load: Callable[..., Any], pretrained: str, **options: Any) -> Any:
    """`load(pretrained)` of a folder or hub id.

    Raises:
        InputError: it looks like a path, and nothing is there.
        EnvironmentProblem: the weights are not on this machine and cannot be fetched.
    """
    folder = Path(pretrained)
    if not folder.is_dir() and (folder.is_absolute() or pretrained.startswith((".", "~")) or pretrained.count("/") > 1):
        raise InputError(f"{pretrained}: no such folder of reward weights")
    try:
        return load(pretrained, **options)
    except OSError as error:
        raise EnvironmentProblem(
            f"reward weights '{pretrained}' are not on this machine and could not be fetched "
            f"({str(error).strip().splitlines()[0]}); connect once, or name a local copy: pretrained=FOLDER"
        ) from error


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of each pair of rows, in [-1, 1]. [N, D], [N, D] -> [N]"""
    return (F.normalize(a.float(), dim=-1) * F.normalize(b.float(), dim=-1)).sum(-1)


def _features(output: Any) -> Tensor:
    """The projected embedding: transformers 5 wraps it in an output object, 4 returns the tensor."""
    return output if isinstance(output, Tensor) else output.pooler_output


class TransformersCLIP:
    """A CLIP of transformers with its processor, frozen.

    Args:
        pretrained: folder or hub id of the model.
        processor: folder or hub id of tokenizer and image processor; the model's own if not said.
        device: where it runs; the first GPU if there is one.
    """

    def __init__(self, pretrained: str, processor: str | None = None, device: str | None = None):
        from transformers import CLIPModel, CLIPProcessor

        self.device = torch.device(device) if device else default_device()
        model = from_hub(CLIPModel.from_pretrained, pretrained, use_safetensors=True, dtype=torch.float32)
        self.model = model.eval().requires_grad_(False).to(self.device)
        self.processor = from_hub(CLIPProcessor.from_pretrained, processor or pretrained)
        self.max_tokens: int = self.model.config.text_config.max_position_embeddings

    @property
    def logit_scale(self) -> float:
        return self.model.logit_scale.exp().item()

    @torch.no_grad()
    def embed_images(self, images: list[Image]) -> Tensor:
        """[N, D]"""
        pixels = self.processor.image_processor(images, return_tensors="pt").to(self.device)
        return _features(self.model.get_image_features(**pixels))

    @torch.no_grad()
    def embed_prompts(self, prompts: list[str]) -> Tensor:
        """[N, D]"""
        tokens = self.processor.tokenizer(
            prompts, padding=True, truncation=True, max_length=self.max_tokens, return_tensors="pt"
        ).to(self.device)
        return _features(self.model.get_text_features(tokens["input_ids"], attention_mask=tokens["attention_mask"]))

    def cosine(self, images: list[Image], prompts: list[str]) -> Tensor:
        """[N] in [-1, 1]"""
        return cosine(self.embed_images(images), self.embed_prompts(prompts))


class ClipScore:
    """Cosine of image and prompt, in [-1, 1]; .20 to .35 is usual for ViT-L/14 (Hessel et al. 2021, without its 2.5).

    Args:
        pretrained: folder or hub id of any CLIP in transformers' format.
        processor: folder or hub id of its processor, if elsewhere.
        device: where it runs; the first GPU if there is one.
    """

    def __init__(self, pretrained: str = CLIP_L, processor: str | None = None, device: str | None = None):
        self.clip = TransformersCLIP(pretrained, processor, device)

    def __call__(self, images: list[Image], prompts: list[str]) -> list[float]:
        return self.clip.cosine(images, prompts).tolist()


class PickScore:
    """exp(logit_scale) * cosine of a CLIP-H tuned on Pick-a-Pic (Kirstain et al. 2023); 19 to 24 is usual.

    Args:
        pretrained: folder or hub id of the tuned model.
        processor: folder or hub id of tokenizer and image processor.
        device: where it runs; the first GPU if there is one.
    """

    def __init__(self, pretrained: str = PICKSCORE, processor: str = CLIP_H, device: str | None = None):
        self.clip = TransformersCLIP(pretrained, processor, device)

    def __call__(self, images: list[Image], prompts: list[str]) -> list[float]:
        return (self.clip.logit_scale * self.clip.cosine(images, prompts)).tolist()


class HPSv2:
    """Cosine of open_clip's ViT-H-14 with the weights of HPS v2.1 (Wu et al. 2023); .20 to .37 is usual.

    The published file is a pickle: it is opened with tensors only, and only if its checksum is the one given.

    Args:
        weights: HPS_v2.1_compressed.pt from the hub's xswu/HPSv2, or its tensors as .safetensors.
        sha256: checksum of the .pt file as the hub shows it; not needed for .safetensors.
        architecture: open_clip's name of the model.
        device: where it runs; the first GPU if there is one.
    """

    def __init__(
        self, weights: str = "", sha256: str | None = None, architecture: str = "ViT-H-14", device: str | None = None
    ):
        if not weights:
            raise EnvironmentProblem(
                "reward 'hpsv2' needs its weights: fetch HPS_v2.1_compressed.pt from the hub's xswu/HPSv2 and pass "
                "weights=PATH and sha256=the checksum shown there"
            )
        try:
            import open_clip
        except ImportError:
            raise EnvironmentProblem(
                "reward 'hpsv2' needs open_clip, not installed: pip install \"t2ialign[rewards]\""
            ) from None
        tensors = read_weights(Path(weights), sha256)
        self.device = torch.device(device) if device else default_device()
        # the published scorer fits the longer side and pads with black, unlike CLIP's crop
        model, _, self.preprocess = open_clip.create_model_and_transforms(architecture, image_resize_mode="longest")
        model.load_state_dict(tensors)
        self.model: Any = model.eval().requires_grad_(False).to(self.device)
        self.tokenize = open_clip.get_tokenizer(architecture)

    @torch.no_grad()
    def __call__(self, images: list[Image], prompts: list[str]) -> list[float]:
        pixels = torch.stack([self.preprocess(image) for image in images])  # type: ignore[operator, arg-type]
        image_features = self.model.encode_image(pixels.to(self.device))
        text_features = self.model.encode_text(self.tokenize(prompts).to(self.device))
        return cosine(image_features, text_features).tolist()
