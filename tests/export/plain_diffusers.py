"""Run by test_export.py: loads exported folders with diffusers, this package out of reach, and saves what they make."""

from __future__ import annotations

import json
import sys
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any


class Refusing(MetaPathFinder):
    """Lets nothing of this project be imported."""

    def find_spec(self, fullname: str, *_: Any) -> None:
        if fullname.split(".")[0] in ("t2ialign", "unigenbench"):
            raise ImportError(fullname)


sys.meta_path.insert(0, Refusing())

import torch  # noqa: E402
from diffusers import DiffusionPipeline  # noqa: E402
from safetensors.torch import save_file  # noqa: E402


def images(pipeline: Any, job: dict[str, Any], scale: float, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Pixels in [0, 1]. [N, 3, H, W]"""
    start: dict[str, Any] = {"generator": [torch.Generator().manual_seed(seed) for seed in job["seeds"]]}
    if dtype == torch.float64:  # from the noise that is drawn in float32
        side = pipeline.unet.config.sample_size
        noise = [torch.randn(1, 4, side, side, generator=generator) for generator in start["generator"]]
        start = {"latents": torch.cat(noise).to(dtype)}
    settings = {"num_inference_steps": job["steps"], "guidance_scale": scale, "output_type": "pt"}
    return pipeline(job["prompts"], **settings, **start).images.float().contiguous()


def examine(folder: str, job: dict[str, Any], custom: str) -> None:
    """Saves images at every scale in both precisions and with off-loading, and what took part in them."""
    pipeline = DiffusionPipeline.from_pretrained(folder, custom_pipeline=custom, trust_remote_code=True)
    pipeline.set_progress_bar_config(disable=True)
    found = {f"float32 {scale:g}": images(pipeline, job, scale) for scale in job["scales"]}

    scale_input, scaled = pipeline.scheduler.scale_model_input, []
    pipeline.scheduler.scale_model_input = lambda *rows: scaled.append(1) or scale_input(*rows)
    pipeline.enable_model_cpu_offload(device="cpu")
    found["off-loaded"] = images(pipeline, job, 3.0)
    networks = {name: part for name, part in pipeline.components.items() if part is not None and "unet" in name}
    hooked = [name for name, network in networks.items() if hasattr(network, "_hf_hook")]
    seen = {"hooked": hooked, "scaled inputs": len(scaled)}
    pipeline.remove_all_hooks()

    pipeline.to(dtype=torch.float64)
    types = {name: str(network.conv_in.weight.dtype) for name, network in networks.items()}
    found |= {f"float64 {scale:g}": images(pipeline, job, scale, torch.float64) for scale in job["scales"]}
    save_file(found, f"{folder}.safetensors")
    Path(f"{folder}.json").write_text(json.dumps({**seen, "types": types}))


task = json.loads(sys.argv[1])
for place, name in enumerate(task["folders"]):
    examine(name, task, name if place % 2 else f"{name}/pipeline.py")
