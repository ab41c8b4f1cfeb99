"""Bad input: one clear message, the exit code of docs/errors.md, nothing half-written."""

from __future__ import annotations

import base64
import errno
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import stub
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from single_file import write_single_file
from toys import backbone, pair_folder, write_config

from t2ialign.backbones.adapters import adapter_parameters, add_adapter
from t2ialign.backbones.lora import save_lora
from t2ialign.cli import main as cli
from t2ialign.config.schema import Lora
from t2ialign.data.encoding import shards
from t2ialign.training import checkpoint, preflight

DOCUMENTED = Path(__file__).parents[2] / "docs" / "errors.md"
FULL = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


class Place:
    """A working folder with a tiny model, pairs and x.yaml, and the command run in it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, sdxl: Path):
        self.folder = folder
        self.monkeypatch = monkeypatch
        self.capsys = capsys
        self.sdxl = sdxl

        self.servers = ExitStack()

    def serve(self, answer: stub.Answer) -> None:
        """Starts a language model that always gives this answer, and names it in the environment."""
        server = self.servers.enter_context(stub.serve(lambda _: answer))
        self.monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1")

    @property
    def config(self) -> Path:
        return self.folder / "x.yaml"

    @property
    def run_dir(self) -> Path:
        return self.folder / "runs" / "x"

    def change(self, old: str, new: str) -> None:
        text = self.config.read_text()
        assert old in text
        self.config.write_text(text.replace(old, new))

    def table(self, text: str) -> None:
        (self.folder / "pairs" / "pairs.csv").write_text(text)

    def command(self, *arguments: str) -> tuple[int, str]:
        """(exit code, everything said) of `t2ialign ARGUMENTS`."""
        self.monkeypatch.setattr(sys, "argv", ["t2ialign", *arguments])
        self.capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            cli.main()
        said = self.capsys.readouterr()
        code = left.value.code
        return (code if isinstance(code, int) else 0), " ".join(f"{said.out} {said.err}".split())

    def train(self, *overrides: str) -> tuple[int, str]:
        return self.command("train", "x.yaml", *overrides)

    def state(self) -> dict[str, bytes]:
        """What a run left that a next one would read."""
        kept = ("config.yaml", "checkpoints", "lora", "metrics.jsonl")
        files = (p for p in self.run_dir.rglob("*") if p.is_file())
        relative = {str(p.relative_to(self.run_dir)): p for p in files}
        return {name: p.read_bytes() for name, p in relative.items() if name.startswith(kept)}


@pytest.fixture
def place(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    sd15_folder: Path,
    sdxl_folder: Path,
) -> Iterator[Place]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "tiny").symlink_to(sd15_folder)
    (tmp_path / "models" / "tiny-xl").symlink_to(sdxl_folder)
    pair_folder(tmp_path / "pairs", 4)
    write_config(tmp_path / "x.yaml", model=Path("models/tiny"), pairs=Path("pairs/pairs.csv"), run_dir=Path("runs/x"))
    handler = signal.getsignal(signal.SIGINT)
    made = Place(tmp_path, monkeypatch, capsys, sdxl_folder)
    with made.servers:
        yield made
    signal.signal(signal.SIGINT, handler)


class Case(NamedTuple):
    """A row of the table."""

    prepare: Callable[[Place], None]
    """Makes the input bad; may train first."""
    arguments: tuple[str, ...] = ("train", "x.yaml")


CASES: dict[str, Case] = {}


def case(name: str, *arguments: str) -> Callable[[Callable[[Place], None]], Callable[[Place], None]]:
    def keep(prepare: Callable[[Place], None]) -> Callable[[Place], None]:
        CASES[name] = Case(prepare, arguments or ("train", "x.yaml"))
        return prepare

    return keep


@case("unknown key")
def _(place: Place) -> None:
    place.change("beta: 100", "beta: 100, bta: 3")


@case("key of another trainer")
def _(place: Place) -> None:
    place.change("beta: 100", "beta: 100, beta_dpo: 3")


@case("no such key to list", "keys", "lerning_rate")
def _(_: Place) -> None: ...


@case("value of the wrong type")
def _(place: Place) -> None:
    place.change("steps: 3", "steps: three")


@case("value out of range")
def _(place: Place) -> None:
    place.change("beta: 100", "beta: -1")


@case("missing key")
def _(place: Place) -> None:
    place.change("optim: {lr: 1e-3}", "optim: {}")


@case("key written twice")
def _(place: Place) -> None:
    place.change("alpha: 4", "alpha: 4, rank: 8")


@case("unknown name of a component")
def _(place: Place) -> None:
    place.change("name: dpo", "name: dop")


@case("no such config", "train", "y.yaml")
def _(place: Place) -> None:
    pass


@case("not YAML")
def _(place: Place) -> None:
    place.change("noiser: {name: forward}", "noiser: {name: forward")


@case("wrong override", "train", "x.yaml", "train.stpes=5")
def _(place: Place) -> None:
    pass


@case("effective batch that cannot be made")
def _(place: Place) -> None:
    place.change("effective_batch: 4", "effective_batch: 5")


@case("objective and data that do not fit")
def _(place: Place) -> None:
    place.change("name: pairs", "name: singles")


@case("noiser of images and data without")
def _(place: Place) -> None:
    (place.folder / "prompts.txt").write_text("a red circle\n")
    place.change("name: pairs, path: pairs/pairs.csv", "name: prompts, path: prompts.txt")
    place.change("objective: {name: dpo, beta: 100}", "objective: {name: denoising}")


@case("missing model")
def _(place: Place) -> None:
    place.change("models/tiny", "./models/tinny")


@case("model that cannot be downloaded")
def _(place: Place) -> None:
    place.change("models/tiny", "nobody/nothing")


@case("model of another family")
def _(place: Place) -> None:
    place.change("models/tiny", "models/tiny-xl")


def _own_model(place: Place, name: str) -> Path:
    """A copy of the tiny model under models/, which the config names."""
    place.change("models/tiny", f"models/{name}")
    return shutil.copytree(place.folder / "models" / "tiny", place.folder / "models" / name)


@case("model that lacks a tensor")
def _(place: Place) -> None:
    path = _own_model(place, "part") / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    del tensors["conv_in.bias"]
    save_file(tensors, path, metadata={"format": "pt"})


@case("model of several variants")
def _(place: Place) -> None:
    folder = _own_model(place, "half")
    for path in folder.glob("*/*.safetensors"):
        path.rename(path.with_name(f"{path.stem}.fp16.safetensors"))
    (path,) = (folder / "unet").glob("*.safetensors")
    shutil.copy(path, path.with_name("diffusion_pytorch_model.ema.safetensors"))


@case("UNet as a model")
def _(place: Place) -> None:
    shutil.copytree(place.folder / "models" / "tiny" / "unet", place.folder / "models" / "unet")
    place.change("models/tiny", "models/unet")


@case("run without a result as a model")
def _(place: Place) -> None:
    (place.folder / "models" / "half").mkdir()
    shutil.copy(place.config, place.folder / "models" / "half" / "config.yaml")
    place.change("models/tiny", "models/half")


@case(
    "full fine-tune as a LoRA",
    "generate",
    "--model",
    "models/tiny",
    "--lora",
    "models/tiny",
    "--prompt",
    "a cat",
    "--out",
    "out",
)
def _(place: Place) -> None:
    pass


def _single_file(place: Place, header: dict[str, str] | None, keep: Callable[[str], bool], *extra: str) -> None:
    path = write_single_file(place.folder / "models" / "tiny", place.folder / "model.safetensors")
    tensors = {name: tensor for name, tensor in load_file(path).items() if keep(name)}
    save_file({**tensors, **{name: torch.zeros(0) for name in extra}}, path, metadata=header)
    place.change("pretrained: models/tiny", "pretrained: model.safetensors, single_file_config: models/tiny")


@case("single file without a VAE")
def _(place: Place) -> None:
    _single_file(place, None, lambda name: not name.startswith("first_stage_model."))


@case("single file that contradicts itself")
def _(place: Place) -> None:
    _single_file(place, {"modelspec.prediction_type": "epsilon"}, lambda name: True, "v_pred")


@case("missing package")
def _(place: Place) -> None:
    place.monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    place.change("lr: 1e-3", "lr: 1e-3, name: adamw8bit")


@case("optimizer without an option", "train", "x.yaml", "optim.name=torch.optim:SGD", "optim.options={momentun: 1}")
def _(place: Place) -> None:
    pass


@case("4 bits without bitsandbytes", "train", "x.yaml", "train.quantize=nf4")
def _(place: Place) -> None:
    place.monkeypatch.setattr("importlib.util.find_spec", lambda name: None)


@case("adapters in parts", "train", "x.yaml", "train.shard=fsdp2")
def _(place: Place) -> None:
    pass


@case("unknown tracker", "train", "x.yaml", "trackers=[wandbb]")
@case("tracker with a key", "train", "x.yaml", "trackers=[{name: wandb, api_key: 1234}]")
def _(place: Place) -> None:
    pass


@case("resolution that does not fit")
def _(place: Place) -> None:
    place.change("path: pairs/pairs.csv", "path: pairs/pairs.csv, resolution: 60")


@case("resolution that buckets do not fit")
def _(place: Place) -> None:
    place.change("path: pairs/pairs.csv", "path: pairs/pairs.csv, crop: bucket, resolution: 1000")


@case("missing table")
def _(place: Place) -> None:
    place.change("pairs/pairs.csv", "pairs/pears.csv")


@case("data that are not made yet", "train", str(DOCUMENTED.parents[1] / "configs" / "shapes_tdpo.yaml"))
def _(_: Place) -> None: ...


@case("missing column")
def _(place: Place) -> None:
    place.table("prompt,choosen,rejected\na cat,0_chosen.png,0_rejected.png\n")


@case("empty data")
def _(place: Place) -> None:
    place.table("prompt,chosen,rejected\n")


@case("all ties")
def _(place: Place) -> None:
    row = "a cat,0_chosen.png,0_rejected.png,0.5\n"
    place.table("prompt,image_0,image_1,label\n" + 4 * row)


@case("all prompts excluded")
def _(place: Place) -> None:
    (place.folder / "prompts.txt").write_text("a red circle\na blue square\n")
    place.change("name: pairs, path: pairs/pairs.csv", "name: prompts, path: prompts.txt, exclude: prompts.txt")
    place.change("objective: {name: dpo, beta: 100}", "objective: {name: denoising}")
    place.change("noiser: {name: forward}", "noiser: {name: self_rollout, start: noise, weights: reference}")


@case("missing image")
def _(place: Place) -> None:
    (place.folder / "pairs" / "2_rejected.png").unlink()


@case("truncated image")
def _(place: Place) -> None:
    path = place.folder / "pairs" / "1_chosen.png"
    path.write_bytes(path.read_bytes()[:-300])


@case("rows left out", "train", "x.yaml", "data.on_bad=drop")
def _(place: Place) -> None:
    (place.folder / "pairs" / "2_rejected.png").unlink()


@case("image as text in a table")
def _(place: Place) -> None:
    text = base64.b64encode((place.folder / "pairs" / "0_chosen.png").read_bytes()).decode()
    place.table((place.folder / "pairs" / "pairs.csv").read_text().replace("0_chosen.png", text))


@case("prompt that is no text", "train", "x.yaml", "data.path=pairs/pairs.jsonl")
def _(place: Place) -> None:
    row = {"prompt": "half \ud83d", "chosen": "0_chosen.png", "rejected": "0_rejected.png"}
    (place.folder / "pairs" / "pairs.jsonl").write_text(json.dumps(row))


@case("several splits in a folder", "train", "x.yaml", "data.path=pairs")
def _(place: Place) -> None:
    (place.folder / "pairs" / "pairs.csv").unlink()
    for name in ("train-0", "test-0"):
        pq.write_table(pa.table({"prompt": ["a fox"]}), place.folder / "pairs" / f"{name}.parquet")


@case("missing shard", "train", "x.yaml", "data.path=pairs")
def _(place: Place) -> None:
    (place.folder / "pairs" / "pairs.csv").unlink()
    for number in (0, 2):
        pq.write_table(pa.table({"prompt": ["a fox"]}), place.folder / "pairs" / f"train-0000{number}-of-00003.parquet")


@case("hub data set that is not there", "train", "x.yaml", "data.path=hf://nobody/nothing")
def _(place: Place) -> None:
    pass


@case("nothing usable", "data", "inspect", "pairs/pairs.csv")
def _(place: Place) -> None:
    place.table("prompt,chosen,rejected\n,0_chosen.png,0_rejected.png\n")


@case("pixels of unknown range")
def _(place: Place) -> None:
    image = Image.fromarray(np.zeros((64, 64), dtype=np.int32))
    image.save(place.folder / "pairs" / "1_chosen.png", "TIFF")


@case("file that is no image")
def _(place: Place) -> None:
    (place.folder / "pairs" / "1_chosen.png").write_text("<html>404</html>")


@case("decompression bomb")
def _(place: Place) -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)  # 30,000 px square, RGB
    rows = zlib.compress(bytes(100))
    whole = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    (place.folder / "pairs" / "1_chosen.png").write_bytes(whole)


@case("LoRA of another family")
def _(place: Place) -> None:
    denoiser = backbone(place.sdxl, family="sdxl").denoiser
    add_adapter(denoiser, "learner", Lora(rank=2, alpha=2), seed=0, trainable=True)
    save_lora(place.folder / "xl-lora", denoiser, "learner", family="sdxl", extra={})
    place.change("rank: 2, alpha: 4", "rank: 2, alpha: 4, init: xl-lora")


def _lora(place: Place, name: str, **tensors: torch.Tensor) -> None:
    save_file(tensors, place.folder / f"{name}.safetensors")
    place.change("rank: 2, alpha: 4", f"rank: 2, alpha: 4, init: {name}.safetensors")


@case("DoRA of columns")
def _(place: Place) -> None:
    stem = "lora_unet_mid_block_attentions_0_proj_in"
    width = backbone(place.folder / "models" / "tiny").denoiser.mid_block.attentions[0].proj_in.in_channels
    down, up = torch.ones(1, width, 1, 1), torch.ones(width, 1, 1, 1)
    matrices = {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up}
    _lora(place, "dora", **matrices, **{f"{stem}.dora_scale": down.clone()})


@case("LoHa")
def _(place: Place) -> None:
    _lora(place, "loha", **{"lora_unet_mid_block_attentions_0_proj_in.hada_w1_a": torch.ones(1, 1)})


@case(
    "DoRA as a negative model",
    *("generate", "--model", "models/tiny", "--prompt", "a cat", "--out", "images", "--negative", "dora.safetensors"),
)
def _(place: Place) -> None:
    _lora(place, "dora", **{"lora_unet_mid_block_attentions_0_proj_in.dora_scale": torch.ones(1)})


@case(
    "negative model of another architecture",
    *("generate", "--model", "models/tiny", "--prompt", "a cat", "--out", "images", "--negative", "models/tiny-xl"),
)
def _(place: Place) -> None:
    pass


@case("export of nothing", "export", "--out", "exported")
@case("export of a model without a LoRA", "export", "--model", "models/tiny", "--out", "exported")
@case("export of no run", "export", "pairs", "--out", "exported")
def _(place: Place) -> None:
    pass


@case("export of an average that was not kept", "export", "runs/x", "--weights", "ema", "--out", "exported")
@case("export that cannot be uploaded", "export", "runs/x", "--out", "exported", "--push-to", "someone/x")
def _(place: Place) -> None:
    assert place.train("train.steps=1")[0] == 0


@case("export of a full fine-tuning as a LoRA", "export", "runs/x", "--out", "exported")
def _(place: Place) -> None:
    place.change("lora: {rank: 2, alpha: 4}\n", "")
    assert place.train("train.steps=1")[0] == 0


_IMAGES = ("generate", "--prompt", "a cat", "--out", "images")
_TINY = (*_IMAGES, "--model", "models/tiny")


@case("LoRA of the text encoder alone to start from")
@case("negative model that adapts the text encoder", *_TINY, "--negative", "text.safetensors")
def _(place: Place) -> None:
    _lora(place, "text", **{"lora_te_text_model_encoder_layers_0_mlp_fc1.alpha": torch.ones(())})


@case("LoRA of a text encoder that the model has not", *_TINY, "--lora", "second.safetensors")
def _(place: Place) -> None:
    _lora(place, "second", **{"lora_te2_text_model_encoder_layers_0_mlp_fc1.alpha": torch.ones(())})


@case("LoRA that says it is of another family", *_TINY, "--lora", "anime.safetensors")
@case("LoRA that does not say what it was made for", *_IMAGES, "--lora", "plain.safetensors")
@case("LoRAs of several families", *_IMAGES, "--lora", "anime.safetensors", "--lora", "old.safetensors")
@case("generate without a model", *_IMAGES)
def _(place: Place) -> None:
    for name, version in (("anime", "sdxl_base_v1-0"), ("old", "sd_v1"), ("plain", "")):
        tensors = {"lora_unet_mid_block_resnets_0_conv1.alpha": torch.ones(())}
        save_file(tensors, place.folder / f"{name}.safetensors", metadata={"ss_base_model_version": version})


@case("UNet file of another family", *_TINY, "--unet", "xl.safetensors")
@case("UNet file without all of its tensors", *_TINY, "--unet", "short.safetensors")
@case("UNet file as the model", *_IMAGES, "--model", "models/unet.safetensors")
def _(place: Place) -> None:
    part = "unet/diffusion_pytorch_model.safetensors"
    shutil.copy(place.sdxl / part, place.folder / "xl.safetensors")
    shutil.copy(place.folder / "models" / "tiny" / part, place.folder / "models" / "unet.safetensors")
    tensors = load_file(place.folder / "models" / "unet.safetensors")
    del tensors["conv_in.bias"]
    save_file(tensors, place.folder / "short.safetensors")


@case(
    "key of a backbone that does not exist",
    *("generate", "--model", "models/tiny", "--prompt", "a cat", "--out", "images", "--backbone", "fp16"),
)
def _(place: Place) -> None:
    pass


@case("generate without a prompt", "generate", "--model", "models/tiny", "--out", "images")
def _(place: Place) -> None:
    pass


@case(
    "images that are not finite",
    *("generate", "--model", "models/tiny", "--out", "images", "--prompt", "a cat", "--steps", "2", "--batch", "1"),
    *("--lora", "strong"),
)
def _(place: Place) -> None:
    denoiser = backbone(place.folder / "models" / "tiny").denoiser
    add_adapter(denoiser, "learner", Lora(rank=2, alpha=2), seed=0, trainable=True)
    for parameter in adapter_parameters(denoiser, "learner").values():
        parameter.data.fill_(1e30)
    save_lora(place.folder / "strong", denoiser, "learner", family="sd15", extra={})


def _pictures(place: Place, *, prompts: int = 4, captioned: bool = True) -> Path:
    """Eight images in pics/ with a text file beside each, and r.py with rewards that go wrong."""
    folder = place.folder / "pics"
    folder.mkdir()
    for number in range(8):
        Image.new("RGB", (16, 16), (20 * number, 0, 0)).save(folder / f"{number}.png")
        if captioned:
            (folder / f"{number}.txt").write_text(f"a {WORDS[number % prompts]}")
    (place.folder / "r.py").write_text(REWARDS)
    return folder


WORDS = ("cat", "dog", "hat", "car", "bed", "cup", "sun", "key")
REWARDS = """

