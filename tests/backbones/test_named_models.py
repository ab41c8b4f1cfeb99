"""Models by alias, hub id and run folder, and UNets on a named base: what a name stands for."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from lora_files import finetune, saved
from safetensors.torch import load_file
from toys import backbone, pair_folder, write_config
from typer.testing import CliRunner

from t2ialign.backbones.facts import read_facts
from t2ialign.backbones.hub import ALIASES, hub_model
from t2ialign.backbones.stable_diffusion import StableDiffusion15, StableDiffusionXL
from t2ialign.cli.main import app
from t2ialign.config.reader import load
from t2ialign.errors import EnvironmentProblem, InputError
from t2ialign.models import family_of, open_model
from t2ialign.training.core import build_policy
from t2ialign.training.preflight import check

FAMILIES = {"sd15": StableDiffusion15, "sdxl": StableDiffusionXL}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty local cache of a hub that cannot be reached."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for module in ("huggingface_hub.constants", "diffusers.utils.constants", "diffusers.pipelines.pipeline_utils"):
        monkeypatch.setattr(f"{module}.HF_HUB_CACHE", str(tmp_path / "hub"), raising=False)
    return tmp_path / "hub"


def cache(hub: Path, name: str, revision: str, content: Path) -> Path:
    """Puts a folder into the cache as a hub model's only revision, which its branch main names."""
    model = hub / f"models--{name.replace('/', '--')}"
    shutil.copytree(content, model / "snapshots" / revision)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(revision)
    return model / "snapshots" / revision


def unet_weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(next(folder.glob("*.safetensors")))


def built(family: str, pretrained: str | Path, **options) -> dict[str, torch.Tensor]:
    """The UNet's weights of a backbone."""
    made = FAMILIES[family](pretrained=str(pretrained), **options).build(torch.device("cpu"))
    return made.denoiser.state_dict()


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_an_alias_is_its_hub_model_at_its_commit(request, hub: Path, family: str):
    folder = request.getfixturevalue(f"{family}_folder")
    name, revision = ALIASES[family]
    assert revision is not None
    cache(hub, name, revision, folder)
    assert family_of(family) == family_of(name) == family
    assert equal(built(family, family), unet_weights(folder / "unet"))
    assert same_facts(family, folder)
    with pytest.raises(EnvironmentProblem, match="not in the local cache"):
        built(family, family, revision="a-tag")
    assert equal(built(family, family, revision="main"), unet_weights(folder / "unet"))


def test_a_name_may_hold_its_revision(hub: Path, sd15_folder: Path):
    cache(hub, "someone/model", "1" * 40, sd15_folder)
    assert hub_model(f"someone/model@{'1' * 40}") == ("someone/model", "1" * 40)
    assert equal(built("sd15", f"someone/model@{'1' * 40}"), unet_weights(sd15_folder / "unet"))
    with pytest.raises(EnvironmentProblem, match="not in the local cache"):
        built("sd15", "someone/model@another")


