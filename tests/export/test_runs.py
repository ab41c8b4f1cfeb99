"""What a run learnt, exported: its LoRA, each checkpoint's, its average, a whole pipeline; the card; the hub."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import toys
import yaml
from diffusers import DiffusionPipeline, UNet2DConditionModel
from safetensors import safe_open
from safetensors.torch import load_file
from typer.testing import CliRunner

from t2ialign.backbones.lora_checks import FILE_NAME
from t2ialign.cli.main import app
from t2ialign.config.reader import load
from t2ialign.errors import InputError
from t2ialign.export import licences, push
from t2ialign.export.card import data_name
from t2ialign.export.licences import licence_of
from t2ialign.models import open_model
from t2ialign.training.preflight import check
from t2ialign.training.trackers import read_metrics
from t2ialign.training.train import train


@pytest.fixture(scope="module")
def run(sd15_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three steps of DPO with an average, saved after the second and the third."""
    folder = tmp_path_factory.mktemp("run")
    pairs = toys.pair_folder(folder / "pairs", 4)
    path = toys.write_config(folder / "c.yaml", model=sd15_folder, pairs=pairs, run_dir=folder / "sunny")
    train(load(path, ["optim.ema_decay=0.5", "checkpoint.every_steps=1"]))
    return folder / "sunny"


def export(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["export", *map(str, arguments)])


def exported(out: Path, *arguments: object) -> Path:
    done = export(*arguments, "--out", out)
    assert done.exit_code == 0, done.output
    return out


def entries(file: Path) -> dict[str, str]:
    with safe_open(file, framework="pt") as opened:
        return opened.metadata()


def test_a_run_becomes_one_file_with_alpha_and_what_made_it(run: Path, tmp_path: Path):
    out = exported(tmp_path / "out", run, "--to", "kohya")
    assert sorted(path.name for path in out.iterdir()) == ["README.md", "sunny.safetensors"]
    tensors = load_file(out / "sunny.safetensors")
    alphas = {tensor.item() for name, tensor in tensors.items() if name.endswith(".alpha")}
    assert alphas == {4.0}
    assert len(tensors) == 3 * sum(name.endswith(".alpha") for name in tensors)
    said = entries(out / "sunny.safetensors")
    assert (said["ss_network_dim"], said["ss_network_alpha"], said["ss_base_model_version"]) == ("2", "4", "sd_v1")
    assert said["modelspec.architecture"] == "stable-diffusion-v1/lora"
    made = json.loads(said["t2ialign"])
    assert (made["objective"], made["paper"], made["data"], made["steps"]) == (
        "dpo",
        "2311.12908",
        "pairs: pairs.csv",
        3,
    )
    assert data_name(Path("hf://someone/pairs")) == "https://huggingface.co/datasets/someone/pairs"
    assert made["base"] == "tiny-sd15"  # not the folder that it lies in


def test_every_checkpoint_is_a_file_of_its_step(run: Path, tmp_path: Path):
    """The last one is what the run left, and each is what the checkpoint holds."""
    out = exported(tmp_path / "out", run, "--checkpoints")
    steps = ["sunny-step-000002.safetensors", "sunny-step-000003.safetensors"]
    assert sorted(path.name for path in out.iterdir()) == ["README.md", FILE_NAME, *steps]
    first, last, result = (load_file(out / name) for name in (*steps, FILE_NAME))
    assert last.keys() == result.keys() == load_file(run / "lora" / FILE_NAME).keys()
    assert all(torch.equal(last[name], tensor) for name, tensor in load_file(run / "lora" / FILE_NAME).items())
    assert any(not torch.equal(first[name], tensor) for name, tensor in last.items())
    assert json.loads(entries(out / steps[0])["t2ialign"])["steps"] == 2
    averages = exported(tmp_path / "ema", run, "--checkpoints", "--weights", "ema")
    average = load_file(averages / "sunny-ema-step-000003.safetensors")
    assert all(torch.equal(average[name], tensor) for name, tensor in load_file(run / "lora-ema" / FILE_NAME).items())


def test_a_dora_run_starts_at_ln_2_goes_on_and_is_exported(sd15_folder: Path, tmp_path: Path):
    pairs = toys.pair_folder(tmp_path / "pairs", 4)
    run = tmp_path / "runs" / "dora"
    path = toys.write_config(tmp_path / "c.yaml", model=sd15_folder, pairs=pairs, run_dir=run)
    lora = ["lora.dora=true", "lora.rank_pattern={to_k: 1}", "optim.ema_decay=0.5"]
    for steps in (2, 3):
        train(load(path, [*lora, f"train.steps={steps}"]))
    assert read_metrics(run / "metrics.jsonl")[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    out = exported(tmp_path / "out", run, "--checkpoints", "--to", "kohya")
    tensors = load_file(out / "dora.safetensors")
    assert len(tensors) == 4 * sum(name.endswith(".dora_scale") for name in tensors)
    policy, mixture = open_model(str(sd15_folder), loras={str(run): 1.0})
    pipeline: Any = DiffusionPipeline.from_pretrained(sd15_folder)
    pipeline.load_lora_weights(run / "lora")
    latents, text = torch.ones(1, 4, 8, 8), torch.ones(1, 5, pipeline.unet.config.cross_attention_dim)
    with torch.no_grad(), policy.mixture(mixture) as unet:
        ours, theirs = (network(latents, torch.tensor([9]), text).sample for network in (unet, pipeline.unet))
    torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=1e-5)
    with pytest.raises(InputError, match="a DoRA rescales weights instead of adding to them"):
        check(load(path, [*lora, "validate.prompts=c.yaml", f"validate.negative=[{run}]"]), 1)


