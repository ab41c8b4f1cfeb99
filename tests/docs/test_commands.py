"""Every command of the README and of the documentation pages works as written, on stand-ins for what a user has.

Commands that need a server, a launcher, released weights or large images are only parsed, as tests/docs/test_pages.py
does with all. The demo and the scripts that run for hours have tests of their own.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import forked
import pyarrow.parquet as pq
import pytest
import stub
from made_runs import prompt_set, write_csv, write_images
from rich.console import Console
from toys import pair_folder, write_config

from t2ialign.config.reader import load
from t2ialign.training.train import train

ROOT = Path(__file__).parents[2]
PARSED = (
    r"t2ialign demo|t2ialign reward serve|python scripts/(?:research|iterative)"
    r"|.*(?:127\.0\.0\.1|device=cuda|hf://|pickscore|data\.min_side=512)"
)
RUN = r"(?:[A-Z]+=\S+ )*(?:t2ialign|unigenbench|scripts/|python )"
"""How a command begins that is run."""
SHORT = "train.steps=1 train.effective_batch=2 train.micro_batch=2"
ONLINE = "train.steps=1 train.effective_batch=8 train.micro_batch=4 rollout.prompts=2 rollout.images=2"
ONLINE += " rollout.timesteps=2 rollout.inference_steps=2"
SDXL = "data.resolution=64 train.steps=2 train.precision=fp32 lora.rank=2 validate.inference_steps=2"
SHORTER = {
    r"train configs/shapes_nft\.yaml$": "rewards=[sharpness]",  # a random model satisfies no verifier
    r"train configs/shapes_nft": ONLINE,
    r"train configs/shapes_(?!nft)": SHORT,
    r"train configs/tdpo_sdxl": f"{SDXL} {SHORT}",
    r"scripts/train_sdxl_dpo.sh": f"{SDXL} train.effective_batch=2",
    r"scripts/train_sdxl_pref_grpo.sh": f"{SDXL} train.effective_batch=4 rollout.prompts=2 rollout.images=2 "
    "rollout.timesteps=2 rollout.inference_steps=4 validate.rewards=[sharpness]",
    r"(generate|data build) --model (MODEL|M|assets/shapes-sd) ": "--steps 1",
    r"generate --model (sdxl|stabilityai)": "--steps 1 --width 64 --height 64",
    r"--prompts (shapes|test_prompts_en.csv)": "--steps 1 --batch 64",
}
"""What a command holds -> what is added to it so that it ends within seconds."""
COMMIT = "0" * 40
"""Of every model in the hub's cache."""
LORAS = {
    "unigenbench-prompts.md": ("runs/mine",),
    "negative-guidance.md": ("runs/shapes_dpo",),
    "rewards.md": ("RUN",),
    "watching.md": ("runs/mine", "runs/other"),
}
"""Page -> the runs of a LoRA that it takes for granted."""
BENCH_RUNS = {
    "unigenbench-prompts.md": ("runs/judged",),
    "unigenbench-report.md": ("runs/base", "runs/aligned"),
}
"""Page -> the runs of a judge that it takes for granted."""


def commands(page: Path) -> list[str]:
    """The commands of a page's shell blocks, continued lines joined, comments removed."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    shell = "\n".join(block for language, block in blocks if language in ("", "bash"))
    lines = shell.replace("\\\n", " ").splitlines()
    found = [re.sub(r"\s+#.*", "", line).strip() for line in lines]
    return [line for line in found if re.match(RUN, line) and not re.match(PARSED, line)]


PAGES = [page for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))) if commands(page)]


def shortened(command: str) -> str:
    for pattern, addition in SHORTER.items():
        if re.search(pattern, command):
            command = f"{command} {addition}"
    return command.replace("2000, seed=1", "4, seed=1")


def put_into_hub_cache(folder: Path, name: str, model: Path) -> None:
    """Makes a folder the only revision of a hub model in a local cache."""
    cached = folder / "hub" / f"models--{name.replace('/', '--')}"
    (cached / "snapshots").mkdir(parents=True)
    (cached / "snapshots" / COMMIT).symlink_to(model)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(COMMIT)


@pytest.fixture
def here(tmp_path: Path, sd15_folder: Path, sdxl_folder: Path) -> Path:
    """A working folder with what the pages take for granted: models in a hub's cache, pairs, prompts, images."""
    for name in ("configs", "scripts", "docs"):
        (tmp_path / name).symlink_to(ROOT / name)
    for name in ("assets/shapes-sd", "M", "MODEL"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(sd15_folder)
    put_into_hub_cache(tmp_path, "stabilityai/stable-diffusion-xl-base-1.0", sdxl_folder)
    put_into_hub_cache(tmp_path, "madebyollin/sdxl-vae-fp16-fix", sdxl_folder / "vae")
    shipped = "assets/pairs/shapes-sd/pairs.parquet"
    (tmp_path / shipped).parent.mkdir(parents=True)
    pq.write_table(pq.read_table(ROOT / shipped).slice(0, 6), tmp_path / shipped)
    pair_folder(tmp_path / "my", 4)
    rows = [f"{row}_chosen.png,a dog left of {row + 2} cats" for row in range(4)]
    (tmp_path / "my" / "images.csv").write_text("image,prompt\n" + "\n".join(rows) + "\n")
    for name in ("my/prompts.txt", "prompts.txt", "assets/validation_prompts.txt"):
        (tmp_path / name).write_text("a red circle\na blue cat\n")
    (tmp_path / "my_reward.py").write_text("from t2ialign.rewards.pixels import brightness\n")
    write_csv(tmp_path / "test_prompts_en.csv", prompt_set(2, tmp_path, "test_prompts_en"))
    return tmp_path


def run(command: str, here: Path) -> str:
    """What a command prints."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "HF_HOME": str(here)}
    if re.match(r"(t2ialign|unigenbench|python) [^|><$&;*`]*$", command):
        done = forked.run(shlex.split(command), cwd=here, env=environment)
    else:
        done = subprocess.run(["bash", "-c", command], cwd=here, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def prepare(page: Path, here: Path) -> None:
    """Makes what is of this page alone: files that it shows, runs and images that it takes for granted."""
    for block in re.findall(r"```python\n(# (\w+\.py)\n.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        (here / block[1]).write_text(block[0])
    for name in LORAS.get(page.name, ()):
        pairs = here / "my" / "pairs.csv"
        config = write_config(here / "lora.yaml", model=here / "M", pairs=pairs, run_dir=here / name)
        train(load(config, ["train.steps=1"]), console=Console(quiet=True))
    if page.name == "rewards.md":
        run("t2ialign generate --model MODEL --prompts prompts.txt --steps 1 --out samples", here)
    if page.name in BENCH_RUNS:
        write_images(here / "out" / "given", 2)
        with stub.serve(lambda _: stub.scores([1, 0])) as server:
            for name in BENCH_RUNS[page.name]:
                given = "--data test_prompts_en.csv --images out/given --images-per-prompt 1"
                run(f"unigenbench judge {given} --run {name} --judge openai:m --base-url {server.url}", here)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_command_of_a_page_works_as_written(page: Path, here: Path):
    prepare(page, here)
    for command in commands(page):
        said = run(shortened(command), here)
        for tried in re.findall(r"^try it: (.*)$", said, re.MULTILINE):
            run(f"{tried} --steps 1 --width 64 --height 64", here)
    if page.name == "README.md":
        assert (here / "runs" / "mine" / "lora" / "pytorch_lora_weights.safetensors").is_file()
        assert (here / "out" / "0_0.png").is_file()
