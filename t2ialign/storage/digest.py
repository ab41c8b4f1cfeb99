"""Digests of file contents and of tensors."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

SAMPLED_ELEMENTS = 4096
"""Elements of each tensor that `tensor_digest` hashes."""


def file_digest(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def tensor_digest(tensors: Iterable[tuple[str, Tensor]], *identity: object) -> str:
    """16 hex digits that change with names, shapes, types and values of tensors, and with `identity`.

    Of each tensor evenly spaced elements are hashed, so that large models take a second. Training changes practically
    every element; a manual change that misses all sampled elements would go unseen.
    """
    digest = hashlib.sha256(repr(identity).encode())
    for name, tensor in sorted(tensors, key=lambda pair: pair[0]):
        digest.update(f"{name}/{list(tensor.shape)}/{tensor.dtype}".encode())
        sampled = tensor.detach().flatten()[:: max(1, tensor.numel() // SAMPLED_ELEMENTS)]
        digest.update(sampled.double().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
