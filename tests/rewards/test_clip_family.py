"""CLIP-family rewards on tiny random models: the published formula, and what is told when weights are missing."""

from __future__ import annotations

import builtins
import json
import math
import urllib.error
from pathlib import Path

import huggingface_hub
import pytest
import standins
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

from t2ialign.errors import EnvironmentProblem, InputError
from t2ialign.rewards import weights
from t2ialign.rewards.aesthetic import AestheticHead
from t2ialign.rewards.registry import load_reward, parse_reward
from t2ialign.rewards.weights import fetch, read_weights
from t2ialign.storage.digest import file_digest

PROMPTS = ["a red circle", "two blue squares above a cat, and then far more words than the text encoder can take in"]
TINY_OPEN_CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 16, "head_width": 8, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
}


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory) -> Path:
    """A tiny random CLIP with its processor, its logit scale set to 10."""
    folder = tmp_path_factory.mktemp("models") / "clip"
    words = standins.tokenizer(folder)
    text = {"vocab_size": len(words), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 2, "max_position_embeddings": standins.MAX_TOKENS}
    text |= {"bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id}
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision |= {"image_size": 32, "patch_size": 16}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=24, logit_scale_init_value=math.log(10))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        CLIPModel(config).save_pretrained(folder)
    side = {"height": 32, "width": 32}
    processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=side)
    CLIPProcessor(image_processor=processor, tokenizer=words).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def cosines(clip_folder, images) -> list[float]:
    """Of the two (image, prompt) pairs, from the model's own logits divided by its scale of 10."""
    processor, model = CLIPProcessor.from_pretrained(clip_folder), CLIPModel.from_pretrained(clip_folder)
    found = []
    for image, prompt in zip(images, PROMPTS, strict=True):
        inputs = processor(text=[prompt], images=[image], return_tensors="pt", truncation=True, max_length=16)
        with torch.no_grad():
            found.append(model(**inputs).logits_per_image.item() / 10)
    return found


def test_clip_score_is_the_cosine(clip_folder, images, cosines):
    scores = load_reward("clip_score", pretrained=str(clip_folder))(images, PROMPTS)
    assert scores == pytest.approx(cosines, abs=1e-6)
    assert abs(cosines[0] - cosines[1]) > 1e-3  # the two are told apart


def test_pickscore_is_the_cosine_times_the_logit_scale(clip_folder, images, cosines):
    reward = load_reward("pickscore", pretrained=str(clip_folder), processor=str(clip_folder))
    assert reward(images, PROMPTS) == pytest.approx([10 * cosine for cosine in cosines], abs=1e-5)


def test_scores_do_not_depend_on_the_batch(clip_folder, images):
    reward = load_reward("clip_score", pretrained=str(clip_folder))
    alone = [reward([image], [prompt])[0] for image, prompt in zip(images, PROMPTS, strict=True)]
    assert reward(images, PROMPTS) == pytest.approx(alone, abs=1e-6)


def test_hpsv2_is_the_cosine_of_the_given_weights(tmp_path, images, monkeypatch):
    open_clip = pytest.importorskip("open_clip")
    (tmp_path / "tiny-test.json").write_text(json.dumps(TINY_OPEN_CLIP))
    open_clip.add_model_config(tmp_path)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        model = open_clip.create_model("tiny-test").eval()
    save_file(model.state_dict(), tmp_path / "hps.safetensors")
    reward = load_reward("hpsv2", weights=str(tmp_path / "hps.safetensors"), architecture="tiny-test")

    _, _, preprocess = open_clip.create_model_and_transforms("tiny-test", image_resize_mode="longest")
    tokens = open_clip.get_tokenizer("tiny-test")(PROMPTS)
    with torch.no_grad():
        seen, _, scale = model(torch.stack([preprocess(image) for image in images]), tokens)
        read = model.encode_text(tokens, normalize=True)
    assert reward(images, PROMPTS) == pytest.approx((seen * read).sum(-1).tolist(), abs=1e-6)
    assert scale.item() != 1  # the cosine is not scaled


def test_hpsv2_shows_the_whole_image(images):
    """Fits the longer side and pads with black, where CLIP would crop."""
    transform = pytest.importorskip("open_clip.transform")
    fitted = transform.image_transform(32, is_train=False, resize_mode="longest", mean=(0, 0, 0), std=(1, 1, 1))
    pixels = fitted(Image.new("RGB", (40, 20), "white"))  # becomes 32 x 16, with 8 black rows above and below
    assert pixels[:, :8].max() == 0
    assert pixels[:, 8:24].min() == 1


def test_without_its_weights_hpsv2_says_where_they_are():
    with pytest.raises(EnvironmentProblem, match=r"HPS_v2\.1_compressed\.pt .* weights=PATH and sha256="):
        load_reward("hpsv2")


def test_without_open_clip_hpsv2_names_the_extra(monkeypatch, tmp_path):
    real = builtins.__import__

    def refuse(name, *rest, **more):
        if name == "open_clip":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(EnvironmentProblem, match=r'pip install "t2ialign\[rewards\]"') as caught:
        load_reward("hpsv2", weights=str(tmp_path / "x.safetensors"))
    assert caught.value.exit_code == 3


def test_weights_that_cannot_be_had_name_the_local_option(monkeypatch):
    def unreachable(*_, **__):
        raise OSError("We couldn't connect to the hub\nand more")

    monkeypatch.setattr(CLIPModel, "from_pretrained", unreachable)
    with pytest.raises(EnvironmentProblem, match=r"'openai/clip-vit-large-patch14' .* pretrained=FOLDER") as caught:
        load_reward("clip_score")
    assert caught.value.exit_code == 3


