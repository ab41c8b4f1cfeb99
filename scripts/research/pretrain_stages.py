"""The stages of pre-training: the VAE on pictures, the text encoders on captions, the UNet on both."""

# diffusers annotates tuples as tuple[str] and modules as unions:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from checkpoints import load_state, save_state
from PIL import Image
from pretrain_loop import SEED, Muon, Run, device, log, train, world
from pretrain_models import (
    build_scheduler,
    build_texts,
    build_tokenizer,
    build_unet,
    build_vae,
    checkpoint,
    conditioning,
    load_ema,
    read_texts,
    summaries,
    tokens,
)
from torch import Tensor, nn

from t2ialign.shapes.caption import corrupt, family_of, parse, split_of
from t2ialign.shapes.data import CAPTION_NOISE, FAMILY_WEIGHTS, FOCUS_WEIGHTS, sample_caption
from t2ialign.shapes.families import FAMILIES, WORDS
from t2ialign.shapes.render import render_array
from t2ialign.shapes.scene import Scene, sample_scene
from t2ialign.storage.atomic import atomic_write

CAPTION_DROP = 0.1
FIRST_ROLE = {"h": "left of", "v": "above", "k": "larger"}
"""Of each kind of ordering word the one whose subject plays the first role: on the left, on top, or the larger."""
ROLES = [f"{axis}{place}{kind}" for axis in FIRST_ROLE for place in (1, 2) for kind in "cs"]
ROLE_WEIGHT = 0.01
EASY_NOISE = 0.5
"""With --focus, share of careless captions among the families of one thing, which guidance makes perfect otherwise."""
EASY = ("single", "sized", "background", "negation")
REVERSE = {
    "left": "right",
    "right": "left",
    "above": "below",
    "below": "above",
    "larger": "smaller",
    "smaller": "larger",
}
ORDER_SCALE, ORDER_WEIGHT = 0.005, 4.0
"""With --focus, where the caption states an order, the same noise is predicted again from the reversed caption, and the
error of that is to be larger. The two share their noise, so that the gradient speaks of nothing but the order; without
it the order stayed at chance for 15,000 steps. The scale is of the order of what a wrong color costs."""
LAYOUT_TIMESTEPS, LAYOUT_SHARE = 550, 0.6
"""With --focus, this share of the timesteps is drawn from this one on: layout is decided there, where an error in the
noise weighs next to nothing in the loss."""
SIDE = 64
SLOTS = sorted({name for f in FAMILIES.values() for w in f.wordings for name in re.findall(r"\{(\w+)\}", w)})


def pixels(rng: np.random.Generator, count: int) -> Tensor:
    """Random rendered scenes in [-1, 1]. [count, 3, 64, 64]"""
    images = np.stack([render_array(sample_scene(rng), rng) for _ in range(count)])
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().div(127.5).sub(1).to(device())


