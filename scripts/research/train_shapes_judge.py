"""Trains assets/shapes-judge: a small Qwen2.5-VL that answers the rubric about pictures of Shapes, for tests over HTTP.

python scripts/research/train_shapes_judge.py images      # then: vision, judge, export, evaluate

Each training stage keeps runs/judge/STAGE.pt and goes on from it after a kill. The labels are the verifier's. First the
vision tower learns to say what stands where; then the whole model learns to answer: what decides each check, then the
digits. Fixed sentences of the rubric are single tokens, which makes a prompt about 80 tokens long.
"""

# transformers annotates configs and processors loosely:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false

from __future__ import annotations

import argparse
import json
import math
import os
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
)
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import rotate_half
from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor
from transformers.vision_utils import get_vision_position_ids

from t2ialign.shapes.caption import constraints, describe, perturb, perturbations, prompts
from t2ialign.shapes.constraint import Constraint, Spec, holds
from t2ialign.shapes.families import FAMILIES
from t2ialign.shapes.judge import points_of
from t2ialign.shapes.render import render_array
from t2ialign.shapes.scene import BACKGROUNDS, CANVAS, COLORS, SHAPES, SIZES, Scene, Thing, sample_scene
from t2ialign.shapes.verify import Unreadable, read
from unigenbench.judges.base import JudgeOptions
from unigenbench.judging.plan import Settings
from unigenbench.judging.run import JudgeConfig, judge_folder
from unigenbench.prompts import to_csv
from unigenbench.protocol.rubric import NativeRubric, reply_lines
from unigenbench.runs.store import open_log
from unigenbench.scoring.agree import agree
from unigenbench.taxonomy import CRITERIA
from unigenbench.types import Point, Prompt

ROOT = Path(__file__).parents[2]
JUDGE = ROOT / "assets/shapes-judge"
SEED = 11
PATCH, MERGE = 8, 2
GRID = CANVAS // PATCH
CELLS = GRID // MERGE
"""Side of the grid of visual tokens: 4 x 4, each 16 px wide; two things never have their centres in one cell."""
MOST_CHECKS = 8
GENERATED = 0.45
"""Share of the training pictures that the diffusion model made."""
VERDICT_WEIGHT, DIGIT_WEIGHT = 6.0, 2.0
"""Of the words yes and no, where each check is decided, and of the digits, which repeat them; other tokens have 1."""
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
           "<|image_pad|>", "<|video_pad|>")  # fmt: skip
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' or 'image_url' in part %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif 'text' in part %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
BEGIN, NEXT, SEES, LAST = '<analysis>["{k} wants', '","{k} wants', "; sees", '"]</analysis>\n<score>['
RUBRIC = NativeRubric("en")


# What is asked and answered


class Example(NamedTuple):
    """A picture, what the verifier reads in it, and the caption that it is judged by."""

    pixels: np.ndarray
    seen: Scene | Unreadable
    caption: str


def prompt_of(caption: str) -> Prompt:
    """The caption with the verifier's constraints as its test points."""
    return Prompt(0, caption, "", "", "", "", points_of(caption))


def verdicts(caption: str, seen: Scene | Unreadable) -> list[int]:
    """The verifier's answers, 0 or 1."""
    return [int(isinstance(seen, Scene) and holds(stated, seen)) for stated in constraints(caption)]


def answer(caption: str, seen: Scene | Unreadable) -> str:
    """The reply that the judge learns to give: what each check wants, what is seen of it, whether that is right."""
    digits = verdicts(caption, seen)
    text = ""
    for k, (stated, digit) in enumerate(zip(constraints(caption), digits, strict=True), 1):
        text += (NEXT if text else BEGIN).replace("{k}", str(k))
        text += f" {_wanted(stated)}{SEES} {_evidence(stated, seen)}:{_again(stated)} {'yes' if digit else 'no'}"
    return f"{text}{LAST}{','.join(map(str, digits))}]</score>"


def _again(stated: Constraint) -> str:
    """What was wanted, once more: repeating what followed a word is learnt long before comparing two words is."""
    if stated.kind == "background":
        return f" {stated.value}"
    if stated.kind not in ("every", "exists", "absent"):
        return ""
    words = (stated.subject.size, stated.subject.color, stated.subject.shape)
    return "".join(f" {word}" for word in words if word)


