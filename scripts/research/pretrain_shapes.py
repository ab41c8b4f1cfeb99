"""Pre-trains assets/shapes-sd and assets/shapes-sdxl from scratch. Kill it at any moment, run it again.

python scripts/research/pretrain_shapes.py vae --processes 2      # then: text, unet, export, evaluate
python scripts/research/pretrain_shapes.py text --family sdxl     # the VAE is shared; then: unet, export, evaluate
"""

# diffusers annotates tuples as tuple[str] and modules as unions:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false

import argparse
import json
import math
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiffusionPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.models.attention_processor import AttnProcessor
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from t2ialign.shapes.caption import corrupt, family_of, parse, prompts, split_of
from t2ialign.shapes.data import CAPTION_NOISE, FAMILY_WEIGHTS, FOCUS_WEIGHTS, sample_caption
from t2ialign.shapes.families import FAMILIES, WORDS
from t2ialign.shapes.render import render_array
from t2ialign.shapes.scene import Scene, sample_scene
from t2ialign.shapes.verify import verify

SEED = 20
TEXT_LR = 4e-4
MAX_LENGTH = 24
CAPTION_DROP = 0.1
STAGES = ("vae", "text", "unet")
FAMILIES_OF_MODELS = ("sd", "sdxl")
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
M = TypeVar("M", bound=nn.Module)
LossOf = Callable[[int, np.random.Generator], tuple[Tensor, dict[str, Tensor]]]


# Distribution: one process, or several single-thread gloo processes; gradients are averaged by hand.


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def world() -> tuple[int, int]:
    """(rank, number of processes)."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def sum_over_ranks(tensors: Iterable[Tensor]) -> None:
    """Replaces every tensor by its sum over the processes, in one message."""
    tensors = list(tensors)
    if world()[1] == 1 or not tensors:
        return
    flat = torch.cat([tensor.reshape(-1).float() for tensor in tensors])
    dist.all_reduce(flat)
    for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))


class Muon:
    """Muon (Jordan et al. 2024) for matrices and convolutions, AdamW for everything else; lr is set at every step.

    The orthogonalisations are shared out over the processes.
    """

    def __init__(self, named: list[tuple[str, nn.Parameter]], muon_lr: float, adam_lr: float) -> None:
        ends = ("conv_in", "conv_out", "embedding", "quant_conv", "text.", "text_2.", "heads.")
        self.matrices = [p for name, p in named if p.ndim >= 2 and not any(end in name for end in ends)]
        others = [p for name, p in named if not any(p is matrix for matrix in self.matrices)]
        texts = [p for name, p in named if name.startswith(("text.", "text_2."))]
        self.muon_lr = muon_lr
        self.momentum = [torch.zeros_like(p) for p in self.matrices]
        groups = [
            {"params": [p for p in others if not any(p is text for text in texts)], "base": adam_lr},
            {"params": texts, "base": TEXT_LR},
        ]
        groups = [group for group in groups if group["params"]]
        self.adam = torch.optim.AdamW(groups, lr=adam_lr, betas=(0.9, 0.98), weight_decay=0.0)
        self.parameters = [p for _, p in named]

    @torch.no_grad()
    def step(self, scale: float) -> None:
        """One update with both learning rates times `scale`; gradients are averaged first and cleared at the end."""
        rank, processes = world()
        for parameter in self.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        sum_over_ranks(p.grad for p in self.parameters if p.grad is not None)
        for parameter in self.parameters:
            if parameter.grad is not None:
                parameter.grad /= processes
        updates = []
        for i, (parameter, momentum) in enumerate(zip(self.matrices, self.momentum, strict=True)):
            assert parameter.grad is not None
            momentum.lerp_(parameter.grad, 0.05)
            if i % processes == rank:
                update = orthogonal(torch.lerp(parameter.grad, momentum, 0.95).flatten(1))
                updates.append(update.view_as(parameter))
            else:
                updates.append(torch.zeros_like(parameter))
        sum_over_ranks(updates)
        for parameter, update in zip(self.matrices, updates, strict=True):
            rows, columns = update.flatten(1).shape
            parameter.mul_(1 - 0.01 * self.muon_lr * scale)
            parameter.add_(update, alpha=-self.muon_lr * scale * max(1.0, rows / columns) ** 0.5)
        for group in self.adam.param_groups:
            group["lr"] = group["base"] * scale
        self.adam.step()
        for parameter in self.parameters:
            parameter.grad = None

    def state_dict(self) -> dict[str, object]:
        return {"momentum": self.momentum, "adam": self.adam.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        for mine, saved in zip(self.momentum, state["momentum"], strict=True):
            mine.copy_(saved)
        self.adam.load_state_dict(state["adam"])


def orthogonal(matrix: Tensor) -> Tensor:
    """The nearest semi-orthogonal matrix, by five quintic Newton-Schulz steps in bfloat16. [R, C]"""
    wide = matrix.shape[0] <= matrix.shape[1]
    x = matrix if wide else matrix.T
    x = (x / (x.norm() + 1e-7)).bfloat16()
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return (x if wide else x.T).to(matrix.dtype)


def schedule(step: int, progress: float, warmup: int = 30, cooldown: float = 0.3) -> float:
    """Warm-up, constant, then linear to zero over the last `cooldown` of the run; progress is in [0, 1]."""
    return min(1.0, (step + 1) / warmup, max(0.02, (1 - progress) / cooldown))


def progress_of(run: "Run", steps: int, minutes: float) -> float:
    """Share of the stage that is done, by steps or by training time, whichever is further; agreed by all processes."""
    done = torch.tensor(max(run.step / steps, run.seconds / (60 * minutes) if minutes else 0.0))
    if world()[1] > 1:
        dist.broadcast(done, 0)
    return min(1.0, float(done))


def checkpoint(options: argparse.Namespace, stage: str) -> Path:
    """Where a stage is kept; both families share the VAE."""
    return options.run / f"{stage}{'_xl' if options.family == 'sdxl' and stage != 'vae' else ''}.pt"


class Run:
    """One stage's loop state: models, optimizer, EMA, step; written to a temporary name and renamed."""

    def __init__(self, path: Path, stage: str, modules: nn.ModuleDict, optimizer: Muon, ema_decay: float) -> None:
        self.path, self.modules, self.optimizer = path, modules, optimizer
        self.stage, self.ema_decay = stage, ema_decay
        self.step, self.seconds = 0, 0.0
        self.ema = {name: p.detach().clone() for name, p in modules.named_parameters()}
        if self.path.exists():
            state = torch.load(self.path, map_location=device(), weights_only=True)
            modules.load_state_dict(state["modules"])
            optimizer.load_state_dict(state["optimizer"])
            self.step, self.seconds, self.ema = state["step"], state["seconds"], state["ema"]
            log(f"{stage}: resumed at step {self.step} after {self.seconds / 60:.1f} min")

    @torch.no_grad()
    def advance(self, scale: float) -> None:
        self.optimizer.step(scale)
        self.step += 1
        decay = min(self.ema_decay, (1 + self.step) / (10 + self.step))
        for name, parameter in self.modules.named_parameters():
            self.ema[name].lerp_(parameter, 1 - decay)

    def save(self) -> None:
        if world()[0] == 0:
            state = {"modules": self.modules.state_dict(), "optimizer": self.optimizer.state_dict()}
            write(self.path, {**state, "step": self.step, "seconds": self.seconds, "ema": self.ema})


