"""`t2ialign doctor`: what this machine has; under two seconds, as nothing heavy is imported unless asked for."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, NamedTuple

import typer
from rich.table import Table

from t2ialign.cli.options import out

REQUIRED = ("torch", "torchvision", "diffusers", "transformers", "accelerate", "peft", "safetensors", "pydantic")
OPTIONAL = {
    "open_clip_torch": "CLIP-family rewards: pip install 't2ialign[rewards]'",
    "rapidocr": "the reward ocr: pip install 't2ialign[ocr]'",
    "bitsandbytes": "8-bit AdamW: pip install 't2ialign[bnb]'",
    "xformers": "another attention backend: pip install 't2ialign[xformers]'; torch's own is as fast",
}
MINIMUM_FREE_GIB = 2.0


class Finding(NamedTuple):
    what: str
    seen: str
    remedy: str | None
    """What to do, where something required is missing or broken."""


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _imports(name: str) -> str | None:
    """Why a package cannot be imported, or None."""
    try:
        importlib.import_module(name)
    except Exception as error:  # any failure of a third party's import is the finding
        return f"{type(error).__name__}: {error}"
    return None


def examine(*, full: bool = False) -> list[Finding]:
    """Everything looked at; `full` also imports the required packages and asks torch for its devices."""
    findings = [Finding("python", f"{platform.python_version()}, {platform.system()} {platform.machine()}", None)]
    for name in REQUIRED:
        found = _installed(name)
        remedy = None if found else f"pip install {name}"
        if full and found and (broken := _imports(name)):
            found, remedy = f"{found}, cannot be imported ({broken})", f"pip install --force-reinstall {name}"
        findings.append(Finding(name, found or "missing", remedy))
    for name, purpose in OPTIONAL.items():
        found = _installed(name)
        findings.append(Finding(name, found or f"not installed ({purpose})", None))
    if full and find_spec("torch"):
        import torch

        device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU only"
        findings.append(Finding("device", device, None))
    threads = os.environ.get("OMP_NUM_THREADS", "set by the program: 1 on a CPU with up to 4 cores")
    findings.append(Finding("cores", f"{os.cpu_count()}, threads {threads}", None))
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    remedy = None if free >= MINIMUM_FREE_GIB else f"free some space: less than {MINIMUM_FREE_GIB:g} GiB are left"
    findings.append(Finding("disk here", f"{free:.0f} GiB free", remedy))
    return findings


def doctor(
    full: Annotated[bool, typer.Option("--full", help="Also import the packages and look for a GPU.")] = False,
) -> None:
    """Say what this machine has, and what is missing."""
    table = Table(box=None, show_header=False)
    findings = examine(full=full)
    for finding in findings:
        table.add_row("x" if finding.remedy else "ok", finding.what, finding.seen, finding.remedy or "")
    out.print(table, soft_wrap=False)
    if any(finding.remedy for finding in findings):
        raise typer.Exit(3)
