"""The pairs that a demo trains on: its own, or those shipped with the package (a Parquet file and what made it)."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from t2ialign.demo.settings import Settings, image_job, pair_settings
from t2ialign.feedback.build import PAIRS, build_pairs
from t2ialign.feedback.pairing import Pairing
from t2ialign.generation.shards import ImageModel, make_images
from t2ialign.generation.worker import WorkerProcess
from t2ialign.rewards.registry import load_pointwise
from t2ialign.shapes.caption import prompts as shapes_prompts
from t2ialign.storage.atomic import atomic_write
from t2ialign.storage.resources import find_shipped

TABLE = "pairs.parquet"
ABOUT = "pairs.json"


class PairSet(NamedTuple):
    """Pairs to train on."""

    path: Path
    """What `data.path` names."""
    totals: dict[str, int]
    """images, prompts, pairs and the rest, as `PairingCounts` has them."""
    seed: int
    """That they were made with."""
    shipped: bool = False


def find_pairs(settings: Settings, model: Path) -> PairSet | None:
    """The pairs shipped with the package, where they are of this model and made as the settings say."""
    folder = find_shipped(f"assets/pairs/{model.name}")
    return None if folder is None else shipped_pairs(folder, model, pair_settings(settings))


def make_pairs(out: Path, settings: Settings, model: Path, worker: WorkerProcess | None, threads: int) -> PairSet:
    """Candidates of training prompts in `out/images`, scored, and pairs of them in `out`."""
    prompts = shapes_prompts("train", settings.pair_prompts, settings.seed)
    scale, images = settings.guidance_scale, settings.images_per_prompt
    job = image_job(settings, ImageModel(model), prompts, out / "images", scale, images)
    make_images([job], worker, threads)
    pairing = Pairing(settings.keep, settings.margin)
    rewards = load_pointwise([settings.reward], "the demo")
    built = build_pairs(out, rewards, pairing, images=job.out, seed=settings.seed)
    return PairSet(out, built.totals._asdict(), settings.seed)


def shipped_pairs(folder: Path, model: Path, settings: Mapping[str, Any]) -> PairSet | None:
    """The folder's pairs, or None where other weights or other settings made them."""
    if not (folder / ABOUT).is_file():
        return None
    about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    if about["weights"] != weights_digest(model) or about["settings"] != dict(settings):
        return None
    return PairSet(folder / TABLE, about["totals"], about["seed"], shipped=True)


def weights_digest(model: Path) -> str:
    """Changes with the weights of any part of a diffusers folder."""
    digest = hashlib.sha256()
    for path in sorted(model.glob("*/*.safetensors")):
        digest.update(f"{path.parent.name}/{path.name}".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def pack_pairs(built: PairSet, out: Path, model: Path, settings: Mapping[str, Any]) -> Path:
    """Writes the pairs of a folder that `build_pairs` made, images inside, into `out`; returns the Parquet file."""
    with (built.path / PAIRS).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    columns = {
        "prompt": [row["prompt"] for row in rows],
        **{view: [_packed(built.path / row[view]) for row in rows] for view in ("chosen", "rejected")},
        **{name: [float(row[name]) for row in rows] for name in ("score_chosen", "score_rejected", "margin")},
    }
    with atomic_write(out / TABLE) as partial:
        pq.write_table(pa.table(columns), partial, row_group_size=100)
    about = {
        "weights": weights_digest(model),
        "settings": dict(settings),
        "seed": built.seed,
        "totals": built.totals,
    }
    with atomic_write(out / ABOUT) as partial:
        partial.write_text(json.dumps(about, indent=1), encoding="utf-8")
    return out / TABLE


def _packed(path: Path) -> bytes:
    """The image in lossless WebP, a fifth smaller than the PNG."""
    packed = io.BytesIO()
    with Image.open(path) as image:
        image.save(packed, "WEBP", lossless=True, quality=100, method=6)
    return packed.getvalue()