def write(path: Path, state: object) -> None:
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    os.replace(temporary, path)


def log(line: str) -> None:
    if world()[0] == 0:
        print(time.strftime("%H:%M:%S", time.gmtime()), line, flush=True)


def generator(stage: str, step: int) -> np.random.Generator:
    """The randomness of one step of one process; the same after a resume."""
    return np.random.default_rng((SEED, STAGES.index(stage), step, world()[0]))


def train(run: Run, steps: int, minutes: float, loss_of: LossOf, save_seconds: float = 60.0) -> None:
    """Runs `loss_of(step, rng) -> (loss, metrics)` until `steps` or `minutes` (0: no limit), logging and saving."""
    totals: dict[str, float] = {}
    began = saved = time.time()
    resumed, resumed_at, last = run.seconds, began, run.step
    while (progress := progress_of(run, steps, minutes)) < 1:
        rng = generator(run.stage, run.step)
        torch.manual_seed(int(rng.integers(2**62)))
        loss, metrics = loss_of(run.step, rng)
        if not math.isfinite(float(loss.detach())):
            raise FloatingPointError(
                f"{run.stage}: loss is {float(loss.detach())} at step {run.step}; lower the learning rate"
            )
        loss.backward()
        run.advance(schedule(run.step, progress))
        run.seconds = resumed + time.time() - resumed_at
        for name, value in metrics.items():
            totals[name] = totals.get(name, 0.0) + float(value)
        if (run.step < 50 and run.step % 10 == 0) or run.step % 50 == 0 or run.step == steps:
            n = run.step - last
            pace = (time.time() - began) / max(1, run.step - last) if n else 0.0
            left = min((steps - run.step) * pace, 60 * minutes - run.seconds if minutes else math.inf)
            shown = " ".join(f"{name} {value / max(1, n):.5f}" for name, value in totals.items())
            log(f"{run.stage} {run.step}/{steps} {shown} {pace:.3f} s/step ETA {left / 60:.1f} min")
            totals, last, began = {}, run.step, time.time()
        if time.time() - saved > save_seconds:
            run.save()
            saved = time.time()
    run.save()


