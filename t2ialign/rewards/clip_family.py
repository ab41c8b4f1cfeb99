"""Rewards that compare an image with its prompt in CLIP's embedding space: CLIPScore, PickScore, HPS v2.1.

All run without gradients, in float32, in evaluation mode; prompts are cut at the text encoder's length.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import huggingface_hub
import torch
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from PIL.Image import Image
from torch import Tensor
from torch.nn import functional as F

from t2ialign.errors import EnvironmentProblem, InputError
from t2ialign.rewards.needs import NeedsWeights
from t2ialign.rewards.weights import check_weights, read_weights

CLIP_L = "openai/clip-vit-large-patch14"
CLIP_H = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
PICKSCORE = "yuvalkirstain/PickScore_v1"
MODEL_FILES = ("model.safetensors", "model.safetensors.index.json")
"""One of these holds a CLIP's weights, or says which files do."""
PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
"""One of these describes its image processor."""


def default_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def from_hub(load: Callable[..., Any], pretrained: str, option: str = "pretrained", **options: Any) -> Any:
    """`load(pretrained)` of a folder or hub id, which a reward takes as `option`.

    Raises:
        InputError: it looks like a path, and nothing is there.
        EnvironmentProblem: the weights are not on this machine and cannot be fetched.
    """
    _check_name(pretrained)
    try:
        return load(pretrained, **options)
    except OSError as error:
        raise _not_fetched(pretrained, error, option) from error


def check_clip(pretrained: str, processor: str | None = None) -> None:
    """Checks that a CLIP and its processor are in their folders, in the hub's cache, or on the hub; loads nothing.

    Raises:
        InputError, EnvironmentProblem: as `from_hub`.
    """
    check_one_of(pretrained, MODEL_FILES)
    check_one_of(processor or pretrained, PROCESSOR_FILES, "processor" if processor else "pretrained")


def check_one_of(pretrained: str, files: Sequence[str], option: str = "pretrained") -> None:
    """Checks that one of the files is in a folder, in the hub's cache, or on the hub; loads nothing.

    Args:
        pretrained: folder or hub id, which a reward takes as `option`.
        files: their names.

    Raises:
        InputError, EnvironmentProblem: as `from_hub`.
    """
    _check_name(pretrained)
    folder = Path(pretrained)
    if folder.is_dir():
        if not any((folder / name).is_file() for name in files):
            raise InputError(
                f"{pretrained}: holds no {' or '.join(files)}; give {option}= a folder as transformers saves it"
            )
        return
    if any(isinstance(huggingface_hub.try_to_load_from_cache(pretrained, name), str) for name in files):
        return
    try:
        found = any(huggingface_hub.file_exists(pretrained, name) for name in files)
    except Exception as error:  # the network's errors have no common base
        raise _not_fetched(pretrained, error, option) from error
    if not found:
        raise _not_fetched(pretrained, f"the hub has no such model with a {' or '.join(files)}", option)


def _check_name(pretrained: str) -> None:
    """
    Raises:
        InputError: no folder is there, and no hub id looks so.
    """
    if Path(pretrained).is_dir():
        return
    try:
        validate_repo_id(pretrained)
    except HFValidationError:
        raise InputError(f"{pretrained}: no such folder of reward weights") from None


