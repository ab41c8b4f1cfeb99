"""ImageReward v1.0 (Xu et al. 2023, arXiv:2304.05977): BLIP reads image and prompt together, linear layers score them.

BLIP is that of transformers. The published file names its layers otherwise; `published_names` says how.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor, nn
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize, ToTensor

from t2ialign.errors import EnvironmentProblem, InputError
from t2ialign.rewards.aesthetic import score_layers
from t2ialign.rewards.clip_family import check_one_of, default_device, from_hub
from t2ialign.rewards.needs import NeedsWeights
from t2ialign.rewards.weights import check_weights, read_weights

BERT = "google-bert/bert-base-uncased"
TOKENIZER_FILES = ("tokenizer.json", "vocab.txt")
"""One of these holds a tokenizer's vocabulary."""
MAX_TOKENS = 35
"""Length of the prompt, [CLS] and [SEP] among it."""
MEAN, STD = 0.16717362830052426, 1.0333394966054072
"""Of the last layer's output, by which the published scorer standardises it."""
VISION: dict[str, Any] = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 224,
    "layer_norm_eps": 1e-6,
}
"""BLIP's ViT-L/16; keys of BlipVisionConfig."""
TEXT: dict[str, Any] = {"encoder_hidden_size": 1024, "num_attention_heads": 12}
"""BERT-base with cross-attention; keys of BlipTextConfig, the others at its defaults."""
PUBLISHED = (
    ("vision.embeddings.class_embedding", "blip.visual_encoder.cls_token"),
    ("vision.embeddings.position_embedding", "blip.visual_encoder.pos_embed"),
    ("vision.embeddings.patch_embedding.", "blip.visual_encoder.patch_embed.proj."),
    ("vision.encoder.layers.", "blip.visual_encoder.blocks."),
    ("vision.post_layernorm.", "blip.visual_encoder.norm."),
    ("text.", "blip.text_encoder."),
    ("head.", "mlp.layers."),
    (".self_attn.qkv.", ".attn.qkv."),
    (".self_attn.projection.", ".attn.proj."),
    (".layer_norm1.", ".norm1."),
    (".layer_norm2.", ".norm2."),
)
"""Parts of a name in `BlipScorer`, and in the published file."""
NOT_USED = (
    "blip.text_encoder.embeddings.position_ids",
    "blip.text_proj.",
    "blip.vision_proj.",
)
"""What the file may also hold and no score depends on: 0, 1, 2, ... and the projections of BLIP's contrastive loss."""


def published_names(names: Iterable[str]) -> dict[str, str]:
    """Names in a `BlipScorer` -> those in the published file."""
    return {name: _published_name(name) for name in names}


def _published_name(name: str) -> str:
    for own, published in PUBLISHED:
        if name.startswith(own) or own.startswith("."):
            name = name.replace(own, published, 1)
    return name


class BlipScorer(nn.Module):
    """Image and prompt -> score, standardised.

    Args:
        vision: keys of BlipVisionConfig.
        text: keys of BlipTextConfig.
    """

    def __init__(self, vision: Mapping[str, Any], text: Mapping[str, Any]):
        from transformers import BlipTextConfig, BlipTextModel, BlipVisionConfig, BlipVisionModel

        super().__init__()
        self.vision = BlipVisionModel(BlipVisionConfig(**vision))
        self.text = BlipTextModel(BlipTextConfig(**text), add_pooling_layer=False)
        self.head = score_layers(self.text.config.hidden_size)

    def forward(self, pixels: Tensor, tokens: Tensor, attention_mask: Tensor) -> Tensor:
        """[N, 3, H, W], [N, L], [N, L] -> [N]"""
        patches = self.vision(pixel_values=pixels).last_hidden_state
        seen = torch.ones(patches.shape[:2], dtype=torch.long, device=patches.device)
        read = self.text(
            tokens, attention_mask=attention_mask, encoder_hidden_states=patches, encoder_attention_mask=seen
        ).last_hidden_state
        return (self.head(read[:, 0]).squeeze(-1) - MEAN) / STD


def load_published(scorer: BlipScorer, tensors: Mapping[str, Tensor], file: str) -> None:
    """Gives a scorer the tensors of a published file, under their names there.

    Raises:
        InputError: one is missing, has another shape, or is not known.
    """
    own = scorer.state_dict()
    names = {published: name for name, published in published_names(own).items()}
    given = {name: tensor for name, tensor in tensors.items() if not name.startswith(NOT_USED)}
    _refuse(file, "lacks", names.keys() - given.keys())
    _refuse(file, "also holds", given.keys() - names.keys())
    _refuse(file, "has in another shape", {name for name in names if given[name].shape != own[names[name]].shape})
    scorer.load_state_dict({names[name]: tensor for name, tensor in given.items()})


def _refuse(file: str, problem: str, names: Collection[str]) -> None:
    if names:
        shown = ", ".join(sorted(names)[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        raise InputError(f"{file}: not the weights of ImageReward v1.0: {problem} {shown}")


class ImageReward(NeedsWeights):
    """How well an image follows its prompt and how much people would like it, standardised; -2.3 to 2 is usual.

    Runs without gradients, in float32, in evaluation mode. The published file is a pickle: it is opened with tensors
    only, and only if its checksum is the one given.

    Args:
        weights: ImageReward.pt from the hub's THUDM/ImageReward, or its tensors as .safetensors.
        sha256: checksum of the .pt file as the hub shows it; not needed for .safetensors.
        tokenizer: folder or hub id of BERT's tokenizer.
        device: where it runs; default: the first GPU if there is one.
    """

    def __init__(self, weights: str = "", sha256: str | None = None, tokenizer: str = BERT, device: str | None = None):
        from transformers import BertTokenizer

        tensors = read_weights(_named(weights), sha256)
        self.tokenizer: Any = from_hub(BertTokenizer.from_pretrained, tokenizer, option="tokenizer")
        scorer = BlipScorer(VISION, TEXT)
        load_published(scorer, tensors, weights)
        self.device = torch.device(device) if device else default_device()
        self.scorer = scorer.eval().requires_grad_(False).to(self.device)
        self.preprocess: Any = _preprocess(VISION["image_size"])

    @classmethod
    def check(cls, options: Mapping[str, Any]) -> None:
        check_weights(_named(options["weights"]), options["sha256"])
        check_one_of(options["tokenizer"], TOKENIZER_FILES, option="tokenizer")

    @torch.no_grad()
    def __call__(self, images: list[Image], prompts: list[str]) -> list[float]:
        pixels = torch.stack([self.preprocess(image) for image in images]).to(self.device)
        tokens = self.tokenizer(
            prompts, padding="max_length", truncation=True, max_length=MAX_TOKENS, return_tensors="pt"
        ).to(self.device)
        return self.scorer(pixels, tokens["input_ids"], tokens["attention_mask"]).tolist()


def _preprocess(side: int) -> Compose:
    """The shorter side to `side` px, the middle square, BLIP's mean and standard deviation."""
    return Compose(
        [
            Resize(side, interpolation=InterpolationMode.BICUBIC),
            CenterCrop(side),
            ToTensor(),
            Normalize((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
        ]
    )


def _named(weights: str) -> Path:
    """
    Raises:
        EnvironmentProblem: no weights are named.
    """
    if not weights:
        raise EnvironmentProblem(
            "reward 'image_reward' needs its weights: fetch ImageReward.pt from the hub's THUDM/ImageReward and pass "
            "weights=PATH and sha256=the checksum shown there"
        )
    return Path(weights)
