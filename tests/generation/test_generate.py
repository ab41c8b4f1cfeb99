"""Images and image folders: what an image depends on, and what a kill or a changed setting does."""

from __future__ import annotations

import csv
import json
import logging
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler
from PIL import Image
from typer.testing import CliRunner

from t2ialign.backbones.adapters import adapter_parameters, add_adapter
from t2ialign.backbones.stable_diffusion import StableDiffusion15, StableDiffusionXL
from t2ialign.cli.main import app
from t2ialign.config.generation import GenerationConfig
from t2ialign.config.schema import Lora
from t2ialign.errors import DataError, InputError
from t2ialign.generation.folder import generate_folder
from t2ialign.generation.images import generate_images, image_seed
from t2ialign.policy import Policy
from t2ialign.storage.digest import tensor_digest
from t2ialign.types import Conditioning

CPU = torch.device("cpu")
SETTINGS = GenerationConfig(guidance_scale=3.0, inference_steps=3)
PROMPTS = ["a red circle", "two cats"]


@pytest.fixture(scope="module")
def policy(sd15_folder: Path) -> Policy:
    return Policy(StableDiffusion15(pretrained=str(sd15_folder)).build(CPU))


def images(policy: Policy, prompts: list[str], seeds: list[int], batch: int = 2, **options) -> list[np.ndarray]:
    settings = SETTINGS.model_copy(update={"batch": batch, **options.pop("settings", {})})
    return [np.asarray(image).astype(int) for image in generate_images(policy, prompts, seeds, settings, **options)]


def folder(policy: Policy, out: Path, prompts: list[str] | None = None, **options) -> list[Path]:
    settings = SETTINGS.model_copy(update={"images_per_prompt": 2, "batch": 3, **options.pop("settings", {})})
    options = {"description": {"model": "tiny", "adapters": []}, "progress": False, **options}
    return generate_folder(policy, PROMPTS if prompts is None else prompts, out, settings, **options).paths


def same(one: np.ndarray, other: np.ndarray) -> bool:
    """Equal up to the rounding of one 8-bit level, which another batch size may cause."""
    return bool(np.abs(one - other).max() <= 1)


def test_an_image_depends_on_its_prompt_and_seed_alone(policy: Policy):
    three = images(policy, ["a red circle", "two cats", "a red circle"], [5, 6, 7], batch=3)
    alone = images(policy, ["two cats"], [6], batch=1)
    assert same(three[1], alone[0])
    assert not same(three[0], three[2])  # another seed
    assert not same(images(policy, ["a dog"], [6])[0], alone[0])  # another prompt


def test_shards_share_a_folder(policy: Policy, tmp_path: Path):
    folder(policy, tmp_path / "whole")
    folder(policy, tmp_path / "shared", shard=(1, 2))
    assert sorted(path.name for path in (tmp_path / "shared").glob("*.png")) == ["0_1.png", "1_1.png"]
    paths = folder(policy, tmp_path / "shared", shard=(0, 2))
    assert (tmp_path / "shared/generation.json").read_text() == (tmp_path / "whole/generation.json").read_text()
    for path in paths:
        one, other = (
            np.asarray(Image.open(where / path.name)).astype(int) for where in (path.parent, tmp_path / "whole")
        )
        assert same(one, other)


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_the_same_seed_gives_the_diffusers_pipelines_image(request, family: str):
    config = StableDiffusionXL if family == "sdxl" else StableDiffusion15
    policy = Policy(config(pretrained=str(request.getfixturevalue(f"{family}_folder"))).build(CPU))
    ours = images(policy, ["a red circle"], [11], settings={"inference_steps": 5})[0]
    pipeline = policy.backbone.pipeline()
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(  # type: ignore[operator]
        "a red circle", num_inference_steps=5, guidance_scale=3.0, generator=torch.Generator().manual_seed(11)
    ).images[0]
    assert same(ours, np.asarray(theirs).astype(int))


