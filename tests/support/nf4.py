"""A stand-in for bitsandbytes: linear layers whose weights are NF4, two a byte, with scales that are quantised too."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

BLOCK, NESTED = 64, 256
"""Weights of a scale, and scales of a second one."""
OFFSET = 0.9677083
"""The quantile that is the largest level before all are divided by it."""


def levels() -> Tensor:
    """The 16 levels: quantiles of the normal distribution, 0 among them (arXiv:2305.14314, section 3). [16]"""
    above, below = (torch.special.ndtri(torch.linspace(OFFSET, 0.5, count)[:-1]) for count in (9, 8))
    found = torch.cat([-below, torch.zeros(1), above]).sort().values
    return found / found.max()


LEVELS = levels()


def in_rows(numbers: Tensor, width: int) -> Tensor:
    """The numbers in rows, the last filled up with zeros. [N, width]"""
    return nn.functional.pad(numbers.flatten(), (0, -numbers.numel() % width)).view(-1, width)


class Linear4bit(nn.Linear):
    """A layer that packs its weights on its way to a device, and unpacks them in each pass."""

    def __init__(self, width: int, out: int, *, bias: bool, compute_dtype: torch.dtype, quant_type: str):
        super().__init__(width, out, bias=bias)
        assert quant_type == "nf4"
        self.compute_dtype = compute_dtype

    def to(self, *_: Any, **__: Any) -> Linear4bit:
        rows = in_rows(self.weight.detach().float(), BLOCK)
        scales = rows.abs().amax(1)
        nested = in_rows(scales, NESTED)
        coarse = nested.amax(1)
        places = (rows[..., None] / scales[:, None, None] - LEVELS).abs().argmin(-1).to(torch.uint8)
        packed = (16 * places[:, ::2] + places[:, 1::2]).flatten()[: -(-self.weight.numel() // 2)]
        self.weight = nn.Parameter(packed[:, None].clone(), requires_grad=False)
        self.register_buffer("coarse", coarse)
        self.register_buffer("fine", (255 * nested / coarse[:, None]).round().flatten()[: len(scales)].to(torch.uint8))
        return self

    def unpacked(self) -> Tensor:
        """The weights, rounded. [out, width]"""
        fine, coarse = (self.get_buffer(name) for name in ("fine", "coarse"))
        scales = fine / 255 * coarse.repeat_interleave(NESTED)[: len(fine)]
        packed = self.weight.flatten()
        places = torch.stack([packed // 16, packed % 16], 1).flatten().int()
        rows = LEVELS.to(self.compute_dtype).index_select(0, places).view(-1, BLOCK)
        return rows.mul_(scales[:, None]).view(self.out_features, self.in_features)

    def forward(self, input: Tensor) -> Tensor:
        found: Tensor = _Product.apply(input.to(self.compute_dtype), self)
        return found.to(input.dtype)


class _Product(torch.autograd.Function):
    """Keeps the packed weights for the backward pass, not the others."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Linear4bit) -> Tensor:
        ctx.layer = layer
        bias = None if layer.bias is None else layer.bias.to(layer.compute_dtype)
        return nn.functional.linear(x, layer.unpacked(), bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] @ ctx.layer.unpacked().to(gradients[0].dtype), None


def params_4bit(data: Tensor, *, requires_grad: bool, quant_type: str) -> nn.Parameter:
    assert quant_type == "nf4"
    return nn.Parameter(data, requires_grad=requires_grad)


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts the stand-in in the place of bitsandbytes."""
    module: Any = ModuleType("bitsandbytes")
    module.__spec__ = ModuleSpec("bitsandbytes", None)
    module.nn = SimpleNamespace(Linear4bit=Linear4bit, Params4bit=params_4bit)
    monkeypatch.setitem(sys.modules, "bitsandbytes", module)
