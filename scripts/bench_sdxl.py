"""Memory and speed of SDXL LoRA training on random weights, method by method: nothing is downloaded.

python scripts/bench_sdxl.py                          # a GPU: SDXL's architecture at 1024 px, within 12 minutes
python scripts/bench_sdxl.py --size 256               # a CPU: an embedded model
python scripts/bench_sdxl.py --size 256 --full-size   # a CPU: SDXL's architecture, minutes a row

Each row is a process of its own. Peak: torch's max_memory_allocated in a step on a GPU, the most resident memory of the
process, loading included, on a CPU. Images a second: those that steps learn from, two a pair; of online training those
that it makes, judges and learns from. Over passes: time over that of the same UNet and VAE passes and nothing else.
"""

# diffusers annotates modules as unions, and its own None defaults are not in its annotations:
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from bench_parts import machine, pairs_folder, run
from diffusers import AutoencoderKL, StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from t2ialign.shapes.caption import prompts

SMALL = "assets/shapes-sdxl"


class Row(NamedTuple):
    """A line of the table."""

    method: str
    precision: str = "bf16"
    checkpointing: bool = True
    compile: str = "none"
    base: str = "16 bits"

    @property
    def name(self) -> str:
        """For `--rows`."""
        parts = (self.method, self.precision, self.compile, self.base)
        words = [self.method, *(part for part in parts[1:] if part not in ("bf16", "none", "16 bits"))]
        return "-".join([*words, *([] if self.checkpointing else ["uncheckpointed"])])

    def cells(self) -> list[str]:
        base = "32 bits" if self.precision == "fp32" else self.base
        return [self.method, self.precision, "yes" if self.checkpointing else "no", self.compile, base]


HEAD = ["method", "passes", "checkpointing", "compile", "base", "peak GB", "images/s", "over passes"]
ROWS = [
    Row("dpo"),
    Row("dpo", checkpointing=False),
    Row("mapo"),
    Row("mapo", checkpointing=False),
    Row("smpo"),
    Row("nft"),
    Row("dpo", base="nf4"),
    Row("dpo", compile="blocks"),
    Row("nft", compile="blocks"),
    Row("dpo", precision="fp32"),
    Row("mapo", precision="fp32", checkpointing=False),
    Row("smpo", precision="fp32"),
    Row("nft", precision="fp32"),
]
"""The cheap ones first: what does not fit the time is left out at the end."""


def arguments(row: Row, options: argparse.Namespace, folder: Path) -> list[str]:
    """The recipe of a row at the size that is asked for, as `bench_row.py` takes it."""
    online, images = row.method == "nft", 2 * options.micro_batch
    changes = [
        f"backbone.pretrained={options.model}", "backbone.vae=", f"data.resolution={options.size}",
        f"data.path={folder / ('prompts.txt' if online else 'pairs/pairs.csv')}", f"run_dir={folder / row.name}",
        "train.steps=1000000", f"train.micro_batch={options.micro_batch}", f"train.precision={row.precision}",
        f"train.effective_batch={2 * images if online else options.micro_batch}", "checkpoint.every_steps=1000000",
        f"train.gradient_checkpointing={str(row.checkpointing).lower()}", "validate.prompts=",
    ]  # fmt: skip
    if online:
        changes += [
            "rewards=[sharpness]", "validate.rewards=[]", "validate.weights=policy", "validate.best=",
            "rollout.prompts=1", f"rollout.images={images}", "rollout.timesteps=2", "rollout.kept_groups=0",
        ]  # fmt: skip
    changes += [] if row.compile == "none" else [f"train.compile={row.compile}"]
    changes += [] if row.base != "nf4" else ["train.quantize=nf4"]
    return [f"configs/{row.method}_sdxl.yaml", str(images), *changes]


