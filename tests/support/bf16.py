"""bfloat16 on a processor without instructions for it.

torch then convolves and multiplies bfloat16 a hundred times slower than float32. Here the operands are brought to
float32 and the result is rounded once, which is what such instructions compute.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from t2ialign.runtime import slow_in_bf16


def emulate(put: Callable[[object, str, object], None] = setattr) -> None:
    """Makes layers in bfloat16, or under autocast to it, compute in float32, where the processor has no bfloat16.

    Args:
        put: of a test, `monkeypatch.setattr`, so that it ends with the test.
    """
    if slow_in_bf16(torch.device("cpu")):
        put(nn.Linear, "forward", _multiplied)
        put(nn.Conv2d, "_conv_forward", _convolved)


def _multiplied(layer: nn.Linear, x: Tensor) -> Tensor:
    return _computed(nn.functional.linear, x, layer.weight, layer.bias)


def _convolved(layer: nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    settings = (layer.stride, layer.padding, layer.dilation, layer.groups)
    assert layer.padding_mode == "zeros"
    return _computed(lambda *given: nn.functional.conv2d(*given, *settings), x, weight, bias)


def _computed(function: Callable[..., Tensor], x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    cast = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    if not cast and x.dtype != torch.bfloat16:
        return function(x, weight, bias)
    with torch.autocast("cpu", enabled=False):
        given = [None if tensor is None else tensor.to(torch.bfloat16).float() for tensor in (x, weight, bias)]
        return function(*given).to(torch.bfloat16)