def test_a_folder_that_is_not_there_is_not_asked_of_the_hub(tmp_path):
    with pytest.raises(InputError, match="no such folder of reward weights"):
        load_reward("clip_score", pretrained=str(tmp_path / "nothing"))


@pytest.mark.parametrize("name", ["clip_score", "pickscore", "aesthetic"])
def test_weights_that_are_there_pass_the_check_without_being_loaded(name, clip_folder, tmp_path, monkeypatch):
    def loaded(*_, **__):
        raise AssertionError("weights are loaded")

    monkeypatch.setattr(CLIPModel, "from_pretrained", loaded)
    options = f"pretrained={clip_folder}"
    if name == "pickscore":
        options += f",processor={clip_folder}"
    if name == "aesthetic":
        save_file({"x": torch.zeros(1)}, tmp_path / "head.safetensors")
        options += f",weights={tmp_path}/head.safetensors"
    parse_reward(f"{name},{options}").check()


def test_weights_that_the_check_passes_are_on_the_hub_or_in_its_cache(monkeypatch):
    reward = parse_reward("clip_score,pretrained=someone/clip")
    asked: list[str] = []
    on_the_hub = {"model.safetensors.index.json", "preprocessor_config.json"}
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda _, name: None)
    monkeypatch.setattr(huggingface_hub, "file_exists", lambda _, name: asked.append(name) or name in on_the_hub)
    reward.check()
    assert set(asked) >= on_the_hub
    monkeypatch.setattr(huggingface_hub, "file_exists", lambda _, name: False)
    with pytest.raises(EnvironmentProblem, match=r"no such model with a model\.safetensors or"):
        reward.check()
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda _, name: f"/cache/{name}")
    reward.check()


def test_a_reward_without_weights_has_nothing_to_check():
    parse_reward("sharpness").check()


def test_the_check_of_hpsv2_names_a_file_that_is_missing_or_torn(tmp_path):
    pytest.importorskip("open_clip")
    with pytest.raises(InputError, match="no such weights file"):
        parse_reward(f"hpsv2,weights={tmp_path}/w.safetensors").check()
    (tmp_path / "w.safetensors").write_bytes(b"torn")
    with pytest.raises(InputError, match="not a whole safetensors file"):
        parse_reward(f"hpsv2,weights={tmp_path}/w.safetensors").check()


def test_aesthetic_is_the_head_on_the_unit_length_embedding(clip_folder, images, tmp_path):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        head = AestheticHead(24).eval()
    torch.save(head.state_dict(), tmp_path / "head.pth")
    path = str(tmp_path / "head.pth")
    reward = load_reward("aesthetic", pretrained=str(clip_folder), weights=path, sha256=file_digest(Path(path)))

    processor, model = CLIPProcessor.from_pretrained(clip_folder), CLIPModel.from_pretrained(clip_folder)
    with torch.no_grad():
        pixels = processor.image_processor(images, return_tensors="pt")["pixel_values"]
        embedding = model.visual_projection(model.vision_model(pixels).pooler_output)
        rows = embedding / embedding.norm(dim=-1, keepdim=True)
        for layer in (0, 2, 4, 6, 7):  # as the published file numbers them; nothing but linear maps between
            rows = rows @ head.state_dict()[f"layers.{layer}.weight"].T + head.state_dict()[f"layers.{layer}.bias"]
    assert reward(images, PROMPTS) == pytest.approx(rows[:, 0].tolist(), abs=1e-6)


def test_an_aesthetic_head_of_another_clip_is_refused(clip_folder, tmp_path):
    save_file(AestheticHead(32).state_dict(), tmp_path / "head.safetensors")
    with pytest.raises(InputError, match="embeddings of width 24"):
        load_reward("aesthetic", pretrained=str(clip_folder), weights=str(tmp_path / "head.safetensors"))


def test_a_pickle_is_opened_only_with_its_checksum(tmp_path):
    path = tmp_path / "w.pt"
    torch.save({"state_dict": {"a": torch.ones(2)}}, path)
    with pytest.raises(InputError, match=f"Compare sha256 {file_digest(path)} with"):
        read_weights(path)
    with pytest.raises(InputError, match="damaged, or another file"):
        read_weights(path, "0" * 64)
    assert read_weights(path, file_digest(path))["a"].tolist() == [1, 1]


class Trap:
    def __reduce__(self):
        return (exec, ("raise AssertionError('a pickle ran code')",))


def test_a_pickle_that_runs_code_is_refused_even_with_its_checksum(tmp_path):
    torch.save({"a": Trap()}, tmp_path / "w.pt")
    with pytest.raises(InputError, match="holds more than tensors"):
        read_weights(tmp_path / "w.pt", file_digest(tmp_path / "w.pt"))


def test_a_torn_safetensors_file_is_told(tmp_path):
    save_file({"a": torch.ones(8)}, tmp_path / "w.safetensors")
    content = (tmp_path / "w.safetensors").read_bytes()
    (tmp_path / "w.safetensors").write_bytes(content[:-4])
    with pytest.raises(InputError, match="not a whole safetensors file"):
        read_weights(tmp_path / "w.safetensors")


def test_a_file_that_cannot_be_fetched_is_told_with_the_local_option(tmp_path, monkeypatch):
    def unreachable(*_, **__):
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(weights.torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(weights.torch.hub, "download_url_to_file", unreachable)
    with pytest.raises(EnvironmentProblem, match=r"head\.pth cannot be fetched .*weights=PATH"):
        fetch("https://example.invalid/head.pth", "0" * 64)
