"""The README's commands, run as written: stand-ins lie where the real models would, and long runs are cut short."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = dict(enumerate(re.findall(r"```(bash|python)\n(.*?)```", README, re.DOTALL)))
SHORTER = {
    "scripts/train_sdxl_dpo.sh": "data.resolution=64 train.steps=2 train.effective_batch=2 train.precision=fp32 "
    "lora.rank=2 validate.inference_steps=2",
    "t2ialign train configs/shapes_dpo.yaml": "train.effective_batch=2 train.micro_batch=2",
    "--prompts shapes": "--steps 1 --batch 64",
}
"""Command -> what is added to it so that it ends within seconds."""


def commands() -> list[str]:
    """The lines of all shell blocks, comments removed."""
    text = "\n".join(block for language, block in BLOCKS.values() if language == "bash")
    return [line.split("#")[0].strip() for line in text.splitlines() if line.split("#")[0].strip()]


@pytest.fixture
def folder(tmp_path, sd15_folder, sdxl_folder) -> Path:
    """A working folder as the README assumes it, with a user's own pairs, prompts and reward."""
    for name in ("configs", "scripts"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "assets").mkdir()
    (tmp_path / "assets" / "shapes-sd").symlink_to(sd15_folder)
    (tmp_path / "assets" / "validation_prompts.txt").write_text("a red fox\n")
    (tmp_path / "stabilityai").mkdir()
    (tmp_path / "stabilityai" / "stable-diffusion-xl-base-1.0").symlink_to(sdxl_folder)
    (tmp_path / "madebyollin").mkdir()
    (tmp_path / "madebyollin" / "sdxl-vae-fp16-fix").symlink_to(sdxl_folder / "vae")
    (tmp_path / "my").mkdir()
    (tmp_path / "my" / "prompts.txt").write_text("a red fox\na blue cat\n")
    rng = np.random.default_rng(0)
    rows = ["prompt,chosen,rejected"]
    for number in range(4):
        for side in "ab":
            pixels = rng.integers(0, 255, (70, 80, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "my" / f"{number}{side}.png")
        rows.append(f"picture {number},{number}a.png,{number}b.png")
    (tmp_path / "my" / "pairs.csv").write_text("\n".join(rows))
    for language, block in BLOCKS.values():
        if language == "python":
            name = re.match(r"# (\S+\.py)\n", block)
            assert name is not None, f"a python block of the README does not say which file it is: {block}"
            (tmp_path / name[1]).write_text(block)
    return tmp_path


def test_every_command_of_the_readme_works_as_written(folder):
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HF_HUB_OFFLINE": "1"}
    ran = 0
    for command in commands():
        if command.startswith("make "):
            continue
        for beginning, addition in SHORTER.items():
            if beginning in command:
                command = f"{command} {addition}"
        done = subprocess.run(["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        ran += 1
    assert ran >= 6
    assert (folder / "runs" / "mine" / "lora" / "pytorch_lora_weights.safetensors").is_file()
    assert (folder / "out" / "0_0.png").is_file()


def test_every_make_target_and_link_of_the_readme_exists():
    makefile = (ROOT / "Makefile").read_text()
    for command in commands():
        if command.startswith("make "):
            target = shlex.split(command)[1]
            assert f"\n{target}:" in makefile, f"the Makefile has no target {target}"
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / link).exists(), f"the README links to {link}, which does not exist"


def test_every_command_named_in_the_readme_exists():
    from t2ialign.cli import data
    from t2ialign.cli.main import app

    known = {command.name or command.callback.__name__ for command in app.registered_commands} | {"data"}
    below = {command.name or command.callback.__name__ for command in data.app.registered_commands}
    for first, second in re.findall(r"`?t2ialign (\w+)(?: (\w+))?", README):
        assert first in known, f"t2ialign {first}"
        if first == "data":
            assert second in below, f"t2ialign data {second}"
