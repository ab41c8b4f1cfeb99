"""LoRAs with parts for text encoders through `export` and through a training: embeddings and UNet stay equal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import toys
from diffusers import DiffusionPipeline
from safetensors.torch import load_file
from text_loras import (
    Answers,
    Parts,
    assert_same,
    differ,
    made_parts,
    merge,
    ours,
    pipeline_of,
    read_kohya,
    theirs,
    write_diffusers,
    write_kohya,
)

from t2ialign.backbones.lora_checks import FILE_NAME
from t2ialign.backbones.stable_diffusion import StableDiffusion15
from t2ialign.config.reader import load
from t2ialign.data.kinds.pairs import PairData
from t2ialign.errors import InputError
from t2ialign.export.model import export_model
from t2ialign.export.source import source_of_model, source_of_run
from t2ialign.models import open_model
from t2ialign.training.core import build_policy
from t2ialign.training.preflight import check
from t2ialign.training.train import train


def exported(model: Path, loras: dict[Path, float], form: Any, out: Path) -> Path:
    source = source_of_model(str(model), {str(path): scale for path, scale in loras.items()}, None, None)
    return export_model(out, source, form)


def by_us(model: Path, *loras: Path) -> Answers:
    policy, mixture = open_model(str(model), loras={str(path): 1.0 for path in loras})
    return ours(policy, mixture)


def in_diffusers(model: Path, file: Path) -> Answers:
    pipeline = pipeline_of(model)
    pipeline.load_lora_weights(str(file.parent), weight_name=file.name)
    return theirs(pipeline)


def sizes(parts: Parts) -> dict[str, tuple[int, float]]:
    """Rank and alpha of every layer."""
    return {
        f"{part}.{name}": (len(made.down), made.alpha)
        for part, layers in parts.items()
        for name, made in layers.items()
    }


@pytest.mark.parametrize("kind", ["equal", "per-layer", "dora"])
@pytest.mark.parametrize("family", ["sd15", pytest.param("sdxl", marks=pytest.mark.slow)])
def test_every_kind_out_and_in_again_answers_the_same(request, tmp_path: Path, family: str, kind: str):
    folder: Path = request.getfixturevalue(f"{family}_folder")
    parts = made_parts(pipeline_of(folder), kind)
    expected = theirs(merge(pipeline_of(folder), parts))
    assert differ(expected, theirs(pipeline_of(folder)))
    first = write_diffusers(tmp_path / "first.safetensors", parts)
    kohya = exported(folder, {first: 1.0}, "kohya", tmp_path / "kohya") / "first.safetensors"
    again = exported(folder, {kohya: 1.0}, "diffusers", tmp_path / "again") / FILE_NAME
    found = read_kohya(kohya, parts, family)
    assert sizes(found) == sizes(parts)
    assert_same(theirs(merge(pipeline_of(folder), found)), expected)
    for file in (kohya, again):
        assert_same(by_us(folder, file), expected)
    # of kohya's layout diffusers drops magnitudes, and alphas that differ
    for file in (kohya, again) if kind == "equal" else (again,):
        assert_same(in_diffusers(folder, file), expected)
    merged = exported(folder, {kohya: 1.0}, "merged", tmp_path / "merged")
    assert_same(theirs(DiffusionPipeline.from_pretrained(merged)), expected)


@pytest.mark.parametrize("form", ["kohya", "diffusers", "merged"])
def test_several_become_one_by_their_scales_part_by_part(sdxl_folder: Path, tmp_path: Path, form: Any):
    plain = pipeline_of(sdxl_folder)
    whole, other = made_parts(plain), made_parts(plain, seed=1)
    second = {"text_encoder_2": other["text_encoder_2"]}
    loras = {
        write_kohya(tmp_path / "whole.safetensors", whole, "sdxl"): 0.5,
        write_diffusers(tmp_path / "second.safetensors", second): -0.7,
    }
    merge(merge(plain, whole, 0.5), second, -0.7)
    out = exported(sdxl_folder, loras, form, tmp_path / "out")
    if form == "merged":
        assert_same(theirs(pipeline_of(out)), theirs(plain))
    else:
        name = FILE_NAME if form == "diffusers" else "whole.safetensors"
        assert_same(by_us(sdxl_folder, out / name), theirs(plain))


def test_a_lora_of_the_text_encoder_alone_is_converted(sd15_folder: Path, tmp_path: Path):
    parts = {"text_encoder": made_parts(pipeline_of(sd15_folder))["text_encoder"]}
    first = write_diffusers(tmp_path / "first.safetensors", parts)
    kohya = exported(sd15_folder, {first: 1.0}, "kohya", tmp_path / "kohya") / "first.safetensors"
    assert sizes(read_kohya(kohya, parts, "sd15")) == sizes(parts)
    assert_same(by_us(sd15_folder, kohya), theirs(merge(pipeline_of(sd15_folder), parts)))


# a training that starts from such a LoRA


def config(folder: Path, model: Path, init: Path, *more: str) -> Any:
    table = toys.pair_folder(folder / "pairs", 4)
    path = toys.write_config(folder / "c.yaml", model=model, pairs=table, run_dir=folder / "run")
    return load(path, [f"lora.init={init}", *more])


def test_policy_and_reference_read_the_embeddings_of_the_adapted_text_encoder(sd15_folder: Path, tmp_path: Path):
    parts = made_parts(pipeline_of(sd15_folder))
    init = write_kohya(tmp_path / "init.safetensors", parts, "sd15")
    settings = config(tmp_path, sd15_folder, init)
    plan = check(settings, 1)
    policy = build_policy(settings, settings.backbone.build(torch.device("cpu"), torch.float32), keeps_reference=True)
    expected = theirs(merge(pipeline_of(sd15_folder), parts))
    for weights in ("policy", "reference"):
        assert_same(ours(policy, weights), expected)
    assert not any("text" in name for name in policy.trained_parameters())
    assert plan.parameters is not None
    assert plan.parameters.trained == sum(p.numel() for p in policy.trained_parameters().values())


def test_a_training_needs_an_adapter_to_start_from(sd15_folder: Path, tmp_path: Path):
    parts = {"text_encoder": made_parts(pipeline_of(sd15_folder))["text_encoder"]}
    init = write_kohya(tmp_path / "init.safetensors", parts, "sd15")
    with pytest.raises(InputError, match=r"init.safetensors: adapts the text encoder only; to start a training from"):
        check(config(tmp_path, sd15_folder, init), 1)


@pytest.mark.slow
def test_a_run_carries_the_text_encoders_part_to_its_exports(sd15_folder: Path, tmp_path: Path, capsys):
    parts = made_parts(pipeline_of(sd15_folder))
    init = write_kohya(tmp_path / "init.safetensors", parts, "sd15")
    settings = config(tmp_path, sd15_folder, init, "optim.ema_decay=0.5", "optim.lr=0.03")
    train(settings)
    assert "(its text encoder part is frozen)" in capsys.readouterr().err
    run = tmp_path / "run"
    text = {"text_encoder": parts["text_encoder"]}
    expected = theirs(merge(pipeline_of(sd15_folder), text))

    # stored embeddings are those of the adapted text encoder
    source = PairData(path=settings.data.path).open()
    prompts = list(dict.fromkeys(prompt for row in range(len(source)) for prompt in source[row].prompts))
    (stored,) = (load_file(path)["tokens"] for path in run.glob("cache/text-*/*.safetensors"))
    tokens, _ = merge(pipeline_of(sd15_folder), text).encode_prompt(prompts, torch.device("cpu"), 1, False)
    torch.testing.assert_close(stored, tokens, atol=1e-5, rtol=1e-5)

    answers = by_us(sd15_folder, run)
    torch.testing.assert_close(answers.tokens, expected.tokens, atol=1e-5, rtol=1e-5)
    assert (answers.output - theirs(merge(pipeline_of(sd15_folder), parts)).output).abs().max() > 0.001  # it learnt
    assert_same(in_diffusers(sd15_folder, run / "lora" / FILE_NAME), answers)
    as_model = StableDiffusion15(pretrained=str(run)).build(torch.device("cpu"))
    beside, _ = open_model(str(sd15_folder), loras={str(run): 1.0})
    torch.testing.assert_close(as_model.null().tokens, beside.null().tokens, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(by_us(sd15_folder, run / "lora-ema").tokens, answers.tokens)

    out = export_model(tmp_path / "out", source_of_run(run), "kohya", checkpoints_of=run)
    independent = merge(pipeline_of(sd15_folder), read_kohya(out / "run.safetensors", parts, "sd15"))
    assert_same(theirs(independent), answers)
    last = out / "run-step-000003.safetensors"
    assert_same(by_us(sd15_folder, last), answers)
    middle = read_kohya(out / "run-step-000002.safetensors", parts, "sd15")
    assert all(torch.equal(made.up, parts["text_encoder"][name].up) for name, made in middle["text_encoder"].items())
