"""This process: its threads, its device, its place among those that a launcher started."""

from __future__ import annotations

import os

import diffusers
import torch
import transformers
from accelerate import PartialState

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
MAX_SMALL_MACHINE_CORES = 4


def configure_runtime() -> None:
    """Threads for this machine, and no progress bars of other libraries between ours."""
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    limit_threads()


def limit_threads() -> None:
    """One thread on a small CPU machine, where torch's default is many times slower as soon as anything else runs."""
    asked = os.environ.get("OMP_NUM_THREADS")
    if asked is not None:
        torch.set_num_threads(int(asked))
    elif not torch.cuda.is_available() and (os.cpu_count() or 1) <= MAX_SMALL_MACHINE_CORES:
        torch.set_num_threads(1)


def processes() -> PartialState:
    """This process among those that a launcher started; joins their group, on machines without a GPU too."""
    return PartialState(cpu="LOCAL_RANK" in os.environ and not torch.cuda.is_available())


def device_of_process() -> torch.device:
    """This process's device."""
    device = processes().device
    assert device is not None
    return device


def device_words(device: torch.device) -> str:
    """The device as a user knows it: a GPU's name and memory, or the threads of a CPU."""
    memory = device_memory(device)
    if memory is not None:
        return f"{torch.cuda.get_device_name(device)}, {memory / 2**30:.1f} GiB"
    threads = torch.get_num_threads()
    return f"{device.type}, {threads} thread{'s' if threads > 1 else ''}"


def device_memory(device: torch.device) -> int | None:
    """Bytes of a GPU's memory; None for a CPU, which shares its memory with everything else."""
    return torch.cuda.mem_get_info(device)[1] if device.type == "cuda" else None


def slow_in_bf16(device: torch.device) -> bool:
    """Whether this is an x86-64 processor without AVX-512, on which torch's convolutions in bf16 take a hundred times
    as long as in fp32."""
    return device.type == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX2"
