"""The memory that a plan announces is what a step takes, to 15 % as torch's profiler counts it."""

from __future__ import annotations

from pathlib import Path

import allocations
import nf4
import pytest
import torch
from allocations import of_a_step
from diffusers import UNet2DConditionModel
from jobs import ranks
from torch import nn
from toys import pair_folder, write_config

from t2ialign.config.reader import load
from t2ialign.config.schema import Config
from t2ialign.training.memory import Stages, estimate_memory
from t2ialign.training.parallel import SingleProcess
from t2ialign.training.preflight import check
from t2ialign.training.shard_memory import part_bytes

CPU = torch.device("cpu")

KEYS: dict[str, list[str]] = {
    "LoRA": [],
    "LoRA on all layers, in two micro-batches": ["lora.targets=all", "train.micro_batch=2"],
    "bf16": ["train.precision=bf16"],
    "plain attention": ["train.attention=math"],
    "checkpointing": ["train.gradient_checkpointing=true"],
    "whole, with an average": ["lora=null", "optim.ema_decay=0.9"],
    "whole, bf16": ["lora=null", "train.precision=bf16", "train.micro_batch=2"],
    "no reference": ["objective={name: mapo, beta: 0.1}"],
    "mismatched": ["objective={name: kto, beta: 10}", "data={name: labelled, path: {pairs}}"],
}
FAST = {("LoRA", "sd15"), ("checkpointing", "sdxl")}
CASES = [
    pytest.param(family, keys, id=f"{family}, {name}", marks=[] if (name, family) in FAST else [pytest.mark.slow])
    for name, keys in KEYS.items()
    for family in ("sd15", "sdxl")
]


def written(folder: Path, family: str, model: Path) -> Path:
    """A config of eight pairs."""
    pairs = pair_folder(folder / "pairs", 8)
    path = write_config(folder / "c.yaml", model=model, pairs=pairs, run_dir=folder / "run")
    path.write_text(path.read_text().replace("name: sd15", f"name: {family}"))
    return path


def announced(config: Config, world_size: int = 1) -> Stages:
    found = estimate_memory(config, check(config, world_size), CPU, world_size=world_size)
    assert found is not None
    return found


@pytest.mark.parametrize(("family", "keys"), CASES)
def test_a_step_takes_the_memory_that_was_announced(
    family: str, keys: list[str], sd15_folder: Path, sdxl_folder: Path, tmp_path: Path
):
    path = written(tmp_path, family, sdxl_folder if family == "sdxl" else sd15_folder)
    pairs = tmp_path / "pairs" / "pairs.csv"
    config = load(path, ["train.micro_batch=4", *(key.replace("{pairs}", str(pairs)) for key in keys)])
    said = announced(config).training.total
    assert of_a_step(config, SingleProcess()) == pytest.approx(said, rel=0.15)


@pytest.mark.slow
@pytest.mark.parametrize("keys", [["train.precision=bf16"], ["lora.targets=all", "train.gradient_checkpointing=true"]])
def test_a_step_on_a_base_in_4_bits_takes_the_memory_that_was_announced(
    keys: list[str], sdxl_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    nf4.install(monkeypatch)
    keys = ["train.micro_batch=4", "train.quantize=nf4", *keys]
    config = load(written(tmp_path, "sdxl", sdxl_folder), keys)
    said = announced(config)
    assert of_a_step(config, SingleProcess()) == pytest.approx(said.training.total, rel=0.15)
    denoiser = UNet2DConditionModel.from_pretrained(sdxl_folder / "unet")
    width = 2 if config.train.precision == "bf16" else 4
    assert said.training.weights == sum(bytes_in_4_bits(denoiser, width))
    assert said.others["while weights are loaded"] > width * sum(p.numel() for p in denoiser.parameters())


def bytes_in_4_bits(denoiser: nn.Module, width: int) -> list[int]:
    """Of each parameter: `width` bytes a number, but for matrices of linear layers in transformer blocks."""
    quantised = {
        id(layer.weight)
        for block in denoiser.modules()
        if type(block).__name__ == "BasicTransformerBlock"
        for layer in block.modules()
        if isinstance(layer, nn.Linear)
    }

    def taken(count: int) -> int:
        scales = -(-count // 64)
        return -(-count // 2) + scales + 4 * -(-scales // 256)

    return [taken(p.numel()) if id(p) in quantised else width * p.numel() for p in denoiser.parameters()]


@pytest.mark.slow
def test_a_dora_on_a_base_in_4_bits_has_an_estimate(sdxl_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    nf4.install(monkeypatch)
    config = load(written(tmp_path, "sdxl", sdxl_folder), ["train.quantize=nf4", "lora.dora=true"])
    assert announced(config).training.activations > 0


PARTS = ["lora=null", "train.shard=fsdp2", "train.micro_batch=2"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "keys",
    [[], ["train.precision=bf16", "optim.ema_decay=0.9"], ["train.gradient_checkpointing=true", "train.micro_batch=1"]],
)
def test_a_step_in_parts_takes_the_memory_that_was_announced(keys: list[str], sdxl_folder: Path, tmp_path: Path):
    path = written(tmp_path, "sdxl", sdxl_folder)
    keys = [*PARTS, *keys]
    said = announced(load(path, keys), world_size=2).training
    script = str(Path(allocations.__file__).with_name("memory_ranks.py"))
    ranks("python", script, str(path), str(tmp_path), *keys, world=2)
    found = [int((tmp_path / f"{rank}.txt").read_text()) for rank in range(2)]
    print(said, said.total, found)
    assert max(found) == pytest.approx(said.total, rel=0.15)


def test_parts_of_odd_tensors_are_filled_up():
    # 5 rows over 2 processes: 3 of 3 floats each
    assert part_bytes([torch.zeros(5, 3), torch.zeros(4)], 2) == 4 * (3 * 3 + 2)
