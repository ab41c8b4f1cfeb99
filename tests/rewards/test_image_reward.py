"""ImageReward on random weights: the published names, the formula, and what is told of other weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import BertTokenizer, BlipTextConfig, BlipTextModel, BlipVisionConfig, BlipVisionModel

from t2ialign.errors import EnvironmentProblem, InputError
from t2ialign.rewards import image_reward
from t2ialign.rewards.image_reward import TEXT, VISION, BlipScorer, load_published, published_names
from t2ialign.rewards.registry import load_reward, parse_reward
from t2ialign.storage.digest import file_digest

WORDS = ["a", "red", "blue", "circle", "square", "above"]
PROMPTS = ["a red circle", "a blue square above a red circle"]
SMALL_VISION = VISION | {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
SMALL_VISION |= {"image_size": 32}
SMALL_TEXT = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
SMALL_TEXT |= {"encoder_hidden_size": 48, "vocab_size": 5 + len(WORDS), "max_position_embeddings": 64}


def random_scorer(vision: dict, text: dict) -> BlipScorer:
    """Weights that keep activations near 1, so that images and prompts tell in the score at any depth."""
    scorer = BlipScorer(vision, text)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in scorer.named_parameters():
        is_map = parameter.dim() > 1 and not name.endswith(("class_embedding", "position_embedding"))
        scale = parameter[0].numel() ** -0.5 if is_map else 0.3
        mean = 1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0
        with torch.no_grad():
            parameter.normal_(mean, scale, generator=generator)
    return scorer.eval()


def published(scorer: BlipScorer) -> dict[str, Tensor]:
    """The scorer's weights as the published file holds them, with what else is in that file."""
    names = published_names(scorer.state_dict())
    tensors = {names[name]: tensor for name, tensor in scorer.state_dict().items()}
    tensors["blip.text_encoder.embeddings.position_ids"] = torch.arange(64)[None]
    for part in ("text", "vision"):
        tensors |= {f"blip.{part}_proj.weight": torch.ones(2, 2), f"blip.{part}_proj.bias": torch.ones(2)}
    return tensors


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bert")
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def scorer() -> BlipScorer:
    return random_scorer(SMALL_VISION, SMALL_TEXT)


@pytest.fixture
def options(tmp_path, scorer, tokenizer, monkeypatch) -> dict[str, str]:
    """Of a reward of the small architecture."""
    monkeypatch.setattr(image_reward, "VISION", SMALL_VISION)
    monkeypatch.setattr(image_reward, "TEXT", SMALL_TEXT)
    path = tmp_path / "ImageReward.pt"
    torch.save(published(scorer), path)
    return {"weights": str(path), "sha256": file_digest(path), "tokenizer": str(tokenizer), "device": "cpu"}


