"""Which layers of a denoiser are held in 4 bits; a stand-in has the place of bitsandbytes."""

from __future__ import annotations

from pathlib import Path

import nf4
import pytest
import torch
from nf4 import Linear4bit
from rich.console import Console
from torch import nn
from toys import backbone, pair_folder, write_config

from t2ialign.backbones.quantization import BLOCK, Nf4Outline, outline_nf4, quantize_nf4
from t2ialign.config.reader import load
from t2ialign.errors import EnvironmentProblem
from t2ialign.training.tensor_bytes import module_tensors, storage_bytes
from t2ialign.training.trackers import read_metrics
from t2ialign.training.train import train


@pytest.fixture
def bitsandbytes(monkeypatch: pytest.MonkeyPatch) -> None:
    nf4.install(monkeypatch)


@pytest.mark.usefixtures("bitsandbytes")
def test_the_linear_layers_of_transformer_blocks_are_replaced_and_no_others(sdxl_folder: Path):
    denoiser = backbone(sdxl_folder, family="sdxl").denoiser
    before = dict(denoiser.named_modules())
    inside = {
        f"{block}.{name}"
        for block, module in before.items()
        if type(module).__name__ == BLOCK
        for name, layer in module.named_modules()
        if type(layer) is nn.Linear
    }
    quantize_nf4(denoiser, torch.bfloat16)
    after = dict(denoiser.named_modules())
    assert before.keys() == after.keys()
    assert {name for name, module in after.items() if isinstance(module, Linear4bit)} == inside
    for name in inside:
        layer, old = after[name], before[name]
        assert isinstance(layer, Linear4bit)
        assert layer.compute_dtype == torch.bfloat16
        assert layer.bias is old.bias
        # the widest gap of levels is 0.31 of the largest weight of a block
        torch.testing.assert_close(
            layer.unpacked().float(), old.weight, atol=0.16 * float(old.weight.abs().max()), rtol=0
        )
        assert not layer.weight.requires_grad


def test_a_layer_in_4_bits_takes_4_127_bits_a_weight():
    # arXiv:2305.14314, section 3: 8 / 64 + 32 / (64 * 256) = 0.127 bits of scales a weight
    layer = nn.Linear(1280, 1280, bias=False, dtype=torch.bfloat16, device="meta")
    taken = storage_bytes(module_tensors([Nf4Outline(layer, torch.bfloat16)]))
    assert taken == 1280**2 // 2 + 1280**2 // 64 + 4 * 1280**2 // (64 * 256)
    assert 8 * taken / 1280**2 == pytest.approx(4.127, abs=5e-4)


@pytest.mark.usefixtures("bitsandbytes")
def test_the_outline_of_a_quantised_denoiser_holds_as_many_bytes(sdxl_folder: Path):
    real, outlined = (backbone(sdxl_folder, family="sdxl").denoiser for _ in range(2))
    quantize_nf4(real, torch.bfloat16)
    outline_nf4(outlined, torch.bfloat16)
    taken = [{name: storage_bytes(module_tensors([module])) for name, module in whole.named_modules()}
             for whole in (outlined, real)]  # fmt: skip
    assert taken[0] == taken[1]


@pytest.mark.usefixtures("bitsandbytes")
def test_a_lora_on_a_quantised_base_starts_at_ln_2_and_learns(sd15_folder: Path, tmp_path: Path):
    pairs = pair_folder(tmp_path / "pairs", 4)
    path = write_config(tmp_path / "x.yaml", model=sd15_folder, pairs=pairs, run_dir=tmp_path / "x")
    train(load(path, ["train.quantize=nf4"]), console=Console(quiet=True))
    losses = [row["loss"] for row in read_metrics(tmp_path / "x" / "metrics.jsonl")]
    assert losses[0] == pytest.approx(0.693147, abs=1e-6)
    assert losses[-1] != losses[0]


def test_without_bitsandbytes_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(EnvironmentProblem, match=r'pip install "t2ialign\[bnb\]"'):
        quantize_nf4(nn.Linear(1, 1), torch.float32)
