"""How many bytes tensors take, counted while code runs: with numbers, or with shapes alone."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only


def storage_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of the memory that tensors lie in; what several share counts once."""
    storages = {id(storage): storage for storage in (tensor.untyped_storage() for tensor in tensors)}
    return sum(storage.nbytes() for storage in storages.values())


def module_tensors(modules: Iterable[nn.Module]) -> list[Tensor]:
    """Parameters and buffers of some modules."""
    return [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the tensors that are made inside, and how many of them live at once.

    Args:
        known: tensors that existed before, whose memory does not count.
    """

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        super().__init__()  # pyright: ignore[reportUnknownMemberType]
        self.now = 0
        self.peak = 0
        self._storages: dict[int, object] = {id(t.untyped_storage()): t.untyped_storage() for t in known}

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return tree_map_only(Tensor, self._count, func(*args, **(kwargs or {})))

    def _count(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        key, size = id(storage), storage.nbytes()
        if key not in self._storages:

            def forget(_: object) -> None:
                self.now -= size
                del self._storages[key]

            self._storages[key] = weakref.ref(storage, forget)
            self.now += size
            self.peak = max(self.peak, self.now)
        return tensor


class Shapes:
    """A stand-in for a device: operations give tensors of the right shapes and types, and compute nothing.

    Args:
        device: the device whose operations they are; its memory is not touched.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._mode = FakeTensorMode(allow_non_fake_inputs=True)

    def __enter__(self) -> Shapes:
        self._mode.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._mode.__exit__(*error)

    def adopt(self, *modules: nn.Module) -> None:
        """Turns modules of the meta device into modules of the device."""
        for module in (part for whole in modules for part in whole.modules()):
            for name, parameter in module.named_parameters(recurse=False):
                shown = nn.Parameter(self._shown(parameter.detach()), requires_grad=parameter.requires_grad)
                setattr(module, name, shown)
            for name, buffer in module.named_buffers(recurse=False):
                setattr(module, name, self._shown(buffer))

    def _shown(self, tensor: Tensor) -> Tensor:
        if tensor.device.type != "meta":
            return self._mode.from_tensor(tensor)
        return self._mode.fake_tensor_converter.from_meta_and_device(self._mode, tensor, self.device)