def by_hand(vision: BlipVisionModel, text: BlipTextModel, head: list[Tensor], image: Image.Image, ids: list[int]):
    """One score: BLIP's own modules, and (x W^T + b) five times; `head` holds W, b, W, b, ..."""
    side = vision.config.image_size
    width, height = (edge * side // min(image.size) for edge in image.size)
    left, top = (width - side) // 2, (height - side) // 2
    square = image.resize((width, height), Image.Resampling.BICUBIC).crop((left, top, left + side, top + side))
    pixels = torch.frombuffer(bytearray(square.tobytes()), dtype=torch.uint8).view(side, side, 3).permute(2, 0, 1) / 255
    mean, std = torch.tensor([0.48145466, 0.4578275, 0.40821073]), torch.tensor([0.26862954, 0.26130258, 0.27577711])
    with torch.no_grad():
        patches = vision(((pixels - mean[:, None, None]) / std[:, None, None])[None]).last_hidden_state
        row = text(torch.tensor([ids]), encoder_hidden_states=patches).last_hidden_state[0, 0]
        for weight, bias in zip(head[::2], head[1::2], strict=True):
            row = weight @ row + bias
    return (row.item() - 0.16717362830052426) / 1.0333394966054072


def modules(vision: dict, text: dict, scorer: BlipScorer) -> tuple[BlipVisionModel, BlipTextModel, list[Tensor]]:
    image_encoder = BlipVisionModel(BlipVisionConfig(**vision)).eval()
    image_encoder.load_state_dict(scorer.vision.state_dict())
    text_encoder = BlipTextModel(BlipTextConfig(**text), add_pooling_layer=False).eval()
    text_encoder.load_state_dict(scorer.text.state_dict())
    state = scorer.head.state_dict()
    return image_encoder, text_encoder, [state[f"{n}.{part}"] for n in (0, 2, 4, 6, 7) for part in ("weight", "bias")]


def ids(prompt: str) -> list[int]:
    return [2, *(5 + WORDS.index(word) for word in prompt.split()), 3]


def test_scores_are_those_of_blip_and_five_linear_maps(options, scorer, images):
    scores = load_reward("image_reward", **options)(images, PROMPTS)
    parts = modules(SMALL_VISION, SMALL_TEXT, scorer)
    # without padding: the attention mask hides it
    expected = [by_hand(*parts, image, ids(prompt)) for image, prompt in zip(images, PROMPTS, strict=True)]
    assert scores == pytest.approx(expected, rel=1e-4, abs=1e-4)
    assert abs(expected[0] - expected[1]) > 0.01


def test_image_and_prompt_both_count_and_two_calls_agree(options, images):
    reward = load_reward("image_reward", **options)
    scores = [reward([image], [prompt])[0] for image in images for prompt in PROMPTS]
    assert len({round(score, 3) for score in scores}) == 4
    assert scores == [reward([image], [prompt])[0] for image in images for prompt in PROMPTS]


def test_the_prompt_is_cut_at_35_tokens(options, images):
    reward = load_reward("image_reward", **options)
    words = ["a"] * 33  # with [CLS] and [SEP] 35
    same, longer = reward(images[:1] * 2, [" ".join(words), " ".join([*words, "circle"])])
    other = reward(images[:1], [" ".join([*words[:-1], "circle"])])[0]
    assert same == longer
    assert abs(other - same) > 1e-3


def test_the_image_encoder_is_timms_under_the_published_names(scorer):
    """BLIP's published ViT was made from timm's, and its names are timm's."""
    timm = pytest.importorskip("timm.models.vision_transformer")
    sizes = {"img_size": 32, "patch_size": 16, "embed_dim": 48, "depth": 2, "num_heads": 4, "mlp_ratio": 2}
    model = timm.VisionTransformer(**sizes, num_classes=0, global_pool="")
    prefix = "blip.visual_encoder."
    tensors = published(scorer).items()
    model.load_state_dict({name.removeprefix(prefix): tensor for name, tensor in tensors if name.startswith(prefix)})
    epsilons = [{part.eps for part in m.modules() if isinstance(part, nn.LayerNorm)} for m in (model, scorer.vision)]
    assert epsilons == [{1e-6}, {1e-6}]
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        torch.testing.assert_close(scorer.vision(pixels).last_hidden_state, model.eval()(pixels), atol=1e-4, rtol=1e-4)


def published_parameters() -> Iterator[str]:
    """The published architecture, written out: ViT-L/16 with 24 blocks, BERT with 12 layers, five linear maps."""

    def both(*names: str) -> list[str]:
        return [f"{name}.{part}" for name in names for part in ("weight", "bias")]

    yield from ("blip.visual_encoder.cls_token", "blip.visual_encoder.pos_embed")
    yield from both("blip.visual_encoder.patch_embed.proj", "blip.visual_encoder.norm")
    for block in range(24):
        parts = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
        yield from both(*(f"blip.visual_encoder.blocks.{block}.{part}" for part in parts))
    yield from (f"blip.text_encoder.embeddings.{kind}_embeddings.weight" for kind in ("word", "position"))
    yield from both("blip.text_encoder.embeddings.LayerNorm")
    for layer in range(12):
        parts = ("self.query", "self.key", "self.value", "output.dense", "output.LayerNorm")
        names = [f"{kind}.{part}" for kind in ("attention", "crossattention") for part in parts]
        names += ["intermediate.dense", "output.dense", "output.LayerNorm"]
        yield from both(*(f"blip.text_encoder.encoder.layer.{layer}.{name}" for name in names))
    yield from both(*(f"mlp.layers.{number}" for number in (0, 2, 4, 6, 7)))


def test_names_are_renamed_one_to_one():
    with torch.device("meta"):
        state = BlipScorer(VISION, TEXT).state_dict()
    names = published_names(state)
    assert sorted(names.values()) == sorted(published_parameters())
    shapes = {names[name]: tuple(tensor.shape) for name, tensor in state.items()}
    assert shapes["blip.visual_encoder.pos_embed"] == (1, 197, 1024)
    assert shapes["blip.visual_encoder.patch_embed.proj.weight"] == (1024, 3, 16, 16)
    assert shapes["blip.text_encoder.embeddings.word_embeddings.weight"] == (30524, 768)
    assert shapes["blip.text_encoder.encoder.layer.0.crossattention.self.key.weight"] == (768, 1024)
    assert shapes["mlp.layers.0.weight"] == (1024, 768)


def test_other_weights_are_refused_by_name(scorer):
    name = "blip.visual_encoder.blocks.1.attn.proj.weight"
    tensors = published(scorer)
    with pytest.raises(InputError, match=rf"x\.pt: not the weights of ImageReward v1\.0: lacks {name}$"):
        load_published(scorer, {key: value for key, value in tensors.items() if key != name}, "x.pt")
    with pytest.raises(InputError, match=r"also holds a, b, c and 1 more$"):
        load_published(scorer, tensors | dict.fromkeys("abcd", torch.ones(1)), "x.pt")
    with pytest.raises(InputError, match=rf"has in another shape {name}$"):
        load_published(scorer, tensors | {name: torch.ones(2)}, "x.pt")


def test_what_is_missing_is_told_with_its_option(options, scorer, tmp_path):
    with pytest.raises(EnvironmentProblem, match=r"ImageReward\.pt .* weights=PATH and sha256="):
        load_reward("image_reward")
    with pytest.raises(InputError, match="a pickle is only opened when its checksum is known"):
        parse_reward(f"image_reward,weights={options['weights']}").check()
    (tmp_path / "empty").mkdir()
    save_file(published(scorer), tmp_path / "w.safetensors")
    text = f"image_reward,weights={tmp_path}/w.safetensors,tokenizer="
    with pytest.raises(InputError, match=r"holds no tokenizer\.json or vocab\.txt; give tokenizer="):
        parse_reward(f"{text}{tmp_path}/empty").check()
    parse_reward(text + options["tokenizer"]).check()


@pytest.mark.slow
def test_scores_of_the_true_architecture(tokenizer, images, monkeypatch):
    scorer = random_scorer(VISION, TEXT)
    monkeypatch.setattr(image_reward, "read_weights", lambda *_: published(scorer))
    reward = load_reward("image_reward", weights="ImageReward.pt", tokenizer=str(tokenizer), device="cpu")
    parts = modules(VISION, TEXT, scorer)
    expected = [by_hand(*parts, image, ids(prompt)) for image, prompt in zip(images, PROMPTS, strict=True)]
    assert reward(images, PROMPTS) == pytest.approx(expected, rel=1e-3)