SCHEDULERS = {"ddim": DDIMScheduler, "euler": EulerDiscreteScheduler, "dpm++": DPMSolverMultistepScheduler}


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_size_and_negative_prompt_gives_the_diffusers_pipelines_images(request, family: str, name: str):
    config = StableDiffusionXL if family == "sdxl" else StableDiffusion15
    policy = Policy(config(pretrained=str(request.getfixturevalue(f"{family}_folder"))).build(CPU))
    wanted = {"width": 64, "height": 48}
    settings = {"scheduler": name, "inference_steps": 6, "negative_prompt": "a green square", **wanted}
    if name == "ddim":  # the others' strides are whole for leading spacing only
        settings["inference_steps"] = 5
    ours = images(policy, PROMPTS, [11, 12], settings=settings)
    pipeline = policy.backbone.pipeline()
    pipeline.scheduler = SCHEDULERS[name].from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(  # type: ignore[operator]
        PROMPTS,
        negative_prompt=["a green square"] * 2,
        num_inference_steps=settings["inference_steps"],
        guidance_scale=3.0,
        generator=[torch.Generator().manual_seed(seed) for seed in (11, 12)],
        **wanted,
    ).images
    for one, other in zip(ours, theirs, strict=True):
        assert one.shape == (48, 64, 3)
        assert same(one, np.asarray(other).astype(int))
    assert not same(ours[0], images(policy, PROMPTS, [11, 12], settings={**settings, "negative_prompt": None})[0])


def test_each_image_of_a_batch_says_its_own_prompt_seed_and_settings(policy: Policy, tmp_path: Path):
    prompts = ["a red circle", "dos círculos rojos, 二つ"]
    settings = {"width": 32, "negative_prompt": "blurred", "scheduler": "dpm++"}
    paths = folder(policy, tmp_path, prompts=prompts, settings=settings, indices=[509, 7])
    entries = json.loads((tmp_path / "generation.json").read_text())["images"]
    assert len({entry["seed"] for entry in entries}) == 4
    for path, entry in zip(paths, entries, strict=True):
        with Image.open(path) as image:
            found = {key: value for key, value in image.info.items() if isinstance(value, str)}
            assert image.size == (32, 64)
        assert found.pop("parameters").splitlines() == [
            entry["prompt"],
            "Negative prompt: blurred",
            f"Steps: 3, Sampler: DPM++ 2M, CFG scale: 3.0, Seed: {entry['seed']}, Size: 32x64, Model: tiny, "
            f"Version: t2ialign {version('t2ialign')}",
        ]
        numbers = {"prompt_index": entry["index"], "image_index": entry["k"], "seed": entry["seed"]}
        assert found == {key: str(value) for key, value in numbers.items()}


def test_noise_of_the_steps_comes_from_the_generator_of_each_image_as_in_diffusers(policy: Policy):
    ours = images(policy, PROMPTS, [11, 12], settings={"eta": 1.0, "inference_steps": 4})
    alone = images(policy, PROMPTS[1:], [12], settings={"eta": 1.0, "inference_steps": 4})
    assert same(ours[1], alone[0])
    pipeline = policy.backbone.pipeline()
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(  # type: ignore[operator]
        PROMPTS[0], num_inference_steps=4, guidance_scale=3.0, eta=1.0, generator=torch.Generator().manual_seed(11)
    ).images[0]
    assert same(ours[0], np.asarray(theirs).astype(int))


class Overflowing:
    """Makes the tokens of prompts that say so infinite, or the pixels of all images."""

    def __init__(self, policy: Policy, monkeypatch: pytest.MonkeyPatch):
        self._encode, self._decode = policy.backbone.encode_prompts, policy.backbone._vae.decode  # type: ignore[attr-defined]
        self.pixels = 1.0
        monkeypatch.setattr(policy.backbone, "encode_prompts", self.encode)
        monkeypatch.setattr(policy.backbone._vae, "decode", self.decode)  # type: ignore[attr-defined]

    def encode(self, prompts: list[str]) -> Conditioning:
        factor = torch.tensor([torch.inf if "overflow" in prompt else 1.0 for prompt in prompts])
        return self._encode(prompts).map(lambda tensor: tensor * factor.view(-1, *[1] * (tensor.ndim - 1)))

    def decode(self, *arguments: object, **options: object) -> tuple[torch.Tensor]:
        return (self._decode(*arguments, **options)[0] * self.pixels,)


