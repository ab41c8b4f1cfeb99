"""What a LoRA was made for: family and base model, as its shapes, its header and the file beside it say."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from t2ialign.backbones.hub import ALIASES, one_line
from t2ialign.backbones.lora_text import SECOND, text_part
from t2ialign.errors import InputError

PROVENANCE_KEY = "t2ialign"
"""Header entry of what made the file, as JSON."""
PEFT_FILE = "adapter_model.safetensors"
"""What peft calls its own files."""
PEFT_CONFIG = "adapter_config.json"
"""What peft writes beside them."""
WIDTHS = {768: "SD1.5", 1024: "SD2", 2048: "SDXL"}
"""Cross-attention widths of the published families."""
_FAMILY_OF_WIDTH = {768: "sd15", 1024: "SD2", 2048: "sdxl"}
_ARCHITECTURES = {
    "sdxl": ("sdxl", "sd_xl", "stable-diffusion-xl"),
    "sd15": ("sd_v1", "sd1", "stable-diffusion-v1", "v1-5"),
}
"""Family -> how names of its architecture and first models begin."""


class Origin(NamedTuple):
    """What a LoRA was made for."""

    family: str | None
    """sd15, sdxl, or another architecture's name as the file has it; None where nothing tells."""
    evidence: str
    """What tells."""
    base: str | None
    """The base model that the file names: hub id, path, or the name of a file; None where it names none."""


def named_width(width: int) -> str:
    """A cross-attention width, with the family that has it if it is a published one's."""
    return f"{width} ({WIDTHS[width]})" if width in WIDTHS else str(width)


def json_object(text: str, place: str) -> dict[str, Any]:
    """The JSON object of a text.

    Raises:
        InputError: it is no JSON object.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{place}: damaged ({one_line(error)}); get the file again") from error
    if not isinstance(content, dict):
        raise InputError(f"{place}: damaged (a JSON object is expected there); get the file again")
    return content


def stated_provenance(file: Path, header: Mapping[str, str]) -> dict[str, Any]:
    """What made a file, as this project's header entry states it; empty for files of others."""
    return json_object(header.get(PROVENANCE_KEY, "{}"), f"{file}: its header entry {PROVENANCE_KEY}")


def origin_of(file: Path, tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> Origin:
    """What a LoRA was made for; where several things tell, the first of: own header, shapes, others' headers, parts.

    Raises:
        InputError: a header entry or the file beside it is damaged.
    """
    family, evidence = next(_families(file, tensors, header), (None, "nothing in it"))
    return Origin(family, evidence, next(_bases(file, header), None))


def _families(file: Path, tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    own = stated_provenance(file, header).get("family")
    if isinstance(own, str):
        yield own, f"header entry {PROVENANCE_KEY}"
    width = cross_attention_width(tensors)
    if width in _FAMILY_OF_WIDTH:
        yield _FAMILY_OF_WIDTH[width], f"cross-attention width {width}"
    for key in ("ss_base_model_version", "modelspec.architecture"):
        if stated := header.get(key, "").removesuffix("/lora"):
            yield _family_named(stated) or stated, f"header entry {key}: {stated}"
    for base in _bases(file, header):
        if (family := _family_named(base)) is not None:
            yield family, f"its base {base}"
    second = next((key for key in tensors if text_part(key) == SECOND), None)
    if second is not None:
        yield "sdxl", f"tensor {second}"


def _family_named(name: str) -> str | None:
    """The family that an architecture or base model is called after."""
    name = name.lower().rpartition("/")[2]
    return next((family for family, starts in _ARCHITECTURES.items() if name.startswith(starts)), None)


def _bases(file: Path, header: Mapping[str, str]) -> Iterator[str]:
    """The base models that a file names."""
    config = file.parent / PEFT_CONFIG
    beside: dict[str, Any] = {}
    if file.name == PEFT_FILE and config.is_file():
        beside = json_object(config.read_text(encoding="utf-8", errors="replace"), str(config))
    for stated in (
        stated_provenance(file, header).get("base"),
        beside.get("base_model_name_or_path"),
        header.get("ss_sd_model_name"),
    ):
        if isinstance(stated, str) and stated not in ("", "None"):
            yield stated


def cross_attention_width(tensors: Mapping[str, Tensor]) -> int | None:
    """The text width that a LoRA was made for: what its cross-attention keys and values take in."""
    for key, tensor in tensors.items():
        reads_text = "attn2" in key and ("to_k" in key or "to_v" in key)
        is_down = any(part in key for part in ("lora_A", "lora_down", "lora.down"))
        if reads_text and is_down and tensor.ndim > 1:
            return tensor.shape[1]
    return None


def check_family(
    file: Path, tensors: Mapping[str, Tensor], header: Mapping[str, str], expected: int | None, family: str
) -> None:
    """Checks that a LoRA was made for a family.

    Args:
        expected: width of the token states that the model's denoiser reads; None where it is not known.

    Raises:
        InputError: its cross-attention has another width, or it says that it was made for another family.
    """
    found = cross_attention_width(tensors)
    if found is not None and expected is not None and found != expected:
        raise InputError(
            f"{file}: this LoRA has cross-attention width {named_width(found)}; the model, a '{family}', expects "
            f"{named_width(expected)}. Give the model that the LoRA was made for"
        )
    origin = origin_of(file, tensors, header)
    is_own = "family" in stated_provenance(file, header)  # others' words are of published families only
    if origin.family not in (None, family) and (is_own or family in ALIASES):
        raise InputError(
            f"{file}: this LoRA was made for '{origin.family}' ({origin.evidence}); the model is a '{family}'. Give "
            "the model that the LoRA was made for"
        )