def _wanted(stated: Constraint) -> str:
    """What a constraint asks for, in few words."""
    match stated.kind:
        case "total":
            return f"{stated.value} things"
        case "background":
            return f"{stated.value} background"
        case "count":
            return f"{stated.value} {stated.subject}"
        case "absent":
            return f"no {stated.subject}"
        case "same color":
            return "same color"
        case "relation" | "comparison":
            return f"{stated.subject} {stated.value} {stated.target}"
    return str(stated.subject)


def _evidence(stated: Constraint, seen: Scene | Unreadable) -> str:
    """What of a scene decides a constraint, in a fixed order so that there is one right answer."""
    if isinstance(seen, Unreadable) or not seen.things:
        return "nothing clear"
    match stated.kind:
        case "total":
            return f"{len(seen.things)} things"
        case "background":
            return f"{seen.background} yes"
        case "count":
            matching = sum(stated.subject.matches(thing) for thing in seen.things)
            return f"{matching} {Spec(stated.subject.color, stated.subject.shape)}"
        case "relation":
            along = (lambda thing: thing.x) if "of" in str(stated.value) else (lambda thing: thing.y)
            return ", ".join(f"{thing.color} {thing.shape}" for thing in sorted(seen.things, key=along))
        case "comparison":
            return _listed(seen, lambda thing: f"{thing.size} {thing.color} {thing.shape}")
        case "same color":
            return _listed(seen, lambda thing: thing.color)
    subject = stated.subject
    listed = _listed(
        seen,
        lambda thing: " ".join(
            word
            for word, asked in ((thing.size, subject.size), (thing.color, subject.color), (thing.shape, subject.shape))
            if asked
        ),
    )
    several = stated.kind == "every" and "," in listed  # one kind among others is not what every thing is
    mark = "no" if several or stated.kind == "absent" else "yes"
    return listed.replace(",", f" {mark},") + f" {mark}"


def _listed(seen: Scene, name: Callable[[Thing], str]) -> str:
    """The different names of the things, in the order of the palettes."""
    order = {word: place for place, word in enumerate((*COLORS, *SHAPES, *SIZES))}
    names = {name(thing) for thing in seen.things}
    return ", ".join(sorted(names, key=lambda text: [order[word] for word in reversed(text.split())]))


# Pictures


class Pool:
    """Pictures of the diffusion model with what the verifier reads in them."""

    def __init__(self, path: Path):
        stored = np.load(path)
        self.pixels, self.captions = stored["pixels"], [str(caption) for caption in stored["captions"]]
        self.seen = [read(Image.fromarray(pixels)) for pixels in self.pixels]

    def sample(self, rng: np.random.Generator) -> Example:
        at = int(rng.integers(len(self.captions)))
        pixels, seen = self.pixels[at], self.seen[at]
        return Example(pixels, seen, self.captions[at] if rng.random() < 0.35 else _caption(seen, rng))


def sample_render(rng: np.random.Generator) -> Example:
    """A rendered scene, some of them blurred, noisy or spoilt; what is spoilt is read by the verifier."""
    scene = sample_scene(rng)
    pixels = render_array(scene, rng)
    spoilt = rng.random() < 0.12
    if spoilt:
        other = render_array(sample_scene(rng), rng)
        low, high = np.sort(rng.integers(0, CANVAS, 2))
        mix = float(rng.choice((0.0, 0.3, 0.5)))
        pixels = pixels.copy()
        pixels[:, low:high] = (mix * pixels[:, low:high] + (1 - mix) * other[:, low:high]).astype(np.uint8)
    image = Image.fromarray(pixels)
    if rng.random() < 0.5:
        image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.2, 0.7))))
    noisy = np.asarray(image, np.float32) + rng.normal(0, rng.uniform(0, 6), (CANVAS, CANVAS, 3))
    pixels = np.clip(np.rint(noisy), 0, 255).astype(np.uint8)
    seen = read(Image.fromarray(pixels)) if spoilt else scene
    return Example(pixels, seen, _caption(seen, rng))