def test_a_folder_named_like_an_alias_comes_first(sd15_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(sd15_folder, tmp_path / "sdxl")
    assert family_of("sdxl") == "sd15"
    assert equal(built("sd15", "sdxl"), unet_weights(sd15_folder / "unet"))


def test_a_cache_of_half_precision_files_alone_is_read(hub: Path, sd15_folder: Path):
    there = cache(hub, "someone/half", "2" * 40, sd15_folder)
    for path in there.glob("*/*.safetensors"):
        path.rename(path.with_name(f"{path.stem}.fp16.safetensors"))
    assert equal(built("sd15", "someone/half"), unet_weights(sd15_folder / "unet"))


def test_a_hub_id_that_is_nowhere_is_not_asked_for_its_family(hub: Path):
    with pytest.raises(EnvironmentProblem, match=r"nobody/nothing.*not in the local cache and the hub cannot"):
        family_of("nobody/nothing")


@pytest.fixture(scope="module")
def other_unet(sd15_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finetune(sd15_folder, tmp_path_factory.mktemp("unets"), moved=0.1, seed=3) / "unet"


def test_a_unet_stands_on_a_named_base(hub: Path, sd15_folder: Path, other_unet: Path, tmp_path: Path):
    wanted = unet_weights(other_unet)
    shutil.copytree(other_unet, tmp_path / "release" / "unet")
    cache(hub, "someone/dpo", "3" * 40, tmp_path / "release")
    for name in (str(other_unet), str(tmp_path / "release"), "someone/dpo", f"someone/dpo@{'3' * 40}"):
        assert equal(built("sd15", sd15_folder, unet=name), wanted)
        policy, mixture = open_model(str(sd15_folder), backbone={"unet": name})
        assert equal(policy.denoiser.state_dict(), wanted)
        assert mixture == {}
        assert same_facts(sd15_folder, sd15_folder, name)


def test_a_unet_of_another_family_is_refused(sd15_folder: Path, sdxl_folder: Path):
    with pytest.raises(InputError, match="its UNet has cross-attention width 72, its text encoders give 32"):
        built("sd15", sd15_folder, unet=str(sdxl_folder))


def test_a_unet_is_no_model_and_a_lora_no_unet(sd15_folder: Path, other_unet: Path, tmp_path: Path):
    for ask in (family_of, lambda name: built("sd15", name)):
        with pytest.raises(InputError, match=r"--unet"):
            ask(str(other_unet))
    lora = saved(sd15_folder, tmp_path / "lora", moved=0.1)
    with pytest.raises(InputError, match="holds no UNet"):
        built("sd15", sd15_folder, unet=str(lora.parent if lora.is_file() else lora))
    with pytest.raises(InputError, match="holds a whole UNet, no LoRA"):
        open_model(str(sd15_folder), loras={str(other_unet): 1.0})


def same_facts(name: str | Path, folder: Path, unet: str | None = None) -> bool:
    """Whether a model's files say what a folder's do, apart from where its UNet was saved from."""
    one, other = read_facts(str(name), None, unet), read_facts(str(folder))
    assert one is not None
    assert other is not None
    return one._replace(unet={}, folder=folder) == other._replace(unet={}, folder=folder)


def run_folder(place: Path, model: Path, extra: str = "") -> Path:
    """A run that has its config, and no result yet."""
    run = place / "run"
    run.mkdir(parents=True)
    return write_config(run / "config.yaml", model=model, pairs=pair_folder(place / "pairs", 2), run_dir=run).parent


def test_the_run_of_a_lora_is_a_model(sd15_folder: Path, tmp_path: Path):
    run = run_folder(tmp_path, sd15_folder)
    saved(sd15_folder, run / "lora", moved=0.1)
    saved(sd15_folder, run / "lora-ema", moved=0.2)
    assert family_of(str(run)) == "sd15"
    x, t, tokens = torch.randn(1, 4, 8, 8), torch.tensor([300]), backbone(sd15_folder).null().tokens
    outputs = []
    for result, lora in ((run, run), (run / "lora-ema", run / "lora-ema"), (run / "lora", run)):
        policy, mixture = open_model(str(sd15_folder), loras={str(lora): 1.0})
        with policy.mixture(mixture) as unet, torch.no_grad():
            expected = unet(x, t, tokens).sample
        merged = StableDiffusion15(pretrained=str(result)).build(torch.device("cpu")).denoiser
        with torch.no_grad():
            torch.testing.assert_close(merged(x, t, tokens).sample, expected, atol=1e-5, rtol=1e-5)
        assert equal(open_model(str(result))[0].denoiser.state_dict(), merged.state_dict())
        assert merged.state_dict().keys() == unet_weights(sd15_folder / "unet").keys()
        outputs.append(expected)
    assert not torch.allclose(outputs[0], outputs[1], atol=1e-4)
    assert same_facts(run, sd15_folder)


def test_the_run_of_a_full_fine_tuning_is_a_model_and_a_unet(sd15_folder: Path, other_unet: Path, tmp_path: Path):
    run = run_folder(tmp_path, sd15_folder)
    shutil.copytree(other_unet, run / "unet")
    shutil.copytree(sd15_folder / "unet", run / "unet-ema")
    wanted = unet_weights(other_unet)
    assert equal(built("sd15", run), wanted)
    assert equal(built("sd15", sd15_folder, unet=str(run)), wanted)
    assert equal(built("sd15", run / "unet-ema"), unet_weights(sd15_folder / "unet"))
    assert equal(open_model(str(run))[0].denoiser.state_dict(), wanted)
    assert same_facts(run, sd15_folder)
    with pytest.raises(InputError, match="holds a whole UNet, no LoRA"):
        open_model(str(sd15_folder), loras={str(run): 1.0})


def test_training_starts_from_a_run_as_model_and_as_lora(sd15_folder: Path, tmp_path: Path):
    run = run_folder(tmp_path, sd15_folder)
    saved(sd15_folder, run / "lora", moved=0.1)
    for name, change in (("model", f"backbone.pretrained={run}"), ("lora", f"lora.init={run}")):
        config = load(run / "config.yaml", [change, f"run_dir={tmp_path / name}"])
        plan = check(config, 1)
        assert plan.facts is not None
        policy = build_policy(config, config.backbone.build(torch.device("cpu"), torch.float32), keeps_reference=True)
        x, t, null = torch.randn(1, 4, 8, 8), torch.tensor([300]), policy.backbone.null()
        trained, mixture = open_model(str(sd15_folder), loras={str(run): 1.0})
        expected = trained.denoise(x, t, null, None, mixture)
        for weights in ("policy", "reference"):
            torch.testing.assert_close(policy.denoise(x, t, null, None, weights), expected, atol=1e-5, rtol=1e-5)


def test_a_run_on_a_run_is_followed_to_its_base(sd15_folder: Path, other_unet: Path, tmp_path: Path):
    first = run_folder(tmp_path / "first", sd15_folder)
    shutil.copytree(other_unet, first / "unet")
    second = run_folder(tmp_path / "second", first)
    saved(sd15_folder, second / "lora", moved=0.0)
    wanted = unet_weights(other_unet)
    for name, tensor in built("sd15", second).items():
        torch.testing.assert_close(tensor, wanted[name], atol=1e-6, rtol=1e-6)


def test_a_run_has_the_unconditional_branch_and_the_segments_that_it_was_trained_with(
    sd15_folder: Path, other_unet: Path, tmp_path: Path
):
    first = run_folder(tmp_path / "first", sd15_folder)
    shutil.copytree(other_unet, first / "unet")
    config = (first / "config.yaml").read_text()
    (first / "config.yaml").write_text(config.replace("name: sd15,", "name: sd15, 'null': zeros, prompt_segments: 2,"))
    second = run_folder(tmp_path / "second", first)
    saved(sd15_folder, second / "lora", moved=0.0)
    cpu = torch.device("cpu")
    for run in (first, second):
        null = StableDiffusion15(pretrained=str(run)).build(cpu).null().tokens
        assert not null.any()
        assert null.shape[1] == 2 * backbone(sd15_folder).null().tokens.shape[1]
        assert StableDiffusion15(pretrained=str(run), null="empty").build(cpu).null().tokens.any()
    assert backbone(sd15_folder).null().tokens.any()


def test_a_run_of_an_earlier_version_is_a_model(sd15_folder: Path, tmp_path: Path):
    run = run_folder(tmp_path, sd15_folder)
    saved(sd15_folder, run / "lora", moved=0.1)
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("name: sd15,", "name: sd15, long_prompts: truncate,"))
    assert built("sd15", run)
    (run / "config.yaml").write_text(text.replace("name: sd15,", "name: sd15, colour: red,"))
    with pytest.raises(InputError, match="colour"):
        built("sd15", run)


@pytest.mark.parametrize(
    "command",
    [
        ("generate", "--prompt", "a cat", "--out", "out"),
        ("accuracy", "PAIRS", "--lora", "lora"),
        ("data", "build", "--prompts", "prompts.txt", "--reward", "brightness", "--out", "out"),
    ],
    ids=lambda command: command[0],
)
def test_commands_that_open_a_model_take_a_unet(
    command: tuple[str, ...], sd15_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.txt").write_text("a cat\n")
    saved(sd15_folder, tmp_path / "lora", moved=0.1)
    table = str(pair_folder(tmp_path / "pairs", 2))
    words = [table if word == "PAIRS" else word for word in command]
    result = CliRunner().invoke(app, [*words, "--model", str(sd15_folder), "--unet", "gone.safetensors"])
    assert "gone.safetensors: no such file or folder" in str(result.exception)


def test_a_run_without_result_base_or_of_another_family_says_so(sd15_folder: Path, tmp_path: Path):
    run = run_folder(tmp_path, sd15_folder)
    with pytest.raises(InputError, match=r"a run without a result; finish it: t2ialign train .*config.yaml"):
        family_of(str(run))
    saved(sd15_folder, run / "lora", moved=0.1)
    with pytest.raises(InputError, match=r"a run of backbone 'sd15', not of 'sdxl'; set backbone.name: sd15"):
        built("sdxl", run)
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace(str(sd15_folder), "gone/model.safetensors"))
    with pytest.raises(InputError, match=r"was trained on gone/model.safetensors, which is not here"):
        built("sd15", run)
