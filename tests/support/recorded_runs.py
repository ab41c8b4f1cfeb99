"""What the shipped recipes compute, written down once: 3 steps of six of them, and 16 images of each embedded model.

    python tests/support/recorded_runs.py write FOLDER     # runs everything and writes what came out
    python tests/support/recorded_runs.py compare FOLDER   # runs everything again; exits 1 where a bit differs

A change of the code's structure must leave every number as it is, on the same machine at one thread. Inputs are made
here or shipped, and only the command line is used, so that the script outlives what it checks.
"""

from __future__ import annotations

import csv
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent.parent
STEPS = 3
EXAMPLES = 16
"""Of a step."""
SKIPPED = {"seconds", "step", "samples_seen"}
"""Metrics that say when or where, not what."""
PROMPTS = [
    f"{article} {color} {shape}"
    for article in ("a", "a large")
    for color in ("red", "blue")
    for shape in ("circle", "square", "triangle", "diamond")
]
MODELS = ("shapes-sd", "shapes-sdxl")
RECIPES: dict[str, tuple[str, ...]] = {
    "shapes_dpo": ("data.path={data}/pairs.csv",),
    "shapes_kto": ("data.path={data}/pairs.csv",),
    "shapes_mapo": ("data.path={data}/pairs.csv",),
    "shapes_lpo": ("data.path={data}/lists.csv",),
    "shapes_tdpo": ("data.path={data}/texts.csv",),
    "full": ("data.path={data}/pairs.csv", "lora=null", "optim.lr=1e-5"),
}
"""Recipe -> what is overridden; `full` is shapes_dpo without a LoRA."""


def make_data(folder: Path) -> None:
    """Lists of four ranked images, pairs of images, and pairs of prompts of one image, of coarse random colours."""
    folder.mkdir(parents=True)
    draw = random.Random(0)
    lists, pairs, texts = [], [], []
    for row in range(24):
        prompt, other = draw.sample(PROMPTS, 2)
        for view in range(4):
            name = f"{row}_{view}.png"
            coarse = Image.new("RGB", (4, 4))
            coarse.putdata([tuple(draw.randrange(256) for _ in range(3)) for _ in range(16)])
            coarse.resize((64, 64), Image.Resampling.BILINEAR).save(folder / name)
            lists.append((name, f"{prompt} {row}", draw.random()))
        pairs.append((prompt, f"{row}_0.png", f"{row}_1.png"))
        texts.append((f"{row}_0.png", prompt, other))
    for name, columns, rows in (
        ("lists.csv", ("image", "prompt", "score"), lists),
        ("pairs.csv", ("prompt", "chosen", "rejected"), pairs),
        ("texts.csv", ("image", "prompt", "mismatched"), texts),
    ):
        with (folder / name).open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerows([columns, *rows])


def run(*arguments: str) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "t2ialign", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"t2ialign {' '.join(arguments)}: exit {done.returncode}\n{done.stderr}")


def train(recipe: str, work: Path) -> list[dict[str, float]]:
    """The metrics of each step."""
    config = "shapes_dpo" if recipe == "full" else recipe
    overrides = [text.format(data=work / "data") for text in RECIPES[recipe]]
    run_dir = work / recipe
    run(
        "train",
        f"configs/{config}.yaml",
        f"run_dir={run_dir}",
        f"train.steps={STEPS}",
        f"train.effective_batch={EXAMPLES}",
        "train.micro_batch=8",
        *overrides,
    )
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in SKIPPED} for row in rows]


def generate(model: str, work: Path) -> Image.Image:
    """A sheet of 16 images, 4 in a row."""
    prompts, out = work / "prompts.txt", work / model
    prompts.write_text("\n".join(PROMPTS) + "\n")
    run("generate", "--model", f"assets/{model}", "--prompts", str(prompts), "--guidance", "1.5", "--steps", "10",
        "--out", str(out))  # fmt: skip
    sheet = Image.new("RGB", (4 * 64, 4 * 64))
    for index in range(16):
        sheet.paste(Image.open(out / f"{index}_0.png"), (index % 4 * 64, index // 4 * 64))
    return sheet


def record(folder: Path, work: Path) -> None:
    """Runs everything, two at a time, and writes `metrics.json` and a sheet a model into `folder`."""
    make_data(work / "data")
    with ThreadPoolExecutor(2) as pool:
        metrics = dict(zip(RECIPES, pool.map(lambda recipe: train(recipe, work), RECIPES), strict=True))
        sheets = dict(zip(MODELS, pool.map(lambda model: generate(model, work), MODELS), strict=True))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=0))
    for model, sheet in sheets.items():
        sheet.save(folder / f"{model}.png")


def differences(before: Path, after: Path, tolerance: float = 0.0) -> Iterator[str]:
    """Each number and picture of `after` that is not as `before` has it, in a line."""
    old, new = (json.loads((folder / "metrics.json").read_text()) for folder in (before, after))
    for recipe in sorted({*old, *new}):
        for step, (was, now) in enumerate(zip(old.get(recipe, []), new.get(recipe, []), strict=True), 1):
            if was.keys() != now.keys():
                yield f"{recipe}, step {step}: metrics {sorted(was.keys() ^ now.keys())}"
            for key in was.keys() & now.keys():
                allowed = tolerance * max(abs(was[key]), 1)
                if tolerance and step > 1:  # weights differ too; a pair whose margin is 0 but for that may count or not
                    allowed = 1 / EXAMPLES if key == "implicit_accuracy" else 3 * allowed
                if not abs(was[key] - now[key]) <= allowed:
                    yield f"{recipe}, step {step}: {key} was {was[key]!r}, is {now[key]!r}"
    for model in MODELS:
        was, now = (Image.open(folder / f"{model}.png").tobytes() for folder in (before, after))
        changed = sum(abs(a - b) > (1 if tolerance else 0) for a, b in zip(was, now, strict=True))
        if changed:
            yield f"{model}: {changed} of {len(was)} pixel values differ"


def main() -> int:
    if len(sys.argv) != 3 or sys.argv[1] not in ("write", "compare"):
        print(__doc__, file=sys.stderr)
        return 2
    folder = Path(sys.argv[2])
    with tempfile.TemporaryDirectory() as work:
        if sys.argv[1] == "write":
            record(folder, Path(work))
            return 0
        record(Path(work) / "now", Path(work))
        found = list(differences(folder, Path(work) / "now"))
    print("\n".join(found) or "every number and every pixel is equal")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
