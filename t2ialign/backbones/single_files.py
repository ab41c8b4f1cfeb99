"""Models in one .safetensors file: what it says of family, parts and prediction is obeyed or refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

import torch
from diffusers import AutoencoderKL, DiffusionPipeline, ModelMixin, UNet2DConditionModel
from diffusers.loaders.single_file_utils import SingleFileComponentError
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open

from t2ialign.backbones.folders import HARMLESS, check_tensors
from t2ialign.backbones.hub import LOADING_FAILURES, one_line
from t2ialign.backbones.ldm_names import (
    CLIP_PREFIX,
    OPEN_CLIP_PREFIX,
    UNET_PREFIX,
    VAE_PREFIX,
    clip_names,
    holds_unet,
    open_clip_names,
    unet_names,
    vae_names,
)
from t2ialign.errors import EnvironmentProblem, InputError
from t2ialign.schedules import PredictionType

DEFAULT_CONFIGS = {
    "sd15": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "sdxl": "stabilityai/stable-diffusion-xl-base-1.0",
}
"""Family -> hub id of the configs and tokenizers that a single file lacks."""
TRAINING_LEFTOVERS = re.compile(
    r"model_ema\..+|denoiser\..+|first_stage_model\.(loss|model_ema)\..+|loss\..+|v_pred|ztsnr|global_step|epoch"
    r"|(alphas_cumprod|betas|sqrt_|log_one_minus|posterior_|lvlb_weights|logvar|scale_factor)\w*"
)
"""Tensors of the training of a published checkpoint, and marks that are read elsewhere."""
_TELLING = {
    "UNet": "input_blocks.0.0.weight",
    "text encoder": "embeddings.position_embedding.weight",
    "second text encoder": "positional_embedding",
}
"""Part -> the tensor by which diffusers sees that a file has the part; without it, it looks elsewhere."""
_EDM = ("edm_mean", "edm_std", "edm_vpred.sigma_max", "edm_vpred.sigma_min")
_STATED_TYPES: dict[str, PredictionType] = {
    "v": "v_prediction",
    "v_prediction": "v_prediction",
    "v-prediction": "v_prediction",
    "velocity": "v_prediction",
    "epsilon": "epsilon",
    "eps": "epsilon",
}


class _SingleFileClass(Protocol):
    """What diffusers adds to the classes that it can load from one file."""

    def from_single_file(self, path: str, **options: Any) -> Any: ...


class Contents(NamedTuple):
    """A single file without its weights."""

    types: dict[str, str]
    """Tensor -> its type, as safetensors names it."""
    header: dict[str, str]


class Stated(NamedTuple):
    """What a file says of its prediction."""

    prediction_type: PredictionType | None
    zero_terminal_snr: bool


def read_contents(path: Path) -> Contents:
    """Names, types and header of a safetensors file; no weights are read.

    Raises:
        InputError: it is no readable safetensors file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            types = {name: str(file.get_slice(name).get_dtype()) for name in file.keys()}  # noqa: SIM118
            return Contents(types, file.metadata() or {})
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{path}: not a readable safetensors file ({one_line(error)}); get it again") from error


def family_of_file(path: Path, contents: Contents) -> str:
    """'sd15' or 'sdxl', by the names of a checkpoint's tensors.

    Raises:
        InputError: no full checkpoint of either.
    """
    names = contents.types

    def has(prefix: str) -> bool:
        return any(name.startswith(prefix) for name in names)

    if has("conditioner.embedders."):
        return "sdxl"
    if has("cond_stage_model.model."):
        raise InputError(f"{path}: a checkpoint of Stable Diffusion 2; known families: sd15, sdxl")
    if has("cond_stage_model."):
        return "sd15"
    if has(UNET_PREFIX) or holds_unet(names):
        raise InputError(
            f"{path}: holds no text encoder: a UNet without the other parts; give it as --unet beside a base, as "
            "--model sdxl, or give a full checkpoint"
        )
    kind = "a LoRA" if any("lora" in name for name in names) else "no complete Stable Diffusion checkpoint"
    raise InputError(f"{path}: {kind} (first tensor: {next(iter(names), 'none')}); give a full checkpoint")


