"""Checkpoints that several processes write together, each its parts of the tensors, and any number of them read.

The folder is that of `checkpoint`, manifest and state included; the tensors are in the files of
torch.distributed.checkpoint, named 'stem/name'.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load as load_parts  # pyright: ignore[reportUnknownVariableType]
from torch.distributed.checkpoint.state_dict_saver import save as save_parts  # pyright: ignore[reportUnknownVariableType]
from torch.distributed.tensor import DTensor, distribute_tensor  # pyright: ignore[reportUnknownVariableType]

from t2ialign.storage.atomic import atomic_directory, partial_folder
from t2ialign.training import checkpoint

if TYPE_CHECKING:
    from t2ialign.training.parallel import Parallel

Like = Callable[[str, str], Tensor | None]
"""(stem, name) of a saved tensor -> one of its shape that lies as it shall lie, None where there is none."""


def save(folder: Path, tensors: Mapping[str, Mapping[str, Tensor]], state: dict[str, Any], parallel: Parallel) -> None:
    """Writes a checkpoint at `folder`, whole or not at all; every process calls it, and all see that folder.

    Raises:
        TryAgainError: the disk is full.
    """
    flat = {f"{stem}/{name}": tensor.detach() for stem, group in tensors.items() for name, tensor in group.items()}
    with atomic_directory(folder) if parallel.is_main else nullcontext():
        parallel.barrier()  # the temporary folder is there
        save_parts(flat, checkpoint_id=partial_folder(folder))
        if parallel.is_main:
            checkpoint.seal(partial_folder(folder), state)
    parallel.barrier()


def is_in_parts(folder: Path) -> bool:
    """Whether a checkpoint was written by `save` of this module."""
    return (folder / ".metadata").is_file()


def load(folder: Path, like: Like) -> dict[str, dict[str, Tensor]]:
    """The tensors of a checkpoint of either kind, each as what it is like."""
    if not is_in_parts(folder):
        whole = checkpoint.load(folder).tensors
        return {
            stem: {name: _as(tensor, like(stem, name)) for name, tensor in group.items()}
            for stem, group in whole.items()
        }
    flat: dict[str, Tensor] = {}
    for key, entry in FileSystemReader(folder).read_metadata().state_dict_metadata.items():
        assert isinstance(entry, TensorStorageMetadata)
        stem, _, name = key.partition("/")
        flat[key] = _as(torch.empty(entry.size, dtype=entry.properties.dtype), like(stem, name))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*load in a single process")  # as is the intent
        load_parts(flat, checkpoint_id=folder, no_dist=not dist.is_initialized())
    tensors: dict[str, dict[str, Tensor]] = {}
    for key, tensor in flat.items():
        stem, _, name = key.partition("/")
        tensors.setdefault(stem, {})[name] = tensor
    return tensors


def _as(tensor: Tensor, like: Tensor | None) -> Tensor:
    """The tensor, in parts where `like` is; every process has all of it, so nothing is sent."""
    if not isinstance(like, DTensor) or like.shape != tensor.shape:
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
