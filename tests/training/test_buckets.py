"""Training on images of several shapes: equal however it is cut, stored, stopped and shared; told before it starts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from jobs import launched
from own_data import write_csv, write_image
from rich.console import Console
from toys import lora_policy, saved_lora, write_config

from t2ialign.config.reader import load
from t2ialign.data.buckets import find_buckets
from t2ialign.data.encoding.cache import encode
from t2ialign.data.kinds.pairs import PairData
from t2ialign.errors import InputError
from t2ialign.training.agreement import _facts
from t2ialign.training.offline import OfflineLoop
from t2ialign.training.overview import overview
from t2ialign.training.pair_accuracy import HeldOutPairs
from t2ialign.training.parallel import SingleProcess
from t2ialign.training.plan import plan
from t2ialign.training.preflight import check
from t2ialign.training.trackers import read_metrics
from t2ialign.training.train import open_run, train

QUIET = Console(quiet=True)
SHAPES = [(64, 64), (100, 60), (40, 80)]
"""Of every third pair; 64 x 64, 80 x 48 and 32 x 64 of 64 px in steps of 16, which the tiny UNet halves once."""
BUCKETS = "data.crop=bucket", "data.bucket_step=16"


def table(folder: Path, pairs: int = 9, kind: str = "pairs") -> Path:
    """Pairs, or images with labels, of SHAPES in turn."""
    rows = []
    for row in range(pairs):
        for view, seed in (("w", 2 * row), ("l", 2 * row + 1)):
            write_image(folder / f"{row}_{view}.png", seed, SHAPES[row % 3])
        rows.append([f"a red circle {row}", f"{row}_w.png", f"{row}_l.png"])
    if kind == "pairs":
        return write_csv(folder / "pairs.csv", ["prompt", "chosen", "rejected"], rows)
    labelled = [[prompt, image, label] for prompt, *both in rows for image, label in zip(both, (1, 0), strict=True)]
    return write_csv(folder / "labels.csv", ["prompt", "image", "label"], labelled)


Start = Callable[..., Path]


@pytest.fixture
def config(sd15_folder: Path, tmp_path: Path) -> Callable[..., Any]:
    """The tiny config on three shapes, with overrides."""
    pairs = table(tmp_path / "pairs")

    def made(name: str, *overrides: str) -> Any:
        path = write_config(tmp_path / f"{name}.yaml", model=sd15_folder, pairs=pairs, run_dir=tmp_path / name)
        return load(path, [*BUCKETS, *overrides])

    return made


@pytest.fixture
def job(config: Callable[..., Any], tmp_path: Path) -> Start:
    def start(name: str, *overrides: str) -> Path:
        train(config(name, *overrides), console=QUIET)
        return tmp_path / name

    return start


def losses(run_dir: Path) -> list[float]:
    return [row["loss"] for row in read_metrics(run_dir / "metrics.jsonl") if "loss" in row]


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_stored_equals_encoded_in_each_step_on_three_shapes(job: Start, family: str, sdxl_folder: Path):
    overrides = ["data.flip=0.5", "train.steps=5"]
    if family == "sdxl":
        overrides.append(f"backbone={{name: sdxl, pretrained: {sdxl_folder}}}")
    stored = job("stored", *overrides)
    fresh = job("fresh", *overrides, "data.cache={latents: false, text: false}")
    assert len(list(stored.glob("cache/latents-*"))) == 6  # three buckets, as they are and mirrored
    assert not list((fresh / "cache").rglob("*.safetensors"))
    assert losses(fresh) == pytest.approx(losses(stored), rel=1e-5)
    one, other = saved_lora(stored), saved_lora(fresh)
    for name, tensor in one.items():
        assert (other[name] - tensor).norm() <= 1e-3 * tensor.norm() + 1e-6, name


def test_a_stopped_run_goes_on_bit_by_bit(job: Start):
    whole = job("whole", "train.steps=5")
    job("part", "train.steps=2")
    part = job("part", "train.steps=5")
    assert losses(part) == losses(whole)
    assert all(torch.equal(tensor, saved_lora(part)[name]) for name, tensor in saved_lora(whole).items())


def test_another_micro_batch_is_another_order_and_refused(job: Start):
    job("run", "train.steps=2")
    with pytest.raises(InputError, match=r"another config \(train.micro_batch: 2 there, 1 now\)"):
        job("run", "train.micro_batch=1")


@pytest.mark.slow
@pytest.mark.parametrize("shard", [(), ("lora=null", "train.shard=fsdp2")], ids=["lora", "fsdp2"])
def test_two_processes_learn_what_one_learns(
    job: Start, config: Callable[..., Any], tmp_path: Path, shard: tuple[str, ...]
):
    alone = job("alone", "train.micro_batch=2", *shard[:1])
    config("both")
    launched(tmp_path / "both.yaml", *BUCKETS, "train.micro_batch=2", *shard, world=2)
    assert losses(tmp_path / "both") == pytest.approx(losses(alone), rel=1e-4)


@pytest.mark.parametrize("baseline", ["mismatched", "batch", "original", "sigmoid"])
def test_kto_finds_its_reference_point_within_a_bucket(job: Start, tmp_path: Path, baseline: str):
    labels = table(tmp_path / "labels", kind="labels")
    run = job(
        "kto",
        f"data={{name: labelled, path: {labels}}}",
        *BUCKETS,
        f"objective={{name: kto, beta: 100, baseline: {baseline}}}",
        "train.steps=2",
    )
    assert losses(run)[0] == pytest.approx(0.5, abs=1e-6)  # nothing is learnt yet
    assert len(losses(run)) == 2


def test_held_out_pairs_of_several_shapes_are_measured_as_each_alone(sd15_folder: Path, tmp_path: Path):
    policy = lora_policy(sd15_folder, moved=0.1)
    source = PairData(path=table(tmp_path / "pairs")).open()
    encoded = encode(
        source,
        policy.backbone,
        resolution=64,
        folder=tmp_path / "cache",
        device=torch.device("cpu"),
        crop="bucket",
        buckets=find_buckets(source, 64, 16),
    )
    together, alone = (HeldOutPairs(source, encoded, max_pairs=7, draws=2, seed=0, batch=batch) for batch in (4, 1))
    assert together.prompts == alone.prompts == [f"a red circle {row}" for row in together.rows]
    found, expected = (held_out.errors(policy, ["policy"])[0] for held_out in (together, alone))
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


def told(config: Any) -> str:
    return " ".join(overview(config, check(config, 1), device=torch.device("cpu"), world_size=1))


def test_the_start_and_the_plan_say_how_many_examples_each_bucket_has(config: Callable[..., Any]):
    made = config("run", "train.steps=5")  # 20 examples, more than two epochs of 9
    text = told(made)
    assert "buckets  64 x 64 px: 3, 80 x 48 px: 3, 32 x 64 px: 3" in text
    assert "train.micro_batch has a part in the order" in text
    assert "not seen" not in text
    assert any("80 x 48 px: 3" in line for line in plan(made).lines())


def test_examples_that_a_run_never_reaches_are_counted(config: Callable[..., Any]):
    made = config("run", "train.effective_batch=2", "train.steps=5")  # 10 examples, of an epoch of 9
    _, core, loop = open_run(made, SingleProcess())
    assert isinstance(loop, OfflineLoop)
    seen = {row for batch, _ in zip(loop.batches(core), range(5), strict=False) for row in batch.rows.tolist()}
    assert 0 < len(seen) < 9
    assert f"{9 - len(seen)} of 9 examples are not seen in 5 steps: they fill no micro-batch of their bucket" in told(
        made
    )
    assert "not seen" not in told(config("run", "train.effective_batch=2", "train.steps=9"))  # two epochs


def test_buckets_smaller_than_a_micro_batch_are_told(config: Callable[..., Any]):
    text = told(config("run", "train.micro_batch=4"))
    assert "9 of 9 examples are in buckets of fewer than train.micro_batch 4" in text
    assert "fewer than" not in told(config("run", "train.micro_batch=2"))


def test_processes_compare_their_buckets(config: Callable[..., Any], tmp_path: Path):
    made = config("run")
    one = _facts(made, check(made, 1))
    write_image(tmp_path / "pairs" / "1_w.png", 2, (64, 64))
    write_image(tmp_path / "pairs" / "1_l.png", 3, (64, 64))
    other = _facts(made, check(made, 1))
    assert {key for key in one if one[key] != other[key]} == {"data buckets"}


def test_the_disk_that_buckets_take_is_theirs(config: Callable[..., Any]):
    made = config("run", "data.cache.latents=true", "data.flip=0.5")
    run = check(made, 1)
    assert run.disk is not None
    train(made, console=QUIET)
    stored = sum(path.stat().st_size for path in made.run_dir.glob("cache/latents-*/*.safetensors"))
    # two numbers for each of 4 channels, 2 views, of 3 pairs each of 64, 60 and 32 cells, twice
    assert run.disk.cache == 2 * 4 * 4 * 2 * 3 * (64 + 60 + 32) * 2
    assert run.disk.cache <= stored <= run.disk.cache + 6 * 2000  # headers


def test_a_probe_has_the_buckets_of_its_rows(config: Callable[..., Any]):
    measured = plan(config("run"), with_probe=True).probe
    assert measured is not None
    assert measured.step > 0


def test_a_batch_of_the_loop_has_one_shape(config: Callable[..., Any]):
    _, core, loop = open_run(config("run"), SingleProcess())
    assert isinstance(loop, OfflineLoop)
    batches = loop.batches(core)
    shapes = {tuple(batch.latents.shape[-2:]) for batch, _ in zip(batches, range(12), strict=False)}
    assert shapes == {(8, 8), (6, 10), (8, 4)}


REFUSALS = {
    "step": (("data.bucket_step=24",), r"resolution 64 px is no multiple of data.bucket_step 24; set it to 48 or 72"),
    "VAE": (
        ("data.bucket_step=20", "data.resolution=80"),
        r"data.bucket_step is 20 px; the model needs a multiple of 8",
    ),
    "groups": (("data.shuffle=groups",), r"data.crop is bucket, which takes its rows apart; set data.shuffle=rows"),
    "trajectories": (
        ("noiser={name: inversion, steps: 4, weights: reference, levels: 3}",),
        "stores trajectories of squares, and data.crop is bucket; set data.crop=center",
    ),
    "held-out pairs": (
        ("validate.pairs={name: pairs, path: nowhere, crop: bucket, bucket_step: 24}",),
        r"no multiple of data.bucket_step 24",
    ),
    "prompts": (
        (
            "data={name: prompts, path: nowhere, crop: bucket}",
            "objective={name: denoising}",
            "noiser={name: self_rollout, weights: reference, start: noise}",
        ),
        r"data.crop is bucket; data 'prompts' has no images to crop: leave the key out",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_does_not_go_with_buckets_is_refused_in_words(name: str, config: Callable[..., Any]):
    overrides, says = REFUSALS[name]
    with pytest.raises(InputError, match=says):
        check(config("run", *overrides), 1)


def test_a_bucket_without_company_is_refused_where_prompts_are_compared(config: Callable[..., Any], tmp_path: Path):
    labels = table(tmp_path / "labels", pairs=1, kind="labels")  # two images of one bucket
    kto = (f"data={{name: labelled, path: {labels}}}", *BUCKETS, "train.micro_batch=4")
    says = r"bucket 64 x 64 px has 2 examples for a train.micro_batch of 4; set data.crop=center"
    with pytest.raises(InputError, match=says):
        check(config("run", *kto, "objective={name: kto, beta: 100}"), 1)
    check(config("run", *kto, "objective={name: kto, beta: 100, baseline: batch}"), 1)


def test_buckets_of_a_model_of_unknown_resolution_are_asked_for(
    config: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
):
    from t2ialign.training import preflight

    monkeypatch.setattr(preflight, "read_facts", lambda *_: None)
    with pytest.raises(InputError, match=r"set data.resolution, as 512 for SD1.5 or 1024 for SDXL"):
        check(config("run"), 1)
    assert check(config("run", "data.resolution=64"), 1).buckets is not None