def load_single_file(
    path: Path,
    pipeline: type[DiffusionPipeline],
    *,
    family: str,
    dtype: torch.dtype,
    config: str | None,
    options: dict[str, Any],
) -> DiffusionPipeline:
    """The pipeline of a checkpoint in one file.

    Args:
        config: folder or hub id with configs and tokenizers; default: the hub's of the family.
        options: components and settings that are given to the pipeline class as they are.

    Raises:
        InputError: another family, parts or tensors are missing or left over, damaged, or a kind that is not known.
        EnvironmentProblem: the hub is needed and cannot be reached.
    """
    contents = read_contents(path)
    _check_family(path, contents, family)
    _check_parts(path, contents, family, "vae" in options)
    try:
        loaded = cast(_SingleFileClass, pipeline).from_single_file(str(path), config=config, dtype=dtype, **options)
    except (HfHubHTTPError, LocalEntryNotFoundError, ConnectionError) as error:
        raise no_configs(path, error) from error
    except (*LOADING_FAILURES, SingleFileComponentError) as error:
        _name_missing_tensors(path, contents, config or DEFAULT_CONFIGS[family], "vae" in options)
        raise InputError(f"{path}: the checkpoint cannot be loaded: {one_line(error)}") from error
    _check_tensors(path, contents, loaded.components, family, "vae" in options)
    return loaded


def no_configs(path: Path, error: Exception) -> EnvironmentProblem:
    """What to do about a single file whose configs are on a hub that cannot be reached."""
    return EnvironmentProblem(
        f"{path}: a single file holds no configs and tokenizers, and the hub, where they are taken from, cannot be "
        f"reached ({one_line(error)}); set backbone.single_file_config to a diffusers folder of the same family "
        "(on the command line: --backbone single_file_config=FOLDER)"
    )


def _check_family(path: Path, contents: Contents, family: str) -> None:
    found = family_of_file(path, contents)
    if found != family:
        raise InputError(f"{path}: a checkpoint of '{found}', not of backbone '{family}'; set backbone.name: {found}")


def _check_parts(path: Path, contents: Contents, family: str, has_vae: bool) -> None:
    """Checks that a file has every part, in a type that is read.

    Raises:
        InputError: a part is missing, or tensors are quantised.
    """
    needed = {"UNet": UNET_PREFIX, "text encoder": f"{CLIP_PREFIX[family]}text_model."}
    if family == "sdxl":
        needed["second text encoder"] = OPEN_CLIP_PREFIX
    for part, prefix in needed.items():
        if not any(name.startswith(prefix) for name in contents.types):
            raise InputError(f"{path}: holds no {part} (no tensor {prefix}…); give a full checkpoint")
        if prefix + _TELLING[part] not in contents.types:
            check_tensors(f"{path}: the checkpoint", [prefix + _TELLING[part]], [])
    if not has_vae and not any(name.startswith(VAE_PREFIX) for name in contents.types):
        raise InputError(
            f"{path}: holds no VAE (no tensor {VAE_PREFIX}…); set backbone.vae to a folder, file or hub id of one "
            "(on the command line: --backbone vae=PATH)"
        )
    for name, kind in contents.types.items():
        is_weight = name.startswith((UNET_PREFIX, VAE_PREFIX, *needed.values())) and not HARMLESS.fullmatch(name)
        if is_weight and not kind.startswith(("F", "BF")):
            raise InputError(f"{path}: {name} is stored as {kind}; quantised files are not supported")


def _check_tensors(path: Path, contents: Contents, parts: dict[str, Any], family: str, has_vae: bool) -> None:
    """Checks that the loaded parts have all of their tensors from the file, and that the file has no others."""
    expected = {UNET_PREFIX + name for name in unet_names(parts["unet"].state_dict()).values()}
    expected |= {CLIP_PREFIX[family] + name for name in clip_names(parts["text_encoder"].state_dict()).values()}
    if family == "sdxl":
        second = parts["text_encoder_2"].state_dict()
        expected |= {OPEN_CLIP_PREFIX + name for name in open_clip_names(second).values()}
    if not has_vae:
        expected |= {VAE_PREFIX + name for name in vae_names(parts["vae"].state_dict()).values()}
    left_over = {name for name in contents.types.keys() - expected if not TRAINING_LEFTOVERS.fullmatch(name)}
    if has_vae:
        left_over = {name for name in left_over if not name.startswith(VAE_PREFIX)}
    check_tensors(f"{path}: the checkpoint", expected - contents.types.keys(), left_over)