def full_sdxl(folder: Path) -> Path:
    """SDXL's own architecture with random weights in bfloat16, and the embedded model's words."""
    small = StableDiffusionXLPipeline.from_pretrained(SMALL)
    for tokenizer in (small.tokenizer, small.tokenizer_2):
        tokenizer.model_max_length = 77
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
            unet = UNet2DConditionModel(
                sample_size=128, block_out_channels=(320, 640, 1280), layers_per_block=2, cross_attention_dim=2048,
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
                transformer_layers_per_block=(1, 2, 10), attention_head_dim=(5, 10, 20), use_linear_projection=True,
                addition_embed_type="text_time", addition_time_embed_dim=256,
                projection_class_embeddings_input_dim=2816,
            )  # fmt: skip
            vae = AutoencoderKL(
                block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4, sample_size=1024,
                down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
                scaling_factor=0.13025,
            )  # fmt: skip
            text = CLIPTextModel(_words(small.tokenizer, 768, 12, 12))
            text_2 = CLIPTextModelWithProjection(_words(small.tokenizer_2, 1280, 32, 20))
    finally:
        torch.set_default_dtype(torch.float32)
    StableDiffusionXLPipeline(
        vae=vae, text_encoder=text, text_encoder_2=text_2, tokenizer=small.tokenizer, tokenizer_2=small.tokenizer_2,
        unet=unet, scheduler=small.scheduler, add_watermarker=False,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def _words(tokenizer: Any, width: int, layers: int, heads: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=4 * width, projection_dim=width,
        num_hidden_layers=layers, num_attention_heads=heads, max_position_embeddings=77,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip


def measure(row: Row, options: argparse.Namespace, folder: Path, seconds: float) -> list[str]:
    """The cells of a row, measured by a process of its own: figures, or why there are none."""
    command = [sys.executable, str(Path(__file__).with_name("bench_row.py")), *arguments(row, options, folder)]
    command += [f"--warmup={options.warmup}", f"--steps={options.steps}"]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return [f"not within {seconds:.0f} s"]
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    return ["killed, perhaps for want of memory" if done.returncode < 0 else f"failed with {done.returncode}"]


def report(options: argparse.Namespace, folder: Path) -> Iterator[str]:
    """The lines, as they are measured."""
    until = time.monotonic() + 60 * options.minutes
    if options.full_size:
        options.model = full_sdxl(folder / "model")
    torch.cuda.empty_cache()  # rows are other processes
    pairs_folder(folder / "pairs", 2 * options.micro_batch, side=options.size)
    (folder / "prompts.txt").write_text("\n".join(prompts("train", 4, 0)) + "\n")
    what = "SDXL's architecture with random weights" if options.full_size else options.model
    yield from machine()
    yield ""
    yield (
        f"{what}, LoRA of the recipe, {options.size} px, {options.micro_batch} pair(s) a step, medians of "
        f"{options.steps} step(s)"
    )
    yield line(HEAD)
    for row in options.rows:
        left = until - time.monotonic()
        found = measure(row, options, folder, left) if left > 0 else ["no time left"]
        yield line([*row.cells(), *found])


def line(cells: list[str]) -> str:
    """Cells below those of HEAD."""
    return "  ".join(f"{cell:<{len(head)}}" for cell, head in zip(cells, HEAD[: len(cells)], strict=True)).rstrip()


def main() -> None:
    names = {row.name: row for row in ROWS}
    on_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", choices=names, help="default: all; on a CPU those in fp32")
    parser.add_argument("--full-size", action="store_true", default=on_gpu, help="SDXL's architecture; always on a GPU")
    parser.add_argument("--model", default=SMALL, help="a diffusers folder of SDXL's kind, where not at full size")
    parser.add_argument("--size", type=int, default=1024 if on_gpu else 256, help="px")
    parser.add_argument("--micro-batch", type=int, default=1, help="pairs of a step; online half the images")
    parser.add_argument("--steps", type=int, default=5 if on_gpu else 3, help="that are timed")
    parser.add_argument("--warmup", type=int, default=2 if on_gpu else 1, help="steps before them")
    parser.add_argument("--minutes", type=float, default=12, help="of all rows together; the rest is not measured")
    parser.add_argument("--out", type=Path, help="a text file that gets the lines too")
    options = parser.parse_args()
    usual = [row.name for row in ROWS if on_gpu or row.precision == "fp32"]
    options.rows = [names[name] for name in options.rows or usual]
    run(report, options)


if __name__ == "__main__":
    main()
