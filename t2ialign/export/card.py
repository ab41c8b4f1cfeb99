"""What made a model: for the headers of its files, and as the card that lies beside them."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import yaml

from t2ialign.backbones.hub import hub_model
from t2ialign.backbones.lora_origin import PROVENANCE_KEY
from t2ialign.config.schema import RunConfig
from t2ialign.export.licences import licence_of

Made = Mapping[str, Any]
"""What made a model: base, family, objective, data and the like; see `made_by`."""


def made_by(config: RunConfig, steps: int) -> dict[str, Any]:
    """What made the weights of a run: base, method, data, licence of the base.

    Args:
        steps: optimizer steps that were done.
    """
    return {
        "family": config.backbone.family,
        "base": config.backbone.pretrained,
        "licence": licence_of(config.backbone.pretrained, config.backbone.family).name,
        "objective": config.objective.name,
        "paper": _paper(config.objective),
        "noiser": config.noiser.name,
        "data": f"{config.data.name}: {data_name(config.data.path)}",
        "steps": steps,
        "effective_batch": config.train.effective_batch,
        "seed": config.seed,
    }


def _paper(component: object) -> str | None:
    """The first paper that a component's documentation cites, as an arXiv number."""
    texts = (inspect.getdoc(type(component)) or "", getattr(inspect.getmodule(type(component)), "__doc__", None) or "")
    found = re.search(r"arXiv:(\d{4}\.\d{4,5})", "\n".join(texts))
    return None if found is None else found[1]


def data_name(path: Path) -> str:
    """A data set as strangers may read it: its hub id, or the name of its file or folder."""
    hub = re.match(r"hf:/+(.+)", str(path))
    return path.name if hub is None else f"https://huggingface.co/datasets/{hub[1]}"


def public_name(path: str) -> str:
    """A model or file as strangers may read it: its hub id, or a local path without the folders above it."""
    return Path(path).name if Path(path).expanduser().exists() else hub_model(path).name


def without_local_paths(content: Any) -> Any:
    """A config's content with every absolute path cut to its last part."""
    if isinstance(content, Mapping):
        return {key: without_local_paths(value) for key, value in cast(Mapping[str, Any], content).items()}
    if isinstance(content, list):
        return [without_local_paths(value) for value in cast(list[Any], content)]
    return Path(content).name if isinstance(content, str) and Path(content).is_absolute() else content


def header(made: Made) -> dict[str, str]:
    """Entries of a LoRA file's header that readers of every kind find: ours, and those of modelspec and kohya."""
    is_xl = made["family"] == "sdxl"
    base, licence = public_name(str(made["base"])), licence_of(str(made["base"]), str(made["family"]))
    return {
        PROVENANCE_KEY: json.dumps({**made, "base": base}),
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"stable-diffusion-{'xl-v1-base' if is_xl else 'v1'}/lora",
        "modelspec.implementation": "https://github.com/Stability-AI/generative-models" if is_xl else "diffusers",
        "modelspec.title": _title(made),
        "modelspec.license": " ".join(filter(None, (licence.name, licence.link))),
        "ss_base_model_version": "sdxl_base_v1-0" if is_xl else "sd_v1",
        "ss_sd_model_name": base,
        "ss_network_module": "networks.lora",
        "ss_training_comment": _method(made),
    }


def _title(made: Made) -> str:
    base = public_name(str(made["base"])).rpartition("/")[2]
    return f"{base} aligned by {made['objective']}" if "objective" in made else f"LoRA for {base}"


def _method(made: Made) -> str:
    if "objective" not in made:
        return "not stated by the files that these weights come from"
    paper = f" (https://arxiv.org/abs/{made['paper']})" if made.get("paper") else ""
    batch = f" of {made['effective_batch']} examples" if "effective_batch" in made else ""
    return f"t2ialign, objective {made['objective']}{paper}, noiser {made['noiser']}, {made['steps']} steps{batch}"


def model_card(made: Made, *, kind: str, usage: str, config: str | None = None) -> str:
    """A model card: front matter as the hub reads it, what made the weights, the base's licence, and how to load them.

    Args:
        kind: what lies beside the card: LoRA, UNet or pipeline.
        usage: how it is loaded, as Markdown.
        config: of the run, as YAML.
    """
    base, family = str(made["base"]), str(made["family"])
    licence = licence_of(base, family)
    parts = [
        f"---\n{yaml.safe_dump(_front_matter(made, kind, licence.tag), sort_keys=False)}---\n",
        f"# {_title(made)}: {kind}\n",
        f"* Base model: `{public_name(base)}` ({family})\n* Method: {_method(made)}\n"
        f"* Data: {made.get('data', 'not stated')}\n",
        f"## Use\n\n{usage}",
        f"## Licence of the base\n\n{' '.join(filter(None, (f'{licence.name}.', licence.link)))}\n\n{licence.clause}\n",
    ]
    if config is not None:
        parts.append(f"## Config\n\n```yaml\n{config}```\n")
    return "\n".join(parts)


def _front_matter(made: Made, kind: str, licence: str) -> dict[str, Any]:
    base = str(made["base"])
    entries: dict[str, Any] = {"library_name": "diffusers", "pipeline_tag": "text-to-image"}
    if not Path(base).expanduser().exists():
        entries |= {"base_model": public_name(base), "base_model_relation": "adapter" if kind == "LoRA" else "finetune"}
    if licence:
        entries["license"] = licence
    method = [made["objective"]] if "objective" in made else []
    return {**entries, "tags": [family_tag(str(made["family"])), kind.lower(), *method, "t2ialign"]}


def family_tag(family: str) -> str:
    """What the hub calls a family."""
    return {"sd15": "stable-diffusion", "sdxl": "stable-diffusion-xl"}.get(family, family)
