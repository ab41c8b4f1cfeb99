"""A frozen denoiser whose transformer blocks are held in 4 bits (NF4; Dettmers et al. 2023, arXiv:2305.14314)."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from t2ialign.errors import EnvironmentProblem

BLOCK = "BasicTransformerBlock"
"""Modules whose linear layers are quantised: most of the weights; what lies outside keeps its precision."""
WEIGHTS, SCALES = 64, 256
"""How many weights have a scale in common, and how many scales one of their own: 4.127 bits a weight in all."""


def check_nf4() -> None:
    """Checks that bitsandbytes is installed.

    Raises:
        EnvironmentProblem: it is not.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise EnvironmentProblem(
            'train.quantize: nf4 needs bitsandbytes: pip install "t2ialign[bnb]", or leave the key out and set '
            "train.precision: bf16"
        )


def quantize_nf4(denoiser: nn.Module, dtype: torch.dtype) -> None:
    """Replaces each linear layer of the transformer blocks by one that holds its weights as NF4.

    Args:
        denoiser: frozen, before adapters are added.
        dtype: in which the layers multiply.

    Raises:
        EnvironmentProblem: bitsandbytes is not installed.
    """
    check_nf4()
    layers: Any = importlib.import_module("bitsandbytes").nn
    _replace(denoiser, lambda layer: _as_nf4(layers, layer, dtype))


def outline_nf4(denoiser: nn.Module, dtype: torch.dtype) -> None:
    """Replaces the same layers by some that hold as many bytes, and make as many in a pass, without numbers.

    Args:
        denoiser: of the meta device, before adapters are added.
        dtype: in which the layers multiply.
    """
    _replace(denoiser, lambda layer: Nf4Outline(layer, dtype))


def _replace(denoiser: nn.Module, made: Callable[[nn.Linear], nn.Module]) -> None:
    blocks = [module for module in denoiser.modules() if type(module).__name__ == BLOCK]
    for parent in (module for block in blocks for module in block.modules()):
        for name, layer in list(parent.named_children()):
            if type(layer) is nn.Linear:
                setattr(parent, name, made(layer))


def _as_nf4(layers: Any, layer: nn.Linear, dtype: torch.dtype) -> nn.Module:
    """The layer in 4 bits, on its device: the weights are quantised on their way there."""
    made = layers.Linear4bit(
        layer.in_features, layer.out_features, bias=layer.bias is not None, compute_dtype=dtype, quant_type="nf4"
    )
    made.weight = layers.Params4bit(layer.weight.data.cpu(), requires_grad=False, quant_type="nf4")
    made.bias = layer.bias
    return made.to(layer.weight.device)


class Nf4Outline(nn.Linear):
    """The tensors of a layer of bitsandbytes, with scales that are quantised themselves, as is its default.

    Two weights are a byte; each WEIGHTS of them have a scale of a byte, and each SCALES of these a float32.
    """

    def __init__(self, layer: nn.Linear, dtype: torch.dtype) -> None:
        super().__init__(layer.in_features, layer.out_features, bias=False, device="meta")
        device, weights = layer.weight.device, layer.weight.numel()
        scales = -(-weights // WEIGHTS)
        packed = torch.empty(-(-weights // 2), 1, dtype=torch.uint8, device=device)
        self.weight = nn.Parameter(packed, requires_grad=False)
        self.bias = layer.bias
        self.register_buffer("scales", torch.empty(scales, dtype=torch.uint8, device=device))
        self.register_buffer("scales_of_scales", torch.empty(-(-scales // SCALES), device=device))
        self.dtype = dtype

    def forward(self, input: Tensor) -> Tensor:
        found: Tensor = _Product.apply(input.to(self.dtype), self.bias, (self.out_features, self.in_features))
        return found.to(input.dtype)

    @property
    def W_q(self) -> Tensor:
        """The packed weights; peft asks layers that have this to `dequantize`."""
        return self.weight

    def dequantize(self) -> Tensor:
        return self.weight.new_empty(self.out_features, self.in_features, dtype=self.dtype)


class _Product(torch.autograd.Function):
    """A product with weights that exist while it is made only, in the forward and again in the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, shape: tuple[int, int]) -> Tensor:
        ctx.shape = shape
        return nn.functional.linear(x, x.new_empty(shape), bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = gradients
        return gradient @ gradient.new_empty(ctx.shape), None, None