def train_vae(options: argparse.Namespace) -> None:
    torch.manual_seed(SEED)
    vae = build_vae().to(device())
    modules = nn.ModuleDict({"vae": vae})
    run = Run(checkpoint(options, "vae"), "vae", modules, Muon(list(modules.named_parameters()), 0.02, 2e-3), 0.99)

    def loss_of(step: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        images = pixels(rng, options.batch)
        with torch.autocast(device().type, torch.bfloat16):
            posterior = vae.encode(images).latent_dist
            decoded = vae.decode(posterior.sample()).sample
        error = decoded.float() - images
        squared = error.square().mean()
        kl = posterior.kl().float().mean() / 256
        loss = error.abs().mean() + squared + 1e-4 * kl
        return loss, {"loss": loss.detach(), "psnr": -10 * torch.log10(squared.detach() / 4), "kl": kl.detach()}

    train(run, options.steps or 2000, options.minutes, loss_of)


def train_text(options: argparse.Namespace) -> None:
    """Teaches the text encoder to say what fills the slots of a caption, so that the UNet starts with its words."""
    torch.manual_seed(SEED + 1)
    tokenizer = build_tokenizer(options.run / "tokenizer")
    texts = build_texts(tokenizer, options.family)
    width = texts["text"].config.hidden_size
    heads = nn.ModuleDict(
        {f"{i}{name}": nn.Linear(width, len(WORDS[name[0]]) + 1) for i in range(len(texts)) for name in SLOTS}
    ).to(device())
    modules = nn.ModuleDict({**texts, "heads": heads})
    path = checkpoint(options, "text")
    run = Run(path, "text", modules, Muon(list(modules.named_parameters()), 0.0, 2e-3), 0.98)

    def loss_of(step: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        captions = [caption for _ in range(3 * options.batch) if (caption := sample_caption(sample_scene(rng), rng))]
        slots = [parse(caption).slots for caption in captions]
        ids = tokens(tokenizer, captions)
        vectors = summaries(read_texts(modules, ids), ids, tokenizer)
        losses, right = [], []
        for name in SLOTS:
            words = WORDS[name[0]]
            labels = torch.tensor([words.index(s[name]) + 1 if name in s else 0 for s in slots], device=device())
            for i, vector in enumerate(vectors):
                logits = heads[f"{i}{name}"](vector)
                losses.append(F.cross_entropy(logits, labels))
                right.append((logits.argmax(1) == labels).float().detach())
        loss = torch.stack(losses).sum()
        return loss, {"loss": loss.detach(), "all right": torch.stack(right).amin(0).mean()}

    train(run, options.steps or 300, options.minutes, loss_of)


def cached_scene(rank: int, index: int) -> tuple[Scene, np.random.Generator]:
    rng = np.random.default_rng((SEED, 9, rank, index))
    return sample_scene(rng), rng


def reframed(pixels: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, tuple[int, ...]]:
    """A picture as web pictures come, with geometry (original height, width, crop top, left, target height, width).

    Seven in ten are as rendered; the others come from a smaller original (blurred) or are a crop of an enlarged one.
    """
    kind = rng.choice(3, p=(0.7, 0.15, 0.15))
    picture = Image.fromarray(pixels)
    if kind == 1:
        side = int(rng.integers(24, 57))
        small = picture.resize((side, side), Image.Resampling.LANCZOS)
        return np.asarray(small.resize((SIDE, SIDE), Image.Resampling.BICUBIC)), (side, side, 0, 0, SIDE, SIDE)
    if kind == 2:
        side = int(rng.integers(SIDE + 4, SIDE + 25))
        top, left = (int(offset) for offset in rng.integers(0, side - SIDE + 1, 2))
        large = picture.resize((side, side), Image.Resampling.LANCZOS)
        cut = large.crop((left, top, left + SIDE, top + SIDE))
        return np.asarray(cut), (SIDE, SIDE, top, left, SIDE, SIDE)
    return pixels, (SIDE, SIDE, 0, 0, SIDE, SIDE)


@torch.no_grad()
def cached_latents(options: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """Posterior means of this process's own scenes [count, 4, 8, 8], and their geometry [count, 6]."""
    rank = world()[0]
    path = options.run / f"latents{'_xl' if options.family == 'sdxl' else ''}_{rank}.safetensors"
    if path.exists():
        state = load_state(path)
        return state["latents"], state["geometry"]
    vae = load_ema(options, "vae", "vae", build_vae())
    parts, geometry = [], []
    for start in range(0, options.scenes, 128):
        images = []
        for i in range(start, min(options.scenes, start + 128)):
            scene, rng = cached_scene(rank, i)
            image, frame = render_array(scene, rng), (SIDE, SIDE, 0, 0, SIDE, SIDE)
            if options.family == "sdxl":
                image, frame = reframed(image, rng)
            images.append(image)
            geometry.append(frame)
        x = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float().div(127.5).sub(1).to(device())
        with torch.autocast(device().type, torch.bfloat16):
            parts.append(vae.encode(x).latent_dist.mean.float())
    latents, frames = torch.cat(parts), torch.tensor(geometry, dtype=torch.float32)
    save_state(path, {"latents": latents, "geometry": frames})
    return latents, frames


def train_unet(options: argparse.Namespace) -> None:
    torch.manual_seed(SEED + 2)
    tokenizer = build_tokenizer(options.run / "tokenizer")
    texts = build_texts(tokenizer, options.family)
    for name, text in texts.items():
        load_ema(options, "text", name, text)
    unet = build_unet(options.family)
    width = next(iter(texts.values())).config.hidden_size
    roles = nn.ModuleDict({role: nn.Linear(width, len(WORDS[role[-1]]) + 1) for role in ROLES}).to(device())
    modules = nn.ModuleDict({"unet": unet, **texts, "heads": roles})
    path = checkpoint(options, "unet")
    run = Run(path, "unet", modules, Muon(list(modules.named_parameters()), 0.01, 1.5e-3), 0.998)
    latents, geometry = cached_latents(options)
    scale = json.loads(write_scale(options.run, latents).read_text())
    scenes = [cached_scene(world()[0], i)[0] for i in range(len(latents))]
    alphas = build_scheduler().alphas_cumprod.to(device())
    weights = FOCUS_WEIGHTS if options.focus else FAMILY_WEIGHTS
    log(f"unet: {len(latents)} latents per process, scaling factor {scale:.4f}")

    def errors(
        x_t: Tensor, t: Tensor, noise: Tensor, captions: list[str], frames: Tensor
    ) -> tuple[Tensor, Any, Tensor]:
        """Mean squared error of each prediction [B], what the text encoders made of the captions, and their ids."""
        with torch.autocast(device().type, torch.bfloat16, enabled=options.bf16):
            ids = tokens(tokenizer, captions)
            read = read_texts(modules, ids)
            states, pooled = conditioning(read)
            added = {}
            if pooled is not None:  # SDXL's null text is zeros
                said = torch.tensor([bool(caption) for caption in captions], device=device())[:, None]
                states, pooled = states * said[..., None], pooled * said
                added = {"text_embeds": pooled, "time_ids": frames}
            predicted = unet(x_t, t, states, added_cond_kwargs=added).sample
        return (predicted.float() - noise).square().mean((1, 2, 3)), read, ids

    def loss_of(step: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        chosen = rng.integers(len(latents), size=options.batch)
        true = [sample_caption(scenes[i], rng, weights=weights) or "" for i in chosen]
        captions = [careless(caption, rng, options.focus) for caption in true]
        captions = ["" if rng.random() < CAPTION_DROP else caption for caption in captions]
        rows = torch.from_numpy(chosen)
        x_0, frames = latents[rows].to(device()) * scale, geometry[rows].to(device())
        noise, t = torch.randn_like(x_0), torch.from_numpy(timesteps(rng, len(x_0), options.focus)).to(device())
        alpha = alphas[t].view(-1, 1, 1, 1)
        x_t = alpha.sqrt() * x_0 + (1 - alpha).sqrt() * noise
        error, read, ids = errors(x_t, t, noise, captions, frames)
        weight = (5 * (1 - alpha) / alpha).clamp(max=1).view(-1)  # min-SNR-5 for epsilon: min(snr, 5) / snr
        loss = (weight * error).mean()
        shown = {"loss": loss.detach(), "error": error.detach().mean()}
        if options.focus:
            of_roles = role_loss(roles, summaries(read, ids, tokenizer), captions)
            loss, shown["roles"] = loss + ROLE_WEIGHT * of_roles, of_roles.detach()
            stated = [i for i, caption in enumerate(captions) if caption == true[i] and has_reverse(caption)]
            if stated := stated[: len(captions) // 4]:
                wrong, *_ = errors(
                    x_t[stated], t[stated], noise[stated], [reverse(true[i]) for i in stated], frames[stated]
                )
                gap = wrong - error[stated]
                order = F.softplus(-gap / ORDER_SCALE).sum() / len(captions)
                loss = loss + ORDER_WEIGHT * ORDER_SCALE * order
                shown["gap"] = 1000 * gap.detach().mean()
        return loss, shown

    train(run, options.steps or 8000, options.minutes, loss_of)


def careless(caption: str, rng: np.random.Generator, focus: bool) -> str:
    """The caption, or what alt-text may make of it."""
    if not caption:
        return caption
    noise = EASY_NOISE if focus and family_of(caption) in EASY else CAPTION_NOISE
    return corrupt(caption, rng, "train") if rng.random() < noise else caption


def reverse(caption: str) -> str:
    """The caption with left for right, above for below, larger for smaller, and the other way round."""
    return re.sub(rf"\b({'|'.join(REVERSE)})\b", lambda match: REVERSE[match.group()], caption)


def has_reverse(caption: str) -> bool:
    """Whether the caption states an order whose reverse is of the training split as well."""
    other = reverse(caption)
    return other != caption and split_of(other) == "train"


def role_words(caption: str) -> dict[str, str]:
    """Who is left, right, above, below, larger or smaller by the caption, as colors and shapes; empty where none is.

    A causal text encoder reads the first thing before it reads where that thing is; only the text's end knows both.
    """
    try:
        slots = parse(caption).slots
    except ValueError:  # the documented answer to a careless caption that is none of Shapes
        return {}
    for axis, first in FIRST_ROLE.items():
        if axis in slots:
            order = ("1", "2") if slots[axis] == first else ("2", "1")
            return {f"{axis}{place}{kind}": slots[kind + i] for place, i in enumerate(order, 1) for kind in "cs"}
    return {}


def role_loss(heads: nn.ModuleDict, vectors: list[Tensor], captions: list[str]) -> Tensor:
    """Cross-entropy of the roles, read linearly from each encoder's summary of the text."""
    said = [role_words(caption) for caption in captions]
    losses = []
    for vector in vectors:
        for role in ROLES:
            words = WORDS[role[-1]]
            labels = torch.tensor([words.index(s[role]) + 1 if role in s else 0 for s in said], device=device())
            losses.append(F.cross_entropy(heads[role](vector.float()), labels))
    return torch.stack(losses).sum()


def timesteps(rng: np.random.Generator, count: int, focus: bool) -> np.ndarray:
    """Equally likely, or with a share of them where layout is decided. [count]"""
    low = np.where(focus & (rng.random(count) < LAYOUT_SHARE), LAYOUT_TIMESTEPS, 0)
    return rng.integers(low, 1000)


def write_scale(folder: Path, latents: Tensor) -> Path:
    """The scaling factor that gives latents a standard deviation of 1, the same in every process."""
    path = folder / "scaling_factor.json"
    if not path.exists() and world()[0] == 0:
        with atomic_write(path) as partial:
            partial.write_text(json.dumps(round(1 / float(latents.std()), 4)))
    if world()[1] > 1:
        dist.barrier()
    return path