# VAE


def build_vae() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 64, 96),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=64,
        mid_block_add_attention=False,
    )


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


# Tokenizer and text encoder


def build_tokenizer(folder: Path) -> CLIPTokenizer:
    """CLIP's byte-pair encoding, learnt from captions; every word of the world is one token."""
    vocab, merges = folder / "vocab.json", folder / "merges.txt"
    if not vocab.exists():
        folder.mkdir(parents=True, exist_ok=True)
        letters = sorted(pre_tokenizers.ByteLevel.alphabet())
        bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
        bpe.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
        texts = [
            " ".join(wording.replace("{", "").replace("}", "") for f in FAMILIES.values() for wording in f.wordings)
        ]
        words = re.findall("[a-z]+", texts[0]) + [word for words in WORDS.values() for word in words] + ["an", "shape"]
        bpe.train_from_iterator(
            sorted(set(" ".join(words).split())) * 2,
            trainers.BpeTrainer(vocab_size=2000, min_frequency=1, end_of_word_suffix="</w>", show_progress=False),
        )
        learnt = json.loads(bpe.to_str())["model"]["merges"]
        pairs = [pair if isinstance(pair, list) else pair.split(" ") for pair in learnt]
        tokens = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair) for pair in pairs)]
        tokens = [*dict.fromkeys(tokens), "<|startoftext|>", "<|endoftext|>"]
        merges.write_text("#version: 0.2\n" + "".join(f"{left} {right}\n" for left, right in pairs))
        vocab.write_text(json.dumps({token: i for i, token in enumerate(tokens)}, ensure_ascii=False))
    entries = json.loads(vocab.read_text())
    pairs = [tuple(line.split(" ")) for line in merges.read_text().splitlines()[1:]]
    return CLIPTokenizer(vocab=entries, merges=pairs, model_max_length=MAX_LENGTH, pad_token="<|endoftext|>")


def build_texts(tokenizer: CLIPTokenizer, family: str) -> dict[str, nn.Module]:
    """The text encoders by name: "text", and for SDXL also "text_2", whose projection is the pooled embedding."""
    width = 128 if family == "sd" else 96
    config = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=3 * width, projection_dim=width,
        num_hidden_layers=3, num_attention_heads=4, max_position_embeddings=MAX_LENGTH, hidden_act="quick_gelu",
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        attn_implementation="eager",
    )  # fmt: skip
    if family == "sd":
        return {"text": CLIPTextModel(config).to(device())}
    return {"text": CLIPTextModel(config).to(device()), "text_2": CLIPTextModelWithProjection(config).to(device())}


def read_texts(modules: nn.ModuleDict, ids: Tensor) -> list[Any]:
    """What each text encoder makes of the texts."""
    return [modules[name](ids, output_hidden_states=True) for name in ("text", "text_2") if name in modules]


def conditioning(read: list[Any]) -> tuple[Tensor, Tensor | None]:
    """What the UNet gets of a text, as in diffusers: states [B, L, D] and, for SDXL, pooled [B, P]."""
    if len(read) == 1:
        return read[0].last_hidden_state, None
    return torch.cat([output.hidden_states[-2] for output in read], dim=-1), read[1].text_embeds


def summaries(read: list[Any], ids: Tensor, tokenizer: CLIPTokenizer) -> list[Tensor]:
    """One vector a text from each encoder, for the parse prediction: of what the UNet will get. [B, D] each"""
    if len(read) == 1:
        return [read[0].pooler_output]
    ends = (ids == tokenizer.eos_token_id).int().argmax(1)
    return [read[0].hidden_states[-2][torch.arange(len(ids)), ends], read[1].text_embeds]