def raises(images, prompts):
    return 1 / 0

def one(images, prompts):
    return [1]

def same(images, prompts):
    return [1] * len(images)

def none(images, prompts):
    return [None] * len(images)
"""
BUILD = ("data", "build", "--images", "pics", "--out", "built")
COMPARE = ("--reward", "brightness")
PERTURB = ("data", "perturb", "pics", "--out", "captions")


@case("several rewards of one name", *BUILD, "--reward", "brightness", "--reward", "brightness")
@case("unknown reward", "score", "pics", "--reward", "brightnes")
@case("reward without its weights", "score", "pics", "--reward", "clip_score,pretrained=./models/clip")
@case("reward that raises", "score", "pics", "--reward", "r.py:raises")
@case("reward with too few scores", "score", "pics", "--reward", "r.py:one")
@case("reward that prefers none", *BUILD, "--reward", "r.py:same")
@case("images without a score", *BUILD, "--reward", "r.py:none")
@case("missing folder of images", "score", "pisc", "--reward", "brightness")
@case("build of neither images nor a model", "data", "build", "--out", "built", "--reward", "brightness")
@case("build of images with a LoRA", *BUILD, "--reward", "brightness", "--lora", "runs/mine")
@case("build of ties", *BUILD, "--reward", "brightness", "--margin", "1000")
@case("unknown editor of captions", *PERTURB, "--by", "dutch")
@case("prompt that is no caption of Shapes", *PERTURB, "--by", "shapes")
@case("no negative caption", *PERTURB, "--by", "english", "--kind", "relation")
def _(place: Place) -> None:
    _pictures(place)


@case("folder without images", "score", "empty", "--reward", "brightness")
def _(place: Place) -> None:
    (place.folder / "empty").mkdir()


@case("images without prompts", "score", "pics", "--reward", "brightness")
def _(place: Place) -> None:
    _pictures(place, captioned=False)


@case("image without its prompt", "score", "pics", "--reward", "brightness")
def _(place: Place) -> None:
    (_pictures(place) / "3.txt").unlink()


@case("image that cannot be scored", "score", "pics", "--reward", "brightness")
def _(place: Place) -> None:
    (_pictures(place) / "3.png").write_text("no image")


@case("build with one image a prompt", *BUILD, "--reward", "brightness")
def _(place: Place) -> None:
    _pictures(place, prompts=8)


@case("folder built otherwise", *BUILD, "--reward", "brightness", "--margin", "0.5")
def _(place: Place) -> None:
    _pictures(place)
    assert place.command(*BUILD, "--reward", "brightness")[0] == 0


@case("folder with other images", *BUILD, "--reward", "brightness")
def _(place: Place) -> None:
    _pictures(place)
    (place.folder / "built" / "images").mkdir(parents=True)
    Image.new("RGB", (16, 16), "blue").save(place.folder / "built" / "images" / "0.png")


def _drawn(place: Place, name: str, seed: int) -> Path:
    """A folder of one image of a cat."""
    folder = place.folder / name
    folder.mkdir()
    Image.new("RGB", (8, 8)).save(folder / "0_0.png")
    rows = [{"file": "0_0.png", "prompt": "a cat", "seed": seed}]
    (folder / "generation.json").write_text(json.dumps({"images": rows}))
    return folder


@case("folders of other prompts", "compare", "pics", "others", *COMPARE)
def _(place: Place) -> None:
    _pictures(place)
    _drawn(place, "others", 1)


@case("folders of other seeds", "compare", "a", "b", *COMPARE)
def _(place: Place) -> None:
    _drawn(place, "a", 1)
    _drawn(place, "b", 2)


@case("folder compared with itself", "compare", "pics", "./pics", *COMPARE)
def _(place: Place) -> None:
    _pictures(place)


@case("pairs of images without a score", "compare", "pics", "copied", "--reward", "r.py:none")
def _(place: Place) -> None:
    _pictures(place)
    shutil.copytree(place.folder / "pics", place.folder / "copied")


@case("reward's server that is away", "score", "pics", "--reward", "vlm.scores,model=m,url=http://127.0.0.1:9,tries=1")
def _(place: Place) -> None:
    _pictures(place)


@case("reward's server without the model", "score", "pics", "--reward", "vlm.scores,model=m")
def _(place: Place) -> None:
    _pictures(place)
    place.serve(stub.error(404, "no model 'm'"))


@case("reward's model folder without a model", "score", "pics", "--reward", "vlm.scores,model=hf:./pics")
def _(place: Place) -> None:
    _pictures(place)


@case("reward's address with a key in it", "score", "pics", "--reward", "vlm.scores,model=m,url=http://host?key=sk-1")
def _(place: Place) -> None:
    _pictures(place)


@case("address that a service cannot take", "reward", "serve", "brightness", "--host", "192.0.2.1")
def _(place: Place) -> None:
    pass


@case("reward that is broken", "reward", "test", "r.py:same")
def _(place: Place) -> None:
    (place.folder / "r.py").write_text("def same(images, prompts):\n    return [1.0] * len(images)\n")


@case("reward of pairs without pairs", "reward", "test", "shapes.prefers", "--images", "pics")
def _(place: Place) -> None:
    _pictures(place, prompts=8)


@case("labels of a reward that prefers none", "data", "relabel", "pairs", "--out", "built", "--reward", "r.py:same")
def _(place: Place) -> None:
    (place.folder / "r.py").write_text(REWARDS)


@case("language model without a key", *PERTURB, "--by", "openai:some")
def _(place: Place) -> None:
    place.monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    place.monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    _pictures(place)


@case("language model's server without an answer", *PERTURB, "--by", "openai:some")
def _(place: Place) -> None:
    place.serve(stub.Answer(raw=b'{"choices": []}'))
    _pictures(place)


@case("language model's server that refuses", *PERTURB, "--by", "openai:some")
def _(place: Place) -> None:
    place.serve(stub.error(401, "no such key"))
    _pictures(place)


@case("loss that is not finite")
def _(place: Place) -> None:
    place.change("lr: 1e-3", "lr: 1e+30")


@case("disk too full for a run")
def _(place: Place) -> None:
    usage = shutil.disk_usage(".")
    place.monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10))


@case("full disk while encoding")
def _(place: Place) -> None:
    place.monkeypatch.setattr(shards, "save_file", _no_space)


@case("full disk while saving")
def _(place: Place) -> None:
    place.monkeypatch.setattr(checkpoint, "save_file", _no_space)


@case("data changed since the checkpoint", "train", "x.yaml", "train.steps=5")
def _(place: Place) -> None:
    assert place.train()[0] == 0
    Image.new("RGB", (64, 64), "red").save(place.folder / "pairs" / "1_chosen.png")


@case("run folder of another config", "train", "x.yaml", "objective.beta=7")
def _(place: Place) -> None:
    assert place.train()[0] == 0


@case("damaged checkpoint", "train", "x.yaml", "train.steps=5")
def _(place: Place) -> None:
    assert place.train()[0] == 0
    path = place.run_dir / "checkpoints" / "step-000003" / "trained.safetensors"
    path.write_bytes(path.read_bytes()[:-8])


@case("file in the way", "train", "x.yaml", "run_dir=x.yaml")
def _(place: Place) -> None:
    pass


@case("read-only folder")
def _(place: Place) -> None:
    def refuse(path: str, *_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    place.monkeypatch.setattr(os, "mkdir", refuse)


@case("run that is finished")
def _(place: Place) -> None:
    assert place.train()[0] == 0


def _no_space(*_: object, **__: object) -> None:
    raise FULL


def documented() -> dict[str, tuple[int, str]]:
    """Case -> (exit code, message) of the table in docs/errors.md; … stands for what differs from run to run."""
    rows = re.findall(r"^\| ([^|]+?) \| (\d+) \| `(.+)` \|$", DOCUMENTED.read_text(encoding="utf-8"), re.MULTILINE)
    return {name: (int(code), message) for name, code, message in rows}


def says(message: str, said: str) -> bool:
    pattern = ".*".join(re.escape(part) for part in message.split("…"))
    return re.search(pattern, said) is not None


def test_the_table_has_a_row_for_every_case_and_a_case_for_every_row():
    assert set(documented()) == {*CASES, "run folder in use", "Ctrl-C"}
    assert documented()["Ctrl-C"][0] == 130  # tests/test_resume.py


@pytest.mark.parametrize("name", CASES)
def test_bad_input_says_what_the_table_says_and_leaves_nothing_half_written(place: Place, name: str):
    code, message = documented()[name]
    CASES[name].prepare(place)
    before = place.state()
    found, said = place.command(*CASES[name].arguments)
    assert says(message, said), f"\nsaid:     {said}\ntable:    {message}"
    assert found == code
    assert "Traceback" not in said
    assert not list(place.folder.rglob("*.partial"))
    if not before and code in (2, 3, 4, 75) and name != "loss that is not finite":
        assert not {path for path in place.state() if path.startswith(("checkpoints", "lora"))}
    elif code in (2, 3, 4):
        assert {**place.state(), **before} == place.state()


def test_a_folder_in_use_is_refused(place: Place):
    place.run_dir.mkdir(parents=True)
    code = (
        "import filelock, sys; lock = filelock.FileLock('runs/x/.lock').acquire(); print(flush=True); sys.stdin.read()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as holder:  # type: ignore[call-overload]
        holder.stdout.readline()
        found, said = place.train()
        holder.communicate()
    expected, message = documented()["run folder in use"]
    assert (found, says(message, said)) == (expected, True), said


def test_a_corrected_config_starts_where_a_wrong_one_failed(place: Place):
    place.change("pairs/pairs.csv", "pairs/pears.csv")
    assert place.train()[0] == 2
    place.change("pairs/pears.csv", "pairs/pairs.csv")
    assert place.train()[0] == 0


def test_a_full_disk_passes_and_the_same_command_goes_on(place: Place):
    with place.monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", _no_space)
        assert place.train()[0] == 75
    assert place.train()[0] == 0
    assert (place.run_dir / "lora" / "pytorch_lora_weights.safetensors").is_file()


def test_a_loss_that_is_not_finite_keeps_the_checkpoint_before(place: Place):
    place.change("every_steps: 2", "every_steps: 1")
    place.change("lr: 1e-3", "lr: 1e+30")
    assert place.train()[0] == 4
    assert checkpoint.newest(place.run_dir / "checkpoints", pytest.fail) == place.run_dir / "checkpoints/step-000001"
    assert not (place.run_dir / "lora").exists()


@pytest.mark.slow
def test_on_a_really_full_disk_the_run_says_so_and_goes_on_when_there_is_space(place: Place):
    mount = shutil.which("mount")
    place.run_dir.mkdir(parents=True)
    small = [str(mount), "-t", "tmpfs", "-o", "size=900k", "tmpfs", str(place.run_dir)]
    if os.geteuid() != 0 or mount is None or subprocess.run(small, check=False).returncode:
        pytest.skip("no small file system can be mounted here")
    try:
        filler = place.run_dir / "filler"
        place.change("rank: 2", "rank: 16")
        filler.write_bytes(bytes(500_000))
        found, said = place.train()
        assert found == 75, said
        assert "the disk is too full: the run writes about" in said
        with place.monkeypatch.context() as patch:
            patch.setattr(preflight, "check_disk", lambda *_: None)  # another program fills it during the run
            found, said = place.train()
        assert found == 75, said
        assert "the disk is full" in said
        filler.unlink()
        found, said = place.train()
        assert found == 0, said
    finally:
        subprocess.run(["umount", "--lazy", str(place.run_dir)], check=True)