def test_images_that_are_not_finite_are_failures_with_prompt_and_seed(policy: Policy, tmp_path: Path, monkeypatch):
    model = Overflowing(policy, monkeypatch)
    prompts = ["a cat", "an overflow", "a dog"]
    with pytest.raises(
        DataError, match=r"2 of 6 images.*latents of prompt 'an overflow', seed \d+, are NaN.*1 more.*--precision fp32"
    ):
        folder(policy, tmp_path / "out", prompts=prompts)
    made = {"0_0.png", "0_1.png", "2_0.png", "2_1.png"}
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == made
    monkeypatch.undo()
    assert len(folder(policy, tmp_path / "out", prompts=prompts)) == 6  # what was not made is made now
    assert len(list((tmp_path / "out").glob("*.png"))) == 6
    for factor in (torch.inf, torch.nan):  # an infinite pixel, too, would pass for a white one
        model = Overflowing(policy, monkeypatch)
        model.pixels = factor
        with pytest.raises(DataError, match="the pixels of prompt 'a cat', seed 5, are NaN or infinite"):
            images(policy, ["a cat"], [5])
        monkeypatch.undo()


def test_a_model_whose_every_image_overflows_is_given_up_after_one_batch(policy: Policy, tmp_path: Path, monkeypatch):
    Overflowing(policy, monkeypatch)
    with pytest.raises(DataError, match="3 of 3 images were not made"):
        folder(policy, tmp_path / "out", prompts=[f"overflow {number}" for number in range(20)])
    assert not list((tmp_path / "out").glob("*.png"))


def test_another_resolution_makes_images_of_that_size(policy: Policy):
    assert images(policy, ["a cat"], [0], settings={"resolution": 32})[0].shape == (32, 32, 3)


def test_every_prompt_is_encoded_once(policy: Policy, monkeypatch):
    policy.backbone.null()
    encoded: list[str] = []
    original = policy.backbone.encode_prompts
    monkeypatch.setattr(policy.backbone, "encode_prompts", lambda prompts: encoded.extend(prompts) or original(prompts))
    images(policy, ["a cat"] * 3 + ["a dog"] * 2, [0, 1, 2, 3, 4], batch=2)
    assert encoded == ["a cat", "a dog"]


def test_a_resolution_or_a_number_of_steps_that_cannot_be_is_an_input_error(policy: Policy):
    with pytest.raises(InputError, match="resolution 60 is not a multiple of 8"):
        images(policy, ["a cat"], [0], settings={"resolution": 60})
    with pytest.raises(InputError, match="height 60 is not a multiple of 8"):
        images(policy, ["a cat"], [0], settings={"height": 60})
    with pytest.raises(InputError, match="1001 sampling steps"):
        images(policy, ["a cat"], [0], settings={"inference_steps": 1001})


def test_a_folder_holds_its_images_and_their_record(policy: Policy, tmp_path: Path):
    paths = folder(policy, tmp_path / "out")
    assert [path.name for path in paths] == ["0_0.png", "0_1.png", "1_0.png", "1_1.png"]
    assert {p.name for p in (tmp_path / "out").iterdir()} == {*(p.name for p in paths), "generation.json", ".lock"}
    record = json.loads((tmp_path / "out" / "generation.json").read_text())
    assert (record["model"], record["steps"], record["guidance"]["scale"]) == ("tiny", 3, 3.0)
    entry = record["images"][3]
    assert entry == {"index": 1, "k": 1, "prompt": "two cats", "seed": image_seed(0, 1, 1), "file": "1_1.png"}
    with Image.open(paths[3]) as image:
        assert same(np.asarray(image).astype(int), images(policy, ["two cats"], [entry["seed"]])[0])


def test_seeds_do_not_depend_on_how_many_images_a_prompt_gets(policy: Policy, tmp_path: Path):
    folder(policy, tmp_path / "one", settings={"images_per_prompt": 1})
    folder(policy, tmp_path / "two", settings={"images_per_prompt": 2})
    one, two = (np.asarray(Image.open(tmp_path / name / "1_0.png")).astype(int) for name in ("one", "two"))
    assert same(one, two)