def _caption(seen: Scene | Unreadable, rng: np.random.Generator) -> str:
    """A caption that is true of the scene, or nearly true, or of another scene."""
    kind = rng.random()
    usable = isinstance(seen, Scene) and 1 <= len(seen.things) <= 4
    scene = seen if usable and kind < 0.85 else sample_scene(rng)
    names = list(FAMILIES)
    for at in rng.permutation(len(names)):
        if (caption := describe(scene, names[at], rng)) is not None:
            break
    else:
        return "a red circle"
    kinds = perturbations(caption)
    return perturb(caption, kinds[rng.integers(len(kinds))], rng) if kinds and 0.4 < kind < 0.85 else caption


def draw(captions: list[str], seed: int, guidance: float) -> np.ndarray:
    """What assets/shapes-sd makes of the captions. uint8 [N, 64, 64, 3]"""
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(
        ROOT / "assets/shapes-sd", safety_checker=None, torch_dtype=torch.float32
    )
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(
        captions, num_inference_steps=16, guidance_scale=guidance, generator=torch.Generator().manual_seed(seed),
        output_type="np", height=CANVAS, width=CANVAS,
    ).images  # fmt: skip
    return np.rint(images * 255).astype(np.uint8)


def make_images(out: Path, count: int, seed: int, batch: int = 50) -> None:
    """Draws `count` pictures for training prompts, in parts that survive a kill."""
    captions = prompts("train", count, seed)
    random.Random(seed).shuffle(captions)
    parts = out.with_suffix(".parts")
    parts.mkdir(parents=True, exist_ok=True)
    for start in range(0, count, batch):
        part = parts / f"{start:06d}.npy"
        if part.exists():
            continue
        guidance = (2.0, 3.0, 5.0)[start // batch % 3]
        np.save(part, draw(captions[start : start + batch], seed * 1_000_003 + start, guidance))
        log(f"images {start + batch}/{count}")
    pixels = np.concatenate([np.load(part) for part in sorted(parts.glob("*.npy"))])
    np.savez(out, pixels=pixels, captions=np.array(captions[: len(pixels)]))


# Tokenizer, model, processor


def fixed_texts() -> list[str]:
    """The sentences of the rubric and of the answer that are one token each."""
    sentinel = "\x00"
    texts = [SEES, LAST, "]</score>"]
    texts += [form.replace("{k}", str(k)) for form in (BEGIN, NEXT) for k in range(1, MOST_CHECKS + 1)]
    for n in range(1, MOST_CHECKS + 1):
        point = Point(CRITERIA[0].id, sentinel, sentinel)
        lines = RUBRIC.segments(Prompt(0, sentinel, "", "", "", "", (point,) * n))
        text = "\n".join(lines)
        opening, rest = text.split(sentinel, 1)
        head, caption = opening.split("Caption:")
        count = rest[: rest.index("\n\nCheck 1")]
        texts += [head, f"Caption:{caption}", count, f"\n\nCheck {n}: ", text[text.rindex(sentinel) + 1 :]]
        assert text.endswith("\n".join(reply_lines("en", n)))
    for criterion in CRITERIA:
        point = Point(criterion.id, sentinel, sentinel)
        text = "\n".join(RUBRIC.segments(Prompt(0, "", "", "", "", "", (point,))))
        texts.append(criterion.name + text.split(sentinel)[1])
    return list(dict.fromkeys(texts))


def build_processor() -> Qwen2_5_VLProcessor:
    """Tokenizer and image processor; every word of the world is one token."""
    rng = np.random.default_rng(SEED)
    corpus = []
    for _ in range(2500):
        example = sample_render(rng)
        point = " \n".join(f" {point.description}" for point in prompt_of(example.caption).points)
        corpus += [example.caption, f" {example.caption}", point, answer(example.caption, example.seen)]
    corpus += ["user\n", "assistant\n", "things in the picture", RUBRIC.render(prompt_of("a red circle"))] * 20
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=900, special_tokens=list(SPECIAL), initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in fixed_texts()])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", model_max_length=4096,
        chat_template=TEMPLATE, additional_special_tokens=list(SPECIAL[1:]), padding_side="left",
        extra_special_tokens={
            "image_token": "<|image_pad|>", "video_token": "<|video_pad|>",
            "vision_start_token": "<|vision_start|>", "vision_end_token": "<|vision_end|>",
        },
    )  # fmt: skip
    side = {"patch_size": PATCH, "merge_size": MERGE, "temporal_patch_size": 2}
    size = {"shortest_edge": CANVAS * CANVAS, "longest_edge": CANVAS * CANVAS}
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=size, **side),
        tokenizer=fast,
        video_processor=Qwen2VLVideoProcessor(size=size, **side),
        chat_template=TEMPLATE,
    )