def load_vae_file(path: Path, dtype: torch.dtype, config: str) -> AutoencoderKL:
    """The VAE of a single file, in diffusers' or the original layout, with or without the rest of a checkpoint.

    Args:
        config: folder or hub id whose VAE has the same architecture and scaling factor.

    Raises:
        InputError: tensors are missing or left over, or the file is damaged.
        EnvironmentProblem: the hub is needed and cannot be reached.
    """
    contents = read_contents(path)
    try:
        _check_vae_tensors(path, contents, config)
        return cast(_SingleFileClass, AutoencoderKL).from_single_file(
            str(path), config=config, subfolder="vae", dtype=dtype
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, ConnectionError) as error:
        raise EnvironmentProblem(
            f"{path}: a VAE's file holds no config, and the hub, where it is taken from, cannot be reached "
            f"({one_line(error)}); give the VAE as a diffusers folder, or set backbone.single_file_config"
        ) from error
    except (*LOADING_FAILURES, SingleFileComponentError) as error:
        raise InputError(f"{path}: the VAE cannot be loaded: {one_line(error)}") from error


def _empty(model: type[ModelMixin], config: str, part: str) -> dict[str, torch.Tensor]:
    """The tensors of a model of this config, without memory."""
    settings = cast(Any, model).load_config(config, subfolder=part)
    with torch.device("meta"):
        return cast(Any, model).from_config(settings).state_dict()


def _name_missing_tensors(path: Path, contents: Contents, config: str, has_vae: bool) -> None:
    """Says which tensors of UNet and VAE a file lacks that could not be loaded; returns if that is not the reason.

    Raises:
        InputError: some are missing.
    """
    try:
        expected = {UNET_PREFIX + name for name in unet_names(_empty(UNet2DConditionModel, config, "unet")).values()}
        if not has_vae:
            expected |= {VAE_PREFIX + name for name in vae_names(_empty(AutoencoderKL, config, "vae")).values()}
    except LOADING_FAILURES:
        return
    check_tensors(f"{path}: the checkpoint", expected - contents.types.keys(), [])


def _check_vae_tensors(path: Path, contents: Contents, config: str) -> None:
    """Checks that a file has the tensors of a VAE of this config, in either layout, and no others."""
    own = vae_names(_empty(AutoencoderKL, config, "vae"))
    prefix = VAE_PREFIX if any(name.startswith(VAE_PREFIX) for name in contents.types) else ""
    names = {name for name in contents.types if name.startswith(prefix) and not TRAINING_LEFTOVERS.fullmatch(name)}
    expected = set(own) if names & (own.keys() - set(own.values())) else {prefix + name for name in own.values()}
    check_tensors(f"{path}: the VAE", expected - names, names - expected)


def stated_prediction(path: Path, contents: Contents, known: PredictionType | None = None) -> Stated:
    """What a file's marks say of the prediction: tensors, header entries, or a .yaml of the same name beside it.

    Args:
        known: the prediction type, where the marks need not be asked for it.

    Raises:
        InputError: the marks contradict each other, or name a kind that is not known.
    """
    if found := [name for name in _EDM if name in contents.types]:
        raise InputError(f"{path}: an EDM model (tensor {found[0]}); only epsilon- and v-prediction are known")
    zero = "ztsnr" in contents.types or _is_true(contents, "ss_zero_terminal_snr")
    statements = {} if known else _type_statements(path, contents)
    if len(set(statements.values())) > 1:
        said = ", ".join(f"{mark}: {kind}" for mark, kind in statements.items())
        raise InputError(f"{path}: contradicts itself ({said}); set backbone.prediction_type to what it predicts")
    return Stated(known or next(iter(statements.values()), None), zero)


def _is_true(contents: Contents, key: str) -> bool:
    return contents.header.get(key, "").strip().lower() == "true"


def _type_statements(path: Path, contents: Contents) -> dict[str, PredictionType]:
    """Each mark of the prediction type -> what it says."""
    statements: dict[str, PredictionType] = {}
    if "v_pred" in contents.types:
        statements["tensor v_pred"] = "v_prediction"
    for key in ("modelspec.prediction_type", "modelspec.predict_key", "prediction_type"):
        stated = contents.header.get(key, "").strip().lower()
        if stated and stated not in _STATED_TYPES:
            raise InputError(
                f"{path}: its header entry {key} says prediction '{stated[:40]}'; known: epsilon, v_prediction. "
                "Set backbone.prediction_type to what it predicts"
            )
        if stated:
            statements[f"header entry {key}"] = _STATED_TYPES[stated]
    if "ss_v_parameterization" in contents.header:
        says_v = _is_true(contents, "ss_v_parameterization")
        statements["header entry ss_v_parameterization"] = "v_prediction" if says_v else "epsilon"
    config = path.with_suffix(".yaml")
    if config.is_file() and re.search(r"parameterization:\s*[\"']?v\b", config.read_text(errors="replace")):
        statements[config.name] = "v_prediction"
    return statements
