"""The memory of networks that are in parts over the processes, by arithmetic on the shapes of their parameters."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from t2ialign.training.sharded import BLOCKS

AT_ONCE = 4
"""Of a block's size, in the backward pass: its weights, its gradients, the weights of the next block that are on their
way, and the gradients of the last that are."""


def part_bytes(tensors: Iterable[Tensor], processes: int) -> int:
    """Bytes of a process's parts: each tensor is cut along its first axis, and the last part is filled up."""
    return sum(-(-len(tensor) // processes) * (tensor.nbytes // len(tensor)) for tensor in tensors)


def gathered_bytes(network: nn.Module, processes: int) -> int:
    """Bytes of the layers that are whole at once: those outside of blocks, and `AT_ONCE` times the largest block."""
    blocks = [list(block.parameters()) for block in _blocks(network)]
    inside = set(block_parameters(network))
    outside = [parameter for parameter in network.parameters() if parameter not in inside]
    largest = max((part_bytes(block, processes) for block in blocks), default=0)
    return processes * (part_bytes(outside, processes) + AT_ONCE * largest)


def block_parameters(network: nn.Module) -> list[nn.Parameter]:
    """The parameters whose gradients are added up, and left to the processes in parts, when their block is done."""
    return [parameter for block in _blocks(network) for parameter in block.parameters()]


def _blocks(network: nn.Module) -> list[nn.Module]:
    return [module for module in network.modules() if type(module).__name__ in BLOCKS]