def build_model(tokenizer: PreTrainedTokenizerFast) -> Qwen2_5_VLForConditionalGeneration:
    """The untrained model: a vision tower of 4 layers and a language model of 4 layers, both 128 wide."""
    ids = {name: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in ("im_end", "im_start", "endoftext")}
    text = {
        "vocab_size": -(-len(tokenizer) // 16) * 16, "hidden_size": 128, "intermediate_size": 384,
        "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 4096,
        "bos_token_id": ids["im_start"], "eos_token_id": ids["im_end"], "pad_token_id": ids["endoftext"],
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]},
        "tie_word_embeddings": True,
    }  # fmt: skip
    vision = {
        "depth": 4, "hidden_size": 128, "intermediate_size": 256, "num_heads": 4, "out_hidden_size": 128,
        "patch_size": PATCH, "spatial_merge_size": MERGE, "temporal_patch_size": 2, "window_size": CANVAS,
        "fullatt_block_indexes": [0, 1, 2, 3],
    }  # fmt: skip
    config = Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=tokenizer.convert_tokens_to_ids("<|image_pad|>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<|video_pad|>"),
        vision_start_token_id=tokenizer.convert_tokens_to_ids("<|vision_start|>"),
        vision_end_token_id=tokenizer.convert_tokens_to_ids("<|vision_end|>"),
        tie_word_embeddings=True,
    )
    model = Qwen2_5_VLForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        do_sample=False, eos_token_id=ids["im_end"], pad_token_id=ids["endoftext"], bos_token_id=ids["im_start"],
        max_new_tokens=256,
    )  # fmt: skip
    return model


# Fast passes: all pictures have one size, so that a batch is one tensor


def patches_of(pixels: np.ndarray, processor: Qwen2_5_VLProcessor) -> Tensor:
    """What the image processor makes of [B, 64, 64, 3] uint8. [B, 64, 384]"""
    image = processor.image_processor
    mean, std = torch.tensor(image.image_mean), torch.tensor(image.image_std)
    scaled = (torch.from_numpy(pixels).float() / 255 - mean) / std
    cells = scaled.view(-1, CELLS, MERGE, PATCH, CELLS, MERGE, PATCH, 3).permute(0, 1, 4, 2, 5, 7, 3, 6)
    doubled = cells.unsqueeze(6).expand(-1, -1, -1, -1, -1, -1, 2, -1, -1)
    return doubled.reshape(len(pixels), GRID * GRID, -1)


def see(visual: Any, patches: Tensor) -> Tensor:
    """What the vision tower makes of a batch of pictures of one size. [B, 64, 384] -> [B, 16, D]"""
    batch = len(patches)
    x = F.linear(patches, visual.patch_embed.proj.weight.flatten(1))
    positions = get_vision_position_ids(torch.tensor([[1, GRID, GRID]]), MERGE)
    cos, sin = visual.rotary_pos_emb(x, positions)
    for block in visual.blocks:
        attention = block.attn
        qkv = attention.qkv(block.norm1(x)).view(batch, GRID * GRID, 3, attention.num_heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        q, k = (part * cos.to(part) + rotate_half(part) * sin.to(part) for part in (q, k))
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, GRID * GRID, -1)
        x = x + attention.proj(mixed)
        x = x + block.mlp(block.norm2(x))
    return visual.merger(x).view(batch, CELLS * CELLS, -1)


