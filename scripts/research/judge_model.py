"""The parts of shapes-judge: processor and model, untrained, and the quick passes that training takes through them."""

# transformers annotates configs and processors loosely:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from judge_examples import BEGIN, LAST, NEXT, SEES, answer, prompt_of, sample_render
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

from t2ialign.shapes.scene import BACKGROUNDS, CANVAS, COLORS, SHAPES, SIZES, Scene
from t2ialign.shapes.verify import Unreadable
from unigenbench.protocol.native import NativeRubric, reply_lines
from unigenbench.taxonomy import CRITERIA
from unigenbench.types import Point, Prompt

SEED = 11
PATCH, MERGE = 8, 2
GRID = CANVAS // PATCH
CELLS = GRID // MERGE
"""Side of the grid of visual tokens: 4 x 4, each 16 px wide; two things never have their centres in one cell."""
MOST_CHECKS = 8
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
           "<|image_pad|>", "<|video_pad|>")  # fmt: skip
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' or 'image_url' in part %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif 'text' in part %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
RUBRIC = NativeRubric("en")


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
        row, cell, traits = _placed(scenes)
        where = torch.zeros(tokens.shape[:2])
        where[row, cell] = 1.0
        parts = {
            "where": F.binary_cross_entropy_with_logits(present[..., 0][readable], where[readable]),
            "color": F.cross_entropy(color[row, cell], traits[:, 0]),
            "shape": F.cross_entropy(shape[row, cell], traits[:, 1]),
            "size": F.cross_entropy(size[row, cell], traits[:, 2]),
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
            "color": float((color[row, cell].argmax(-1) == traits[:, 0]).float().mean()),
            "shape": float((shape[row, cell].argmax(-1) == traits[:, 1]).float().mean()),
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
    rows, cells, traits = zip(*found, strict=True)
    return torch.tensor(rows), torch.tensor(cells), torch.tensor(traits)


def _any_of(logits: Tensor, words: list[list[str]], known: Sequence[str], readable: Tensor) -> Tensor:
    wanted = torch.tensor([[float(name in row) for name in known] for row in words])
    return F.binary_cross_entropy_with_logits(
        logits[readable], wanted[readable][:, None].expand(-1, logits.shape[1], -1)
    )
