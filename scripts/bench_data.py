"""What a large data set costs: memory and speed of the encoding pass, time to the first batch, speed of the loader.

python scripts/bench_data.py                      # 200,000 synthetic pairs in Parquet shards: minutes, 0.5 GB of disk
python scripts/bench_data.py --pairs 20000
"""

import argparse
import io
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from bench_parts import machine
from PIL import Image
from torch import Tensor

from t2ialign.data.base import Cache
from t2ialign.data.encoding.cache import encode
from t2ialign.data.encoding.dataset import Encoded
from t2ialign.data.kinds.pairs import PairData
from t2ialign.data.loading.loader import Batches, row_groups
from t2ialign.types import Conditioning, Posterior

SHARD_ROWS, GROUP_ROWS, PROMPTS, PICTURES, SIDE = 10_000, 100, 2_000, 64, 32
SETTLED = 2_000
"""Pairs after which memory must no longer grow."""
SDXL_PAIRS = 400 / 60
"""Pairs a second of SDXL at 1024 px that a card with 400 TFLOP/s could train at most: 2 images x 5 passes (reference,
forward, recomputed, twice backward) x 6 TFLOP."""


class StandIn:
    """Encoders that cost nothing, with latents of 4 x 4."""

    name, latent_channels, vae_factor, resolution, fingerprint = "stand-in", 4, 8, SIDE, "stand-in"

    def __init__(self, seen: Callable[[int], None] = lambda images: None) -> None:
        self.seen = seen

    def encode_images(self, pixels: Tensor) -> Posterior:
        self.seen(len(pixels))
        mean = torch.nn.functional.avg_pool2d(pixels, 8).mean(1, keepdim=True).expand(-1, 4, -1, -1)
        return Posterior(mean, torch.full_like(mean, 0.1))

    def encode_prompts(self, prompts: list[str]) -> Conditioning:
        return Conditioning(torch.zeros(len(prompts), 4, 8))

    def null(self) -> Conditioning:
        return self.encode_prompts([""])

    def geometry(self, *_: tuple[int, int]) -> None:
        return None


def write_pairs(folder: Path, pairs: int) -> Path:
    """Pairs in Pick-a-Pic's columns; a few pictures and prompts in turn."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    pictures = []
    for _ in range(PICTURES):
        file = io.BytesIO()
        small = random.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(small).resize((SIDE, SIDE), Image.Resampling.NEAREST).save(file, "PNG")
        pictures.append(file.getvalue())
    shards = -(-pairs // SHARD_ROWS)
    for shard in range(shards):
        rows = range(shard * SHARD_ROWS, min(pairs, (shard + 1) * SHARD_ROWS))
        table = {
            "caption": [f"prompt number {row % PROMPTS}" for row in rows],
            "jpg_0": [pictures[row % PICTURES] for row in rows],
            "jpg_1": [pictures[(row + 1) % PICTURES] for row in rows],
            "label_0": [float(row % 2) for row in rows],
            "label_1": [1.0 - row % 2 for row in rows],
            "model_0": ["some-model"] * len(rows),
            "image_0_url": [f"https://images.example/{row}/{'x' * 80}.png" for row in rows],
        }
        pq.write_table(
            pa.table(table), folder / f"train-{shard:05d}-of-{shards:05d}.parquet", row_group_size=GROUP_ROWS
        )
    return folder


def resident() -> float:
    """Resident memory of this process, in MiB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


def encode_pairs(data: Path, cache: Path, seen: Callable[[int], None] = lambda images: None) -> Encoded:
    """Opens and encodes the data set; `seen` is told of every batch of images."""
    backbone: Any = StandIn(seen)
    source = PairData.model_validate({"path": data}).open()
    return encode(source, backbone, resolution=SIDE, folder=cache, device=torch.device("cpu"), batch=64)


def memory_of_encoding(data: Path, cache: Path) -> tuple[float, float, float]:
    """(memory after SETTLED pairs, the most after that, seconds), in MiB."""
    images, samples, begin = 0, [], time.perf_counter()

    def seen(count: int) -> None:
        nonlocal images
        images += count
        if images >= 2 * SETTLED:
            samples.append(resident())

    encode_pairs(data, cache, seen)
    return samples[0], max(samples), time.perf_counter() - begin


def pairs_a_second(batches: Batches, count: int) -> float:
    """Speed of a loader, its first batch not counted."""
    stream = iter(batches)
    next(stream)
    begin = time.perf_counter()
    for _ in range(count):
        next(stream)
    return count * 4 / (time.perf_counter() - begin)


def train_phase(data: Path, cache: Path, batches: int = 500) -> None:
    """What a run on a data set that is encoded waits for, and how fast it gets its batches."""
    begin, computed = time.perf_counter(), time.process_time()
    encoded = encode_pairs(data, cache)
    next(iter(Batches(encoded, seed=0, micro_batch=4)))
    seconds, computed = time.perf_counter() - begin, time.process_time() - computed
    print(f"first batch after {seconds:.1f} s ({computed:.1f} s of computing), {resident():.0f} MiB resident")
    cached = pairs_a_second(Batches(encoded, seed=0, micro_batch=4), batches)
    print(f"loader with a cache, no workers: {cached:.0f} pairs/s, {cached / SDXL_PAIRS:.0f} x SDXL on a fast card")
    backbone: Any = StandIn()
    nothing = Cache(latents=False, text=False)
    source = PairData.model_validate({"path": data}).open()
    encoded = encode(source, backbone, resolution=SIDE, folder=cache, device=torch.device("cpu"), cache=nothing)
    groups = row_groups(source)
    speed = pairs_a_second(Batches(encoded, seed=0, micro_batch=4, row_groups=groups), batches)
    print(f"loader without a cache, shuffled by groups, images of {SIDE} px: {speed:.0f} pairs/s")
    speed = pairs_a_second(Batches(encoded, seed=0, micro_batch=4), max(1, batches // 10))
    print(f"loader without a cache, shuffled by rows, row groups of {GROUP_ROWS}: {speed:.0f} pairs/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=200_000)
    parser.add_argument("--encoded", type=Path, nargs=2, metavar=("DATA", "CACHE"), help="only train on these")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.encoded:
        train_phase(*options.encoded)
        return
    print(*machine(), sep="\n")
    with tempfile.TemporaryDirectory() as folder:
        data, cache = write_pairs(Path(folder) / "pairs", options.pairs), Path(folder) / "cache"
        settled, most, seconds = memory_of_encoding(data, cache)
        print(f"encoding {options.pairs:,} pairs: {seconds:.0f} s, {options.pairs / seconds:.0f} pairs/s")
        growth = most / settled - 1
        print(f"memory: {settled:.0f} MiB after {SETTLED:,} pairs, then at most {most:.0f} MiB ({growth:+.1%})")
        sys.stdout.flush()
        subprocess.run([sys.executable, __file__, "--encoded", str(data), str(cache)], check=True)


if __name__ == "__main__":
    main()
