"""Bytes that tensors take while something runs, counted by torch itself."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from t2ialign.config.schema import Config
from t2ialign.training.core import Core
from t2ialign.training.offline import OfflineLoop
from t2ialign.training.parallel import Parallel
from t2ialign.training.tensor_bytes import module_tensors, storage_bytes
from t2ialign.training.train import open_run


def allocated_at_most(work: Callable[[], object], _: Iterable[Tensor] = ()) -> int:
    """The most bytes that torch's allocator held at once for what `work` makes, as torch's profiler counts them."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        work()
    held = most = 0
    assert found.profiler is not None
    events = [event for event in found.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


class StorageBytes(TorchDispatchMode):
    """The most bytes of the memory that operations touch, as it is at each of them.

    A tensor's memory may be given back and taken again, as FSDP2 does. What libraries use inside of an operation, such
    as gloo, does not count.

    Args:
        known: tensors whose memory does not count.
    """

    def __init__(self, known: Iterable[Tensor]):
        super().__init__()
        self.peak = 0
        self._known = {id(storage): storage for storage in map(storage_of, known)}
        self._seen: weakref.WeakValueDictionary[int, torch.UntypedStorage] = weakref.WeakValueDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves((args, kwargs, made)):
            if isinstance(tensor, Tensor) and id(storage := storage_of(tensor)) not in self._known:
                self._seen[id(storage)] = storage
        self.peak = max(self.peak, sum(storage.nbytes() for storage in self._seen.values()))
        return made


def storage_of(tensor: Tensor) -> torch.UntypedStorage:
    """The memory that a tensor lies in; of one that is in parts, that of this process's part."""
    return (tensor._local_tensor if isinstance(tensor, DTensor) else tensor).untyped_storage()


def touched_at_most(work: Callable[[], object], known: Iterable[Tensor]) -> int:
    """The most bytes of the memory that operations of `work` touch at once, but for that of known tensors."""
    with StorageBytes(known) as counted:
        work()
    return counted.peak


Count = Callable[[Callable[[], object], Iterable[Tensor]], int]


def of_a_step(config: Config, parallel: Parallel, count: Count = allocated_at_most) -> int:
    """The most bytes that tensors of a process take at once in an optimizer step, those that last between steps too."""
    _, core, loop = open_run(config, parallel)
    assert isinstance(loop, OfflineLoop)
    losses = loop.losses(core)

    def step() -> None:
        while core.engine.update(next(losses)) is None:
            pass

    step()  # the optimizer's state is made
    lasting = list(lasting_tensors(core))
    return storage_bytes(lasting) + count(step, lasting)


def lasting_tensors(core: Core) -> Iterator[Tensor]:
    """Everything that stays between two steps; of what is in parts, those of this process."""
    policy, optimizer = core.policy, core.engine.optimizer
    kept = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
    for tensor in (*module_tensors([policy.denoiser, *policy.copies.values()]), *kept):
        yield tensor.to_local() if isinstance(tensor, DTensor) else tensor