class Heads(nn.Module):
    """What each visual token must tell while it learns: the thing in its cell, and facts of the whole picture."""

    LOCAL = (1, len(COLORS), len(SHAPES), len(SIZES))
    WHOLE = (1, 7, len(BACKGROUNDS), len(COLORS), len(SHAPES))

    def __init__(self, width: int):
        super().__init__()
        self.local, self.whole = nn.Linear(width, sum(self.LOCAL)), nn.Linear(width, sum(self.WHOLE))

    def loss(self, tokens: Tensor, seen: Sequence[Scene | Unreadable]) -> tuple[Tensor, dict[str, float]]:
        """Cross-entropies of tokens [B, 16, D] against what the verifier read, and shares that are right."""
        scenes = [scene if isinstance(scene, Scene) else Scene("white", ()) for scene in seen]
        readable = torch.tensor([isinstance(scene, Scene) for scene in seen])
        present, color, shape, size = self.local(tokens).split(self.LOCAL, -1)
        row, cell, looks = _placed(scenes)
        where = torch.zeros(tokens.shape[:2])
        where[row, cell] = 1.0
        parts = {
            "where": F.binary_cross_entropy_with_logits(present[..., 0][readable], where[readable]),
            "color": F.cross_entropy(color[row, cell], looks[:, 0]),
            "shape": F.cross_entropy(shape[row, cell], looks[:, 1]),
            "size": F.cross_entropy(size[row, cell], looks[:, 2]),
        }
        unclear, count, background, colors, shapes = self.whole(tokens).split(self.WHOLE, -1)
        each = tokens.shape[1]
        counts = torch.tensor([min(6, len(scene.things)) for scene in scenes])
        parts |= {
            "unclear": F.binary_cross_entropy_with_logits(
                unclear[..., 0], (~readable).float()[:, None].expand(-1, each)
            ),
            "count": F.cross_entropy(count[readable].flatten(0, 1), counts[readable].repeat_interleave(each)),
            "background": F.cross_entropy(
                background[readable].flatten(0, 1),
                torch.tensor([list(BACKGROUNDS).index(s.background) for s in scenes])[readable].repeat_interleave(each),
            ),
            "colors": _any_of(colors, [[thing.color for thing in s.things] for s in scenes], list(COLORS), readable),
            "shapes": _any_of(shapes, [[thing.shape for thing in s.things] for s in scenes], SHAPES, readable),
        }
        right = {
            "color": float((color[row, cell].argmax(-1) == looks[:, 0]).float().mean()),
            "shape": float((shape[row, cell].argmax(-1) == looks[:, 1]).float().mean()),
            "count": float((count.float().mean(1).argmax(-1) == counts)[readable].float().mean()),
            "clear": float(((unclear[..., 0].float().mean(1) > 0) == ~readable).float().mean()),
        }
        return torch.stack(list(parts.values())).sum(), right