def test_after_a_kill_only_what_is_missing_is_made(policy: Policy, tmp_path: Path, monkeypatch):
    made = 0
    save = Image.Image.save

    def killed(image, *arguments, **options):
        nonlocal made
        made += 1
        if made == 3:
            raise KeyboardInterrupt
        save(image, *arguments, **options)

    monkeypatch.setattr(Image.Image, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        folder(policy, tmp_path)
    monkeypatch.undo()
    assert {path.name for path in tmp_path.iterdir()} == {"0_0.png", "0_1.png", "generation.json", ".lock"}
    kept = (tmp_path / "0_1.png").stat().st_mtime_ns
    folder(policy, tmp_path)
    assert (tmp_path / "0_1.png").stat().st_mtime_ns == kept
    folder(policy, tmp_path.parent / f"{tmp_path.name}-whole")
    for path in tmp_path.glob("*.png"):
        whole = tmp_path.parent / f"{tmp_path.name}-whole" / path.name
        assert same(*(np.asarray(Image.open(file)).astype(int) for file in (path, whole)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"settings": {"inference_steps": 4}}, "steps 3, not 4"),
        ({"settings": {"guidance_scale": 7.0}}, "guidance"),
        ({"prompts": ["a red circle", "two dogs"]}, "other prompts"),
        ({"settings": {"seed": 1}}, "seed 0, not 1"),
        ({"settings": {"eta": 1.0}}, "sampler .*eta"),
        ({"settings": {"scheduler": "euler"}}, "sampler .*euler"),
        ({"settings": {"negative_prompt": ""}}, "guidance .*negative_prompt"),
        ({"settings": {"width": 32}}, r"resolution 64, not \[32, 64\]"),
        ({"negative": {}}, "guidance"),
        ({"description": {"model": "tiny", "adapters": ["style"]}}, "adapters"),
    ],
)
def test_a_folder_made_with_other_settings_is_refused(policy: Policy, tmp_path: Path, change: dict, message: str):
    folder(policy, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    with pytest.raises(InputError, match=message):
        folder(policy, tmp_path, **change)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def test_a_folder_made_with_other_weights_is_refused(sd15_folder: Path, tmp_path: Path):
    backbone = StableDiffusion15(pretrained=str(sd15_folder)).build(CPU)
    add_adapter(backbone.denoiser, "learner", Lora(rank=2, alpha=2), seed=0, trainable=False)
    policy = Policy(backbone)
    folder(policy, tmp_path)
    for parameter in adapter_parameters(backbone.denoiser, "learner").values():
        parameter.data.add_(0.1)
    with pytest.raises(InputError, match="other weights"):
        folder(policy, tmp_path)


def test_a_folder_of_something_else_is_left_alone(policy: Policy, tmp_path: Path):
    Image.new("RGB", (8, 8)).save(tmp_path / "holiday.png")
    with pytest.raises(InputError, match=r"holiday.png.*no generation.json"):
        folder(policy, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"holiday.png", ".lock"}


def test_a_prompt_that_is_no_text_is_an_input_error(policy: Policy, tmp_path: Path):
    with pytest.raises(InputError, match=r"prompt 'caf\\udce9': holds bytes that are not UTF-8"):
        folder(policy, tmp_path, ["a cat", "caf\udce9"])


def test_the_bar_names_the_folder_as_it_stands(policy: Policy, tmp_path: Path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder(policy, Path("[red]:cat:"), ["a cat"], progress=True)
    assert "[red]:cat:" in capsys.readouterr().out


def test_no_prompts_is_an_input_error(policy: Policy, tmp_path: Path):
    with pytest.raises(InputError, match="no prompts"):
        folder(policy, tmp_path, prompts=[])


def test_prompts_keep_their_own_numbers(policy: Policy, tmp_path: Path):
    paths = folder(policy, tmp_path / "out", indices=[509, 7])
    assert [path.name for path in paths] == ["509_0.png", "509_1.png", "7_0.png", "7_1.png"]
    rows = json.loads((tmp_path / "out/generation.json").read_text())["images"]
    assert [(row["index"], row["prompt"]) for row in rows[::2]] == [(509, PROMPTS[0]), (7, PROMPTS[1])]
    for wrong in ([1], [1, 1]):
        with pytest.raises(ValueError, match="different indices"):
            folder(policy, tmp_path / "wrong", indices=wrong)


def test_seeds_follow_the_policy():
    assert [image_seed(3407, index, k, "official") for index in (0, 599) for k in (0, 3)] == [3407, 3410, 3407, 3410]
    # 3407 + 10000 * 3 + 599
    assert image_seed(3407, 599, 3, "per_prompt") == 34006
    keyed = {image_seed(seed, index, k) for seed in range(5) for index in range(20) for k in range(4)}
    assert len(keyed) == 400


def test_the_official_policy_starts_all_prompts_from_the_same_noise(policy: Policy, tmp_path: Path):
    folder(policy, tmp_path / "out", prompts=["a cat", "a cat"], settings={"seed": 3407, "seed_policy": "official"})
    record = json.loads((tmp_path / "out/generation.json").read_text())
    assert (record["seed"], record["seed_policy"]) == (3407, "official")
    assert [row["seed"] for row in record["images"]] == [3407, 3408, 3407, 3408]
    one, other, same_one = (
        np.asarray(Image.open(tmp_path / f"out/{name}.png")).astype(int) for name in ("0_0", "0_1", "1_0")
    )
    assert same(one, same_one)
    assert not same(one, other)
    with pytest.raises(InputError, match="seed_policy 'official', not 'keyed'"):
        folder(policy, tmp_path / "out", prompts=["a cat", "a cat"], settings={"seed": 3407})


def test_an_image_that_was_cut_is_made_again(policy: Policy, tmp_path: Path):
    paths = folder(policy, tmp_path)
    whole = np.asarray(Image.open(paths[2])).astype(int)
    paths[2].write_bytes(paths[2].read_bytes()[:-5])
    paths[3].write_bytes(b"")
    kept = paths[0].stat().st_mtime_ns
    folder(policy, tmp_path)
    assert same(np.asarray(Image.open(paths[2])).astype(int), whole)
    assert paths[3].stat().st_size > 0
    assert paths[0].stat().st_mtime_ns == kept


def test_prompts_that_exceed_the_text_encoder_are_warned_of_first_and_recorded(
    sd15_folder: Path, tmp_path: Path, caplog
):
    policy = Policy(StableDiffusion15(pretrained=str(sd15_folder)).build(CPU))
    long = "a red circle above a blue square " * 4  # beyond the 16 tokens of the tiny text encoder
    with caplog.at_level(logging.WARNING, logger="t2ialign"):
        folder(
            policy,
            tmp_path,
            prompts=["a cat", long, long + "two dogs"],
            indices=[4, 8, 9],
            settings={"images_per_prompt": 1},
        )
    ours = [record.message for record in caplog.records if record.name.startswith("t2ialign")]
    assert len(ours) == 1
    assert "2 of 3 prompts exceed the text encoder's 16 tokens" in ours[0]
    assert json.loads((tmp_path / "generation.json").read_text())["truncated_prompts"] == [8, 9]


def test_the_record_says_how_images_were_sampled_and_by_which_versions(policy: Policy, tmp_path: Path):
    folder(policy, tmp_path)
    record = json.loads((tmp_path / "generation.json").read_text())
    assert record["sampler"] == {"name": "ddim", **policy.backbone.sampling}
    assert torch.__version__.startswith(record["versions"]["torch"])
    record["versions"]["torch"] = "1.0"
    (tmp_path / "generation.json").write_text(json.dumps(record))
    folder(policy, tmp_path)  # another version goes on with the folder


def test_a_folder_begun_with_version_0_1_is_continued(policy: Policy, tmp_path: Path):
    images_of_it = [
        {"index": index, "k": k, "prompt": prompt, "seed": image_seed(0, index, k), "file": f"{index}_{k}.png"}
        for index, prompt in enumerate(PROMPTS)
        for k in range(2)
    ]
    record = {
        "model": "tiny",
        "adapters": [],
        "guidance": {"scale": 3.0, "cond": {"lora0": 1.0}, "uncond": {"lora0": 1.0}},
        "steps": 3,
        "resolution": policy.backbone.resolution,
        "images_per_prompt": 2,
        "seed": 0,
        "seed_policy": "keyed",
        "sampler": {"name": "ddim", **policy.backbone.sampling},
        "truncated_prompts": [],
        "fingerprint": tensor_digest(policy.denoiser.state_dict().items(), policy.backbone.fingerprint),
        "versions": {"t2ialign": "0.1.0"},
        "images": images_of_it,
    }
    path = tmp_path / "generation.json"
    path.write_text(json.dumps(record, indent=1))
    for image in images_of_it:  # all there: nothing is drawn with the adapter that is only named here
        Image.new("RGB", (8, 8)).save(tmp_path / str(image["file"]))
    folder(policy, tmp_path, weights={"lora0": 1.0})
    assert json.loads(path.read_text()) == record


def unigenbench_file(path: Path, indices: list[int]) -> Path:
    content = {"Testpoints": ["Attribute - Color"], "Testpoint Description": ["red"]}
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(
            [["index", "prompt_en", "sub_dims_en"], *([i, f"a red cat {i}", json.dumps(content)] for i in indices)]
        )
    return path


def generate(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["generate", *map(str, arguments)])
    return result.exit_code, f"{result.output}{result.exception or ''}"


def test_the_command_makes_the_folder_that_unigenbench_reads(sd15_folder: Path, tmp_path: Path):
    prompts = unigenbench_file(tmp_path / "prompts.csv", [3, 7])
    common = ("--model", sd15_folder, "--prompts", prompts, "--out", tmp_path / "out", "--images-per-prompt", 2)
    common += ("--steps", 2, "--seed", 3407, "--seed-policy", "official", "--world", 2)
    for rank in range(2):
        code, output = generate(*common, "--rank", rank)
        assert code == 0, output
        assert f"2 images in {tmp_path / 'out'}, share {rank} of 2" in output
        # image k of the prompt in place i belongs to rank (2 i + k) mod 2
        names = {f"{index}_{k}.png" for index in (3, 7) for k in range(rank + 1)}
        assert {path.name for path in (tmp_path / "out").glob("*.png")} == names
    record = json.loads((tmp_path / "out/generation.json").read_text())
    assert [(row["file"], row["seed"]) for row in record["images"]] == [
        ("3_0.png", 3407), ("3_1.png", 3408), ("7_0.png", 3407), ("7_1.png", 3408),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--prompt", "a cat", "--rank", 2, "--world", 2), "--rank 2: is one of 0 to 1"),
        (
            ("--prompt", "a cat", "--negative-prompt", "a dog", "--guidance", 1),
            "--guidance 1 makes no unconditional pass",
        ),
        (("--prompt", "a cat", "--subset", "testmini60"), "--subset testmini60: is a part of --prompts FILE"),
    ],
)
def test_a_wrong_option_is_an_input_error(tmp_path: Path, arguments: tuple, message: str):
    code, output = generate("--model", "none", "--out", tmp_path, *arguments)
    assert code != 0
    assert message in output


def test_base_and_policy_get_the_same_noise(sd15_folder: Path):
    backbone = StableDiffusion15(pretrained=str(sd15_folder)).build(CPU)
    add_adapter(backbone.denoiser, "learner", Lora(rank=2, alpha=2), seed=0, trainable=False)
    policy = Policy(backbone)
    base = images(policy, PROMPTS, [1, 2], weights="base")
    untrained = images(policy, PROMPTS, [1, 2])
    assert all(same(*pair) for pair in zip(base, untrained, strict=True))
    for parameter in adapter_parameters(backbone.denoiser, "learner").values():
        parameter.data.add_(0.3)
    aligned = images(policy, PROMPTS, [1, 2])
    assert not any(same(*pair) for pair in zip(base, aligned, strict=True))
