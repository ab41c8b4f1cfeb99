"""What preflight checks of the keys that say how images are brought to the model."""

from __future__ import annotations

from t2ialign.backbones.facts import ModelFacts
from t2ialign.config.schema import RunConfig
from t2ialign.data.base import DataConfig
from t2ialign.data.buckets import bucket_sizes
from t2ialign.errors import InputError


def check_images(config: RunConfig, facts: ModelFacts | None) -> None:
    """Checks sizes, buckets and mirroring of the images of both data sets.

    Raises:
        InputError: a size that the model cannot take, buckets that cannot be made, or mirroring of what has no part.
    """
    data, held_out = config.data, config.validation.pairs
    for key, section in (("data", data), ("validate.pairs", held_out)):
        if section is not None and facts is not None:
            _check_resolution(section, facts, config.backbone.name)
        if section is not None and section.crop == "bucket":
            _check_buckets(key, section, facts)
    if data.flip and not data.has_images:
        raise InputError(f"data.flip is {data.flip:g}; data '{data.name}' has no images to mirror: leave the key out")
    if held_out is not None and held_out.flip:
        raise InputError("validate.pairs.flip has no part in what is measured: leave the key out")


def _check_resolution(data: DataConfig, facts: ModelFacts, backbone: str) -> None:
    if data.resolution is None or data.resolution % facts.vae_factor == 0:
        return
    near = data.resolution - data.resolution % facts.vae_factor
    raise InputError(
        f"data.resolution is {data.resolution} px; {backbone} needs a multiple of {facts.vae_factor}: "
        f"{max(near, facts.vae_factor)} or {near + facts.vae_factor}"
    )


def _check_buckets(key: str, data: DataConfig, facts: ModelFacts | None) -> None:
    step = data.bucket_step
    if not data.has_images:
        raise InputError(f"{key}.crop is bucket; data '{data.name}' has no images to crop: leave the key out")
    if data.shuffle == "groups":
        raise InputError(
            f"{key}.shuffle is groups, which reads each row group once an epoch, and {key}.crop is bucket, which takes "
            f"its rows apart; set {key}.shuffle=rows"
        )
    resolution = data.resolution or (facts and facts.resolution)
    if resolution is None:
        raise InputError(
            f"{key}.crop is bucket, and the model's own resolution is not known before it is loaded; set "
            f"{key}.resolution, as 512 for SD1.5 or 1024 for SDXL"
        )
    if facts is not None and step % facts.vae_factor:
        raise InputError(f"{key}.bucket_step is {step} px; the model needs a multiple of {facts.vae_factor}")
    bucket_sizes(resolution, step)