def tokens(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    found = tokenizer(captions, padding="max_length", truncation=True, max_length=MAX_LENGTH, return_tensors="pt")
    return found.input_ids.to(device())


SLOTS = sorted({name for f in FAMILIES.values() for w in f.wordings for name in re.findall(r"\{(\w+)\}", w)})


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


# UNet


def build_unet(family: str) -> UNet2DConditionModel:
    """SD1.5's or SDXL's architecture, small: two levels of 8 x 8 and 4 x 4 latents, cross-attention at both."""
    of_family = {
        "sd": {"block_out_channels": (64, 128), "cross_attention_dim": 128, "norm_num_groups": 16},
        "sdxl": {
            "block_out_channels": (48, 96), "cross_attention_dim": 192, "norm_num_groups": 16,
            "use_linear_projection": True, "addition_embed_type": "text_time", "addition_time_embed_dim": 16,
            "projection_class_embeddings_input_dim": 6 * 16 + 96,
        },
    }  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=8,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        attention_head_dim=(2, 4),
        **of_family[family],
    )
    unet.set_attn_processor(AttnProcessor())  # faster than SDPA on a CPU at 8 x 8
    return unet.to(device())


def build_scheduler() -> DDIMScheduler:
    return DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False,
        steps_offset=1,
    )  # fmt: skip


def load_ema(options: argparse.Namespace, stage: str, name: str, module: M) -> M:
    """The averaged weights of one module of a finished or running stage."""
    state = torch.load(checkpoint(options, stage), map_location=device(), weights_only=True)["ema"]
    own = {key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")}
    module.load_state_dict(own, strict=False)
    return module.to(device())


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
    path = options.run / f"latents{'_xl' if options.family == 'sdxl' else ''}_{rank}.pt"
    if path.exists():
        state = torch.load(path, weights_only=True)
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
    write(path, {"latents": latents, "geometry": frames})
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
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(round(1 / float(latents.std()), 4)))
        os.replace(temporary, path)
    if world()[1] > 1:
        dist.barrier()
    return path


# Export and evaluation


def pipeline_of(options: argparse.Namespace) -> DiffusionPipeline:
    """The averaged weights of the finished stages as a diffusers pipeline."""
    tokenizer = build_tokenizer(options.run / "tokenizer")
    vae = load_ema(options, "vae", "vae", build_vae())
    vae.register_to_config(scaling_factor=json.loads((options.run / "scaling_factor.json").read_text()))
    unet = load_ema(options, "unet", "unet", build_unet(options.family))
    texts = {
        name: load_ema(options, "unet", name, text) for name, text in build_texts(tokenizer, options.family).items()
    }
    shared = {"vae": vae, "tokenizer": tokenizer, "unet": unet, "scheduler": build_scheduler()}
    if options.family == "sd":
        return StableDiffusionPipeline(
            **shared, text_encoder=texts["text"], safety_checker=None, feature_extractor=None,
            requires_safety_checker=False,
        )  # fmt: skip
    vae.register_to_config(force_upcast=False)
    return StableDiffusionXLPipeline(
        **shared, text_encoder=texts["text"], text_encoder_2=texts["text_2"], tokenizer_2=tokenizer,
        add_watermarker=False,
    )  # fmt: skip


def export(options: argparse.Namespace) -> None:
    """Writes the averaged weights as a fp16 diffusers folder, under a temporary name first."""
    pipeline = pipeline_of(options).to(dtype=torch.float16)
    target: Path = options.assets
    temporary = target.with_name(f".{target.name}.new")
    shutil.rmtree(temporary, ignore_errors=True)
    pipeline.save_pretrained(temporary)
    for folder in temporary.glob("tokenizer*"):
        for name in ("vocab.json", "merges.txt"):  # for releases of transformers that do not read tokenizer.json
            shutil.copy(options.run / "tokenizer" / name, folder / name)
    if options.family == "sdxl":
        share_vae(temporary, target.parent / "shapes-sd")
    if (target / "README.md").exists():
        shutil.copy(target / "README.md", temporary / "README.md")
    old = target.with_name(f".{target.name}.old")
    if target.exists():
        os.replace(target, old)
    os.replace(temporary, target)
    shutil.rmtree(old, ignore_errors=True)
    stages = {stage: torch.load(checkpoint(options, stage), weights_only=True) for stage in STAGES}
    times = ", ".join(f"{stage} {s['step']} steps in {s['seconds'] / 60:.1f} min" for stage, s in stages.items())
    log(f"exported {target}: {sum(f.stat().st_size for f in target.rglob('*')) / 1e6:.1f} MB; {times}")


def share_vae(folder: Path, other: Path) -> None:
    """Puts a link to the same VAE weights of the other folder in the place of a copy.

    Raises:
        ValueError: the other folder's VAE is another one.
    """
    name = "vae/diffusion_pytorch_model.safetensors"
    if (folder / name).read_bytes() != (other / name).read_bytes():
        raise ValueError(f"{other / name}: not the VAE of this run; export the sd family first")
    (folder / name).unlink()
    (folder / name).symlink_to(Path("../..") / other.name / name)