def _not_fetched(pretrained: str, reason: object, option: str) -> EnvironmentProblem:
    words = str(reason).strip() or type(reason).__name__
    return EnvironmentProblem(
        f"reward weights '{pretrained}' are not on this machine and could not be fetched ({words.splitlines()[0]}); "
        f"connect once, or name a local copy: {option}=FOLDER"
    )


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
        processor: folder or hub id of tokenizer and image processor; default: the model's own.
        device: where it runs; default: the first GPU if there is one.
    """

    def __init__(self, pretrained: str, processor: str | None = None, device: str | None = None):
        from transformers import CLIPModel, CLIPProcessor

        self.device = torch.device(device) if device else default_device()
        model = from_hub(CLIPModel.from_pretrained, pretrained, use_safetensors=True, dtype=torch.float32)
        self.model = model.eval().requires_grad_(False).to(self.device)
        self.processor = from_hub(
            CLIPProcessor.from_pretrained, processor or pretrained, option="processor" if processor else "pretrained"
        )
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


class ClipScore(NeedsWeights):
    """Cosine of image and prompt, in [-1, 1]; .20 to .35 is usual for ViT-L/14 (Hessel et al. 2021, without its 2.5).

    Args:
        pretrained: folder or hub id of any CLIP in transformers' format.
        processor: folder or hub id of its processor, if elsewhere.
        device: where it runs; default: the first GPU if there is one.
    """

    def __init__(self, pretrained: str = CLIP_L, processor: str | None = None, device: str | None = None):
        self.clip = TransformersCLIP(pretrained, processor, device)

    @classmethod
    def check(cls, options: Mapping[str, Any]) -> None:
        check_clip(options["pretrained"], options["processor"])

    def __call__(self, images: list[Image], prompts: list[str]) -> list[float]:
        return self.clip.cosine(images, prompts).tolist()


class PickScore(NeedsWeights):
    """exp(logit_scale) * cosine of a CLIP-H tuned on Pick-a-Pic (Kirstain et al. 2023); 19 to 24 is usual.

    Args:
        pretrained: folder or hub id of the tuned model.
        processor: folder or hub id of tokenizer and image processor.
        device: where it runs; default: the first GPU if there is one.
    """

    def __init__(self, pretrained: str = PICKSCORE, processor: str = CLIP_H, device: str | None = None):
        self.clip = TransformersCLIP(pretrained, processor, device)

    @classmethod
    def check(cls, options: Mapping[str, Any]) -> None:
        check_clip(options["pretrained"], options["processor"])

    def __call__(self, images: list[Image], prompts: list[str]) -> list[float]:
        return (self.clip.logit_scale * self.clip.cosine(images, prompts)).tolist()


class HPSv2(NeedsWeights):
    """Cosine of open_clip's ViT-H-14 with the weights of HPS v2.1 (Wu et al. 2023); .20 to .37 is usual.

    The published file is a pickle: it is opened with tensors only, and only if its checksum is the one given.

    Args:
        weights: HPS_v2.1_compressed.pt from the hub's xswu/HPSv2, or its tensors as .safetensors.
        sha256: checksum of the .pt file as the hub shows it; not needed for .safetensors.
        architecture: open_clip's name of the model.
        device: where it runs; default: the first GPU if there is one.
    """

    def __init__(
        self, weights: str = "", sha256: str | None = None, architecture: str = "ViT-H-14", device: str | None = None
    ):
        open_clip = _open_clip(weights)
        tensors = read_weights(Path(weights), sha256)
        self.device = torch.device(device) if device else default_device()
        # the published scorer fits the longer side and pads with black, unlike CLIP's crop
        model, _, self.preprocess = open_clip.create_model_and_transforms(architecture, image_resize_mode="longest")
        model.load_state_dict(tensors)
        self.model: Any = model.eval().requires_grad_(False).to(self.device)
        self.tokenize = open_clip.get_tokenizer(architecture)

    @classmethod
    def check(cls, options: Mapping[str, Any]) -> None:
        _open_clip(options["weights"])
        check_weights(Path(options["weights"]), options["sha256"])

    @torch.no_grad()
    def __call__(self, images: list[Image], prompts: list[str]) -> list[float]:
        pixels = torch.stack([self.preprocess(image) for image in images])  # type: ignore[operator, arg-type]
        image_features = self.model.encode_image(pixels.to(self.device))
        text_features = self.model.encode_text(self.tokenize(prompts).to(self.device))
        return cosine(image_features, text_features).tolist()


def _open_clip(weights: str) -> Any:
    """The package open_clip, for weights that are named.

    Raises:
        EnvironmentProblem: they are not, or it is not installed.
    """
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
    return open_clip
