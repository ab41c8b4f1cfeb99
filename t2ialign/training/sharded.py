"""Full fine-tuning with every network in parts over the processes: FSDP2 (Zhao et al. 2023, arXiv:2304.11277)."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard  # pyright: ignore[reportUnknownVariableType]
from torch.distributed.tensor import DTensor

from t2ialign.training import checkpoint_parts
from t2ialign.training.parallel import DataParallel

BLOCKS = ("BasicTransformerBlock", "ResnetBlock2D")
"""Modules that are gathered, used and dropped one after the other; what lies outside of them is one part more."""


class FullySharded(DataParallel):
    """Every process holds a part of each weight, of its gradient and of its moments, and a part of the batch.

    A forward or backward pass is made by all processes together, as each gathers the weights of the others.
    """

    is_sharded = True

    def shard(self, networks: Sequence[nn.Module]) -> None:
        for network in networks:
            device = torch.device("cuda") if torch.cuda.is_available() else torch.device("cpu")
            mesh = init_device_mesh(device.type, (self.world_size,))
            blocks = [module for module in network.modules() if type(module).__name__ in BLOCKS]
            for module in (*blocks, network):
                fully_shard(module, mesh=mesh, reshard_after_forward=True)
            for part in _parts(network):
                part.set_force_sum_reduction_for_comms(True)
                part.set_gradient_divide_factor(1.0)

    def reduce_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Nothing to do: each backward pass adds the sum over all processes."""

    def clip(self, parameters: Sequence[nn.Parameter], max_norm: float) -> Tensor:
        return cast(DTensor, super().clip(parameters, max_norm)).full_tensor()

    @contextmanager
    def whole(self, networks: Sequence[nn.Module]) -> Generator[None]:
        parts = [part for network in networks for part in _parts(network)]
        for part in parts:
            part.set_reshard_after_forward(False, recurse=False)
            part.unshard()
        yield
        self.barrier()
        for part in parts:
            part.set_reshard_after_forward(True, recurse=False)
            part.reshard()

    @torch.no_grad()
    def gather_network(self, network: nn.Module) -> nn.Module | None:
        kinds: tuple[Any, ...] = type(network).__mro__
        plain = next(kind for kind in kinds if not issubclass(kind, FSDPModule))
        tensors: dict[str, Tensor] = {}
        for name, tensor in (*network.named_parameters(), *network.named_buffers()):
            full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
            if self.is_main:
                tensors[name] = full.cpu()
        if not self.is_main:
            return None
        with torch.device("meta"):
            whole: nn.Module = plain.from_config(cast(Any, network).config)
        whole.load_state_dict(tensors, assign=True)
        return whole

    def save(self, folder: Path, tensors: Mapping[str, Mapping[str, Tensor]], state: dict[str, Any]) -> None:
        checkpoint_parts.save(folder, tensors, state, self)


def _parts(network: nn.Module) -> list[FSDPModule]:
    return [module for module in network.modules() if isinstance(module, FSDPModule)]