def evaluate(options: argparse.Namespace) -> None:
    """Prints the share of held-out prompts that are fully right, per family and guidance scale."""
    pipeline = DiffusionPipeline.from_pretrained(options.assets, torch_dtype=torch.float32).to(device())
    pipeline.unet.set_attn_processor(AttnProcessor())
    pipeline.set_progress_bar_config(disable=True)
    asked = prompts(options.split, options.prompts, seed=0)
    table: dict[str, dict[float, list[bool]]] = {}
    shares: dict[float, list[float]] = {}
    unreadable: dict[float, int] = {}
    for guidance in options.guidance:
        draws = torch.Generator("cpu").manual_seed(options.seed)
        for start in range(0, len(asked), 64):
            batch = asked[start : start + 64]
            images = pipeline(batch, num_inference_steps=20, guidance_scale=guidance, generator=draws).images
            for prompt, image in zip(batch, images, strict=True):
                verdicts = verify(prompt, image)
                for row in (family_of(prompt), "all"):
                    table.setdefault(row, {}).setdefault(guidance, []).append(verdicts.all_right)
                for verdict in verdicts.verdicts:
                    row = verdict.criterion
                    table.setdefault(row, {}).setdefault(guidance, []).append(verdict.right)
                shares.setdefault(guidance, []).append(verdicts.share)
                unreadable[guidance] = unreadable.get(guidance, 0) + (not isinstance(verdicts.seen, Scene))
    print(f"| {len(asked)} {options.split} prompts | n |" + "".join(f" g={g:g} |" for g in options.guidance))
    print("|---|---|" + "---|" * len(options.guidance))
    for row, cells in sorted(table.items(), key=lambda item: (item[0] != "all", item[0][0].isupper(), item[0])):
        n = len(next(iter(cells.values())))
        print(f"| {row} | {n} |" + "".join(f" {np.mean(right):.3f} |" for right in cells.values()))
    print(f"| unreadable | {len(asked)} |" + "".join(f" {count / len(asked):.3f} |" for count in unreadable.values()))
    print(f"| share of constraints | {len(asked)} |" + "".join(f" {np.mean(s):.3f} |" for s in shares.values()))


# Command line


def worker(rank: int, options: argparse.Namespace, store: str) -> None:
    torch.set_num_threads(options.threads)
    if options.processes > 1:
        dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=options.processes)
    commands = {"vae": train_vae, "text": train_text, "unet": train_unet, "export": export, "evaluate": evaluate}
    commands[options.stage](options)
    if options.processes > 1:
        dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=(*STAGES, "export", "evaluate"))
    parser.add_argument("--family", choices=FAMILIES_OF_MODELS, default="sd", help="which architecture")
    parser.add_argument("--run", type=Path, default=Path("runs/pretrain"), help="checkpoints and caches")
    parser.add_argument("--steps", type=int, default=0, help="total steps of the stage; 0 is the stage's default")
    parser.add_argument("--minutes", type=float, default=0.0, help="end the stage after this time; 0: no limit")
    parser.add_argument("--batch", type=int, default=32, help="pictures per process and step")
    parser.add_argument("--processes", type=int, default=1, help="gloo processes")
    parser.add_argument("--threads", type=int, default=1, help="threads of each process")
    parser.add_argument("--scenes", type=int, default=24000, help="cached scenes of each process")
    parser.add_argument("--focus", action="store_true", help="unet: relations and layout more often than the rest")
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=True, help="UNet in bfloat16")
    parser.add_argument("--assets", type=Path, help="what export writes; assets/shapes-FAMILY if not said")
    parser.add_argument("--split", default="test", help="evaluate: train, validation or test prompts")
    parser.add_argument("--prompts", type=int, default=480, help="evaluate: how many")
    parser.add_argument("--guidance", type=float, nargs="+", default=[1.0, 3.0, 5.0], help="evaluate: scales")
    parser.add_argument("--seed", type=int, default=0, help="evaluate: of the initial noise")
    options = parser.parse_args()
    options.assets = options.assets or Path(f"assets/shapes-{options.family}")
    options.run.mkdir(parents=True, exist_ok=True)
    if options.processes == 1:
        worker(0, options, "")
    else:
        store = tempfile.mktemp(prefix="store")
        mp.start_processes(worker, (options, store), nprocs=options.processes, start_method="spawn")


if __name__ == "__main__":
    main()