def _placed(scenes: Sequence[Scene]) -> tuple[Tensor, Tensor, Tensor]:
    """(picture, cell, [color, shape, size]) of every thing, as indices."""
    found = [
        (row, int(min(63, thing.y) // 16) * CELLS + int(min(63, thing.x) // 16),
         (list(COLORS).index(thing.color), SHAPES.index(thing.shape), SIZES.index(thing.size)))
        for row, scene in enumerate(scenes)
        for thing in scene.things
    ]  # fmt: skip
    rows, cells, looks = zip(*found, strict=True)
    return torch.tensor(rows), torch.tensor(cells), torch.tensor(looks)


def _any_of(logits: Tensor, words: list[list[str]], known: Sequence[str], readable: Tensor) -> Tensor:
    wanted = torch.tensor([[float(name in row) for name in known] for row in words])
    return F.binary_cross_entropy_with_logits(
        logits[readable], wanted[readable][:, None].expand(-1, logits.shape[1], -1)
    )


class Writer:
    """Turns captions and answers into tokens, as the processor and its chat template do."""

    def __init__(self, processor: Qwen2_5_VLProcessor):
        self.tokenizer = processor.tokenizer
        self.weights = dict.fromkeys((self.tokenizer.encode(digit)[0] for digit in "01"), DIGIT_WEIGHT)
        self.weights |= dict.fromkeys((self.tokenizer.encode(word)[0] for word in (" yes", " no")), VERDICT_WEIGHT)

    def question(self, prompt: Prompt) -> str:
        image = "<|vision_start|>" + "<|image_pad|>" * CELLS**2 + "<|vision_end|>"
        return f"<|im_start|>user\n{image}{RUBRIC.render(prompt)}<|im_end|>\n<|im_start|>assistant\n"

    def batch(self, examples: Sequence[Example]) -> tuple[Tensor, Tensor]:
        """Token ids and loss weights, padded at the right. [B, L] each"""
        rows, weights = [], []
        for example in examples:
            asked = self.tokenizer.encode(self.question(prompt_of(example.caption)))
            said = self.tokenizer.encode(answer(example.caption, example.seen) + "<|im_end|>")
            rows.append(asked + said)
            weights.append([0.0] * len(asked) + [self.weights.get(token, 1.0) for token in said])
        length = max(map(len, rows))
        pad = self.tokenizer.pad_token_id
        ids = torch.tensor([row + [pad] * (length - len(row)) for row in rows])
        return ids, torch.tensor([row + [0.0] * (length - len(row)) for row in weights])


def answer_losses(
    model: Qwen2_5_VLForConditionalGeneration, tokens: Tensor, examples: Sequence[Example], writer: Writer
) -> tuple[Tensor, dict[str, float]]:
    """`answer_loss` of the shorter and of the longer half of a batch, which saves padding."""
    order = sorted(range(len(examples)), key=lambda at: len(constraints(examples[at].caption)))
    halves = [order[: len(order) // 2], order[len(order) // 2 :]]
    found = [answer_loss(model, tokens[half], *writer.batch([examples[at] for at in half])) for half in halves]
    means = {name: (found[0][1][name] + found[1][1][name]) / 2 for name in found[0][1]}
    return (found[0][0] + found[1][0]) / 2, means


def answer_loss(
    model: Qwen2_5_VLForConditionalGeneration, tokens: Tensor, ids: Tensor, weights: Tensor
) -> tuple[Tensor, dict[str, float]]:
    """Weighted cross-entropy of the answers, given visual tokens [B, 16, D]."""
    inner = model.model
    embedded = inner.get_input_embeddings()(ids)
    image = ids == model.config.image_token_id
    embedded = embedded.masked_scatter(image[..., None], tokens.to(embedded.dtype))
    longest = int((ids != ids[0, -1]).sum(1).argmax())
    kinds = (ids[longest : longest + 1] == model.config.image_token_id).int()
    positions, _ = inner.get_rope_index(
        ids[longest : longest + 1], kinds, image_grid_thw=torch.tensor([[1, GRID, GRID]])
    )
    hidden = inner.language_model(
        inputs_embeds=embedded, position_ids=positions.expand(-1, len(ids), -1), use_cache=False
    ).last_hidden_state
    asked = weights[:, 1:] > 0
    wanted, weight = ids[:, 1:][asked], weights[:, 1:][asked]
    logits = model.lm_head(hidden[:, :-1][asked])
    losses = F.cross_entropy(logits.float(), wanted, reduction="none")
    right = (logits.argmax(-1) == wanted).float()
    named = {"verdicts": VERDICT_WEIGHT, "digits": DIGIT_WEIGHT, "evidence": 1.0}
    shares = {name: float(right[weight == value].mean()) for name, value in named.items()}
    return (losses * weight).sum() / weight.sum(), shares


# Training


def log(line: str) -> None:
    print(time.strftime("%H:%M:%S", time.gmtime()), line, flush=True)


class Run:
    """Model, optimizers and counters of one stage, saved whole."""

    def __init__(self, path: Path, modules: nn.ModuleDict):
        self.path, self.modules = path, modules
        self.step, self.seconds = 0, 0.0
        matrices = [
            p for name, p in modules.named_parameters() if p.ndim == 2 and "embed" not in name and "heads" not in name
        ]
        others = [p for p in modules.parameters() if not any(p is matrix for matrix in matrices)]
        self.optimizers = [
            torch.optim.Muon(matrices, lr=3e-3, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, lr=3e-3, betas=(0.9, 0.98), weight_decay=0.0),
        ]
        self.rates = [group["lr"] for optimizer in self.optimizers for group in optimizer.param_groups]
        if path.exists():
            state = torch.load(path, weights_only=True)
            modules.load_state_dict(state["modules"])
            for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
            self.step, self.seconds = state["step"], state["seconds"]
            log(f"{path.stem}: goes on at step {self.step} after {self.seconds / 60:.1f} min")

    def advance(self, loss: Tensor, scale: float) -> None:
        value = loss.item()
        if not math.isfinite(value):
            raise FloatingPointError(f"{self.path.stem}: loss is {value} at step {self.step}")
        loss.backward()
        nn.utils.clip_grad_norm_(self.modules.parameters(), 1.0)
        groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
        for group, rate in zip(groups, self.rates, strict=True):
            group["lr"] = rate * scale
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1

    def save(self) -> None:
        temporary = self.path.with_suffix(".tmp")
        state = {
            "modules": self.modules.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "step": self.step,
            "seconds": self.seconds,
        }
        torch.save(state, temporary)
        os.replace(temporary, self.path)


def train(stage: str, folder: Path, steps: int, minutes: float, batch: int) -> None:
    """Trains a stage to its number of steps or minutes: warm-up, constant, and linear to zero over the last 40 %."""
    processor = load_processor(folder)
    torch.manual_seed(SEED)
    model = build_model(processor.tokenizer)
    modules = nn.ModuleDict({"model": model, "heads": Heads(128)})
    before = folder / "vision.pt"
    if stage == "judge" and not (folder / "judge.pt").exists():
        seeing = torch.load(before, weights_only=True)["modules"]
        modules.load_state_dict({k: v for k, v in seeing.items() if "visual" in k or "heads" in k}, strict=False)
    learner = modules if stage == "judge" else nn.ModuleDict({"visual": model.model.visual, "heads": modules["heads"]})
    run = Run(folder / f"{stage}.pt", modules) if stage == "judge" else _vision_run(folder, modules, learner)
    pool, writer = Pool(folder / "train.npz"), Writer(processor)
    shown: dict[str, list[float]] = {}
    saved = time.monotonic()
    while (progress := max(run.step / steps, run.seconds / (60 * minutes))) < 1:
        began = time.monotonic()
        rng = np.random.default_rng((SEED, len(stage), run.step))
        examples = [pool.sample(rng) if rng.random() < GENERATED else sample_render(rng) for _ in range(batch)]
        with torch.autocast("cpu", torch.bfloat16):
            tokens = see(model.model.visual, patches_of(np.stack([e.pixels for e in examples]), processor))
            loss, right = modules["heads"].loss(tokens.float(), [example.seen for example in examples])
            if stage == "judge":
                said, more = answer_losses(model, tokens, examples, writer)
                loss, right = 0.5 * loss + 3 * said, right | more | {"said": said.item()}
        scale = min(1.0, (run.step + 1) / 50, max(0.02, (1 - progress) / 0.4))
        run.advance(loss, scale)
        run.seconds += time.monotonic() - began
        for name, value in (right | {"loss": loss.item()}).items():
            shown.setdefault(name, []).append(value)
        if run.step % 25 == 0:
            means = " ".join(f"{name} {np.nanmean(values):.3f}" for name, values in shown.items())
            log(f"{stage} {run.step}/{steps} {means} {run.seconds / run.step:.2f} s/step")
            shown = {}
        if time.monotonic() - saved > 60:
            run.save()
            saved = time.monotonic()
    run.save()


def _vision_run(folder: Path, modules: nn.ModuleDict, learner: nn.ModuleDict) -> Run:
    """A run that trains the vision tower and its heads, and saves the whole model."""
    run = Run(folder / "vision.pt", modules)
    trained = {id(parameter) for parameter in learner.parameters()}
    for parameter in modules.parameters():
        parameter.requires_grad_(id(parameter) in trained)
    return run


def load_processor(folder: Path) -> Any:
    """The processor of the run, made at the first call."""
    made = folder / "processor"
    if not made.exists():
        build_processor().save_pretrained(made)
    return Qwen2_5_VLProcessor.from_pretrained(made)


def export(folder: Path, out: Path) -> None:
    """Writes the judge as an ordinary folder, weights in float16."""
    processor = load_processor(folder)
    model = build_model(processor.tokenizer)
    state = torch.load(folder / "judge.pt", weights_only=True)
    modules = nn.ModuleDict({"model": model, "heads": Heads(128)})
    modules.load_state_dict(state["modules"])
    model.half().save_pretrained(out)
    processor.save_pretrained(out)
    record = {"rubric": RUBRIC.id, "rubric_sha256": RUBRIC.sha256, "steps": state["step"], "seed": SEED}
    (out / "training.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    log(f"export: {sum(path.stat().st_size for path in out.rglob('*')) / 1e6:.1f} MB in {out}")


# Evaluation


def write_held_out(folder: Path, count: int, seed: int = 2026) -> None:
    """prompts.csv and two images of each prompt, none of which was trained on.

    Image 0 is rendered from a scene with a held-out caption, in which one fact is changed for about half of the
    prompts; image 1 is what assets/shapes-sd draws for the prompt.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    captions: list[str] = []
    while len(captions) < count:
        scene = sample_scene(rng)
        caption = describe(scene, list(FAMILIES)[len(captions) % len(FAMILIES)], rng, "test")
        if caption is None:
            continue
        kinds = perturbations(caption)
        if kinds and rng.random() < 0.5:
            caption = perturb(caption, kinds[rng.integers(len(kinds))], rng)
        Image.fromarray(render_array(scene, rng)).save(folder / f"{len(captions)}_0.png")
        captions.append(caption)
    for start in range(0, count, 32):
        for at, pixels in enumerate(draw(captions[start : start + 32], seed + start, 3.0), start):
            Image.fromarray(pixels).save(folder / f"{at}_1.png")
    asked = [
        Prompt(index, text, "Art", "Graphic Art", "Other Entity", "Descriptive", points_of(text))
        for index, text in enumerate(captions)
    ]
    (folder / "prompts.csv").write_text(to_csv(asked, "en"), encoding="utf-8", newline="\n")


def order(folder: Path, run: str, judge: str, **options: Any) -> JudgeConfig:
    """A run of unigenbench over the held-out images."""
    return JudgeConfig(
        data=str(folder / "prompts.csv"), images=folder, judge=judge, run=folder / run, images_per_prompt=2,
        options=JudgeOptions(**options), settings=Settings(concurrency=16, max_tokens=256),
    )  # fmt: skip


def evaluate(folder: Path, count: int) -> None:
    """Judges held-out images with the exported judge and with the verifier, and prints how far they agree."""
    if not (folder / "prompts.csv").exists():
        write_held_out(folder, count)
    judge_folder(order(folder, "judge", f"hf:{JUDGE}", device="cpu", dtype="float32", batch_size=16))
    judge_folder(order(folder, "verifier", "shapes"))
    found = agree([open_log(folder / "judge"), open_log(folder / "verifier")])["pairs"][0]
    print("| criterion | verdicts | agree | kappa | 95 % interval |\n|---|---|---|---|---|")
    for name, entry in {**found["overall"], **found["criteria"]}.items():
        if entry["kappa"] is not None:
            low, high = entry["kappa_ci"]
            total = sum(entry[cell] for cell in ("both", "only_first", "only_second", "neither"))
            print(f"| {name} | {total} | {entry['observed']:.3f} | {entry['kappa']:.2f} | {low:.2f} to {high:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=("images", "vision", "judge", "export", "evaluate"))
    parser.add_argument("--folder", type=Path, default=ROOT / "runs/judge")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--minutes", type=float, default=math.inf)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--images", type=int, default=4000)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    match options.stage:
        case "images":
            make_images(options.folder / "train.npz", options.images, 1)
        case "export":
            export(options.folder, JUDGE)
        case "evaluate":
            evaluate(options.folder / "held_out", options.images)
        case stage:
            train(stage, options.folder, options.steps, options.minutes, options.batch)


if __name__ == "__main__":
    main()