def test_an_unfinished_run_has_its_checkpoints(run: Path, tmp_path: Path):
    (tmp_path / "going").mkdir()
    for name in ("config.yaml", "checkpoints"):
        (tmp_path / "going" / name).symlink_to(run / name)
    failed = export(tmp_path / "going", "--out", tmp_path / "no")
    assert "has no lora; there is checkpoints: step-000002, step-000003; add --checkpoints" in str(failed.exception)
    out = exported(tmp_path / "out", tmp_path / "going", "--checkpoints", "--to", "kohya")
    assert len(list(out.glob("going-step-*.safetensors"))) == len(list(out.glob("*.safetensors"))) == 2


def test_a_full_fine_tuning_becomes_a_pipeline(run: Path, sd15_folder: Path, tmp_path: Path):
    unet = UNet2DConditionModel.from_pretrained(sd15_folder / "unet")
    with torch.no_grad():
        unet.conv_in.weight += 1
    unet.save_pretrained(tmp_path / "full" / "unet")
    content = yaml.safe_load((run / "config.yaml").read_text())
    (tmp_path / "full" / "config.yaml").write_text(yaml.safe_dump({**content, "lora": None}))
    out = exported(tmp_path / "out", tmp_path / "full", "--to", "merged", "--precision", "fp16")
    pipeline = DiffusionPipeline.from_pretrained(out, dtype=torch.float16)
    assert torch.equal(pipeline.unet.conv_in.weight, unet.conv_in.weight.half())


def test_the_card_says_what_made_it_and_names_no_folder_of_this_machine(run: Path, tmp_path: Path):
    card = (exported(tmp_path / "out", run) / "README.md").read_text()
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["tags"] == ["stable-diffusion", "lora", "dpo", "t2ialign"]
    assert "base_model" not in front  # a local folder means nothing elsewhere
    for part in ("objective dpo (https://arxiv.org/abs/2311.12908)", "3 steps of 4 examples", "pairs: pairs.csv"):
        assert part in card
    assert "inherits CreativeML Open RAIL-M (https://huggingface.co/spaces/CompVis/stable-diffusion-license)" in card
    assert str(run.parent) not in card
    assert str(Path(load(run / "config.yaml").backbone.pretrained).parent) not in card


def test_licences_are_known_or_read_from_the_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    xl = licence_of("stabilityai/stable-diffusion-xl-base-1.0", "sdxl")
    assert (xl.tag, xl.name) == ("openrail++", "CreativeML Open RAIL++-M")
    assert licence_of("sdxl", "sdxl") == xl
    assert licence_of("runwayml/stable-diffusion-v1-5", "sd15").tag == "creativeml-openrail-m"
    (tmp_path / "README.md").write_text("---\nlicense: mit\ntags: [x]\n---\nlicense: other\n")
    assert licence_of(str(tmp_path), "sd15").tag == "mit"
    monkeypatch.setattr(licences, "cached_folder", lambda _: tmp_path)
    found = licence_of("someone/model", "sd15")
    assert (found.tag, found.link) == ("mit", "https://huggingface.co/someone/model")


class FakeApi:
    """What `push` asks of the hub, kept."""

    def __init__(self, calls: list[tuple[str, dict[str, Any]]]):
        self._calls = calls

    def create_repo(self, repo: str, **options: Any) -> str:
        self._calls.append((repo, options))
        return f"https://huggingface.co/{repo}"

    def upload_folder(self, **options: Any) -> None:
        self._calls.append(("upload", {**options, "files": sorted(p.name for p in options["folder_path"].iterdir())}))


def test_an_export_is_uploaded_without_its_token(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    calls: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setattr(push, "HfApi", lambda: FakeApi(calls))
    done = export(run, "--to", "kohya", "--out", tmp_path / "out", "--push-to", "me/sunny", "--private")
    assert done.exit_code == 0, done.output
    assert "uploaded to https://huggingface.co/me/sunny" in done.output
    (repo, made), (_, sent) = calls
    assert (repo, made) == ("me/sunny", {"private": True, "exist_ok": True})
    assert (sent["repo_id"], sent["files"]) == ("me/sunny", ["README.md", "sunny.safetensors"])
    assert not any(b"hf_secret" in path.read_bytes() for path in (tmp_path / "out").iterdir())
    assert "hf_secret" not in done.output


def test_a_repository_is_checked_before_anything_is_written(run: Path, tmp_path: Path):
    failed = export(run, "--out", tmp_path / "out", "--push-to", "sunny")
    assert str(failed.exception) == "--push-to sunny: write the repository as OWNER/NAME"
    assert not (tmp_path / "out").exists()
