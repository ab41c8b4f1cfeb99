"""The demo in miniature: a random tiny model, four steps, the same path."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from lora_files import saved
from rich.console import Console
from typer.testing import CliRunner

from t2ialign.config.reader import load
from t2ialign.data.images import open_image
from t2ialign.demo.pair_set import PairSet, find_pairs, pack_pairs, shipped_pairs
from t2ialign.demo.pipeline import best_scale, run_demo
from t2ialign.demo.settings import Recipes, Settings
from t2ialign.demo.tables import next_commands
from t2ialign.demo.training import equal_steps
from t2ialign.errors import EnvironmentProblem, InputError
from t2ialign.generation.worker import WorkerProcess
from t2ialign.shapes.caption import prompts as shapes_prompts
from t2ialign.storage.resources import shipped

TINY = {
    "train.steps": 2, "train.effective_batch": 2, "train.micro_batch": 2, "lora.rank": 2, "lora.targets": "attention",
}  # fmt: skip
MINIATURE = Settings(
    prompts=6,
    pair_prompts=4,
    images_per_prompt=2,
    reward="sharpness",  # a random model draws noise, in which the verifier finds nothing to prefer
    inference_steps=2,
    batch=4,
    scales=(1.0, 3.0),
    validation_prompts=2,
    own_prompts=4,
    checked=2,
    guidance_scale=3.0,
    overrides=TINY,
    sft_overrides=TINY,
)
ROOT = Path(__file__).parents[2]
RECIPES = Recipes(*(shipped(f"configs/shapes_{name}.yaml") for name in ("dpo", "sft", "nft")))


def demo(folder: Path, model: Path, processes: int = 1, **options) -> tuple[dict, str]:
    console = Console(record=True, width=200, file=open(os.devnull, "w"), markup=False)  # noqa: SIM115
    settings = options.pop("settings", MINIATURE)
    summary = run_demo(folder, settings=settings, model=model, processes=processes, console=console, **options)
    return summary, console.export_text()


@pytest.fixture(scope="module")
def finished(sd15_folder: Path, tmp_path_factory) -> tuple[Path, dict, str]:
    folder = tmp_path_factory.mktemp("demo") / "run"
    return folder, *demo(folder, sd15_folder)


def test_the_demo_measures_both_models_on_the_same_prompts(finished):
    folder, summary, shown = finished
    assert json.loads((folder / "summary.json").read_text()) == summary
    for compared, prompts in (("equal", 6), ("own", 4)):
        assert summary[compared]["prompts"] == prompts
        models = summary[compared]["models"]
        for key in ("faithfulness", "taste", "taste_satisfied", "all_right"):
            for pair, shifts in summary[compared]["differences"].items():
                shift, (one, other) = shifts[key], pair.split(" - ")
                assert shift["low"] <= shift["mean"] <= shift["high"]
                assert models[one][key] - models[other][key] == pytest.approx(shift["mean"])
                assert shift["n"] + shift["not_measured"] == prompts
    assert summary["equal"]["models"]["base"]["unreadable"] == 6  # noise
    assert "6 held-out prompts, equal guidance" in shown
    assert "reached" in shown


def test_each_model_is_drawn_at_its_own_guidance(finished):
    folder, summary, _ = finished
    for model, chosen in summary["own"]["guidance"].items():
        assert set(summary["sweep"][model]) == {"1", "3"}
        assert chosen == best_scale(summary["sweep"][model])
        made = folder / "own" / model if chosen != 3 else folder / model  # 3 is the equal guidance: drawn already
        record = json.loads((made / "generation.json").read_text())
        assert record["guidance"]["scale"] == chosen


def test_of_equal_scales_the_lowest_is_chosen():
    scores = {scale: {"criterion": value} for scale, value in (("1", 0.2), ("2", 0.5), ("3", 0.5), ("7.5", 0.4))}
    assert best_scale(scores) == 2


def test_sft_makes_as_many_passes_as_dpo():
    dpo, sft = (load(recipe, []) for recipe in RECIPES[:2])
    # a pair: two images forward through the reference, forward and back through the policy; a winner: forward and back
    pairs, winners = dpo.train.steps * dpo.train.effective_batch, equal_steps(dpo, sft) * sft.train.effective_batch
    assert pairs * (2 + 2 + 2) == winners * (1 + 1)


def test_sft_learns_from_the_same_pairs(finished):
    folder = finished[0]
    dpo, sft = (load(folder / run / "config.yaml").data for run in ("training", "training_sft"))
    assert dpo.path == sft.path == folder / "pairs"
    winners = [open_image(pair.images[0]).tobytes() for pair in dpo.open()]
    assert [open_image(single.images[0]).tobytes() for single in sft.open()] == winners
    lines = (folder / "training_sft" / "metrics.jsonl").read_text().splitlines()
    assert sum("loss" in json.loads(line) for line in lines) == 3 * TINY["train.steps"]


def test_it_leaves_pairs_training_images_verdicts_and_a_report(finished):
    folder, summary, _ = finished
    assert (folder / "pairs" / "pairs.csv").is_file()
    assert len(list((folder / "pairs" / "images").glob("*.png"))) == 4 * 2
    assert (folder / "training" / "lora" / "pytorch_lora_weights.safetensors").is_file()
    rows = [json.loads(line) for line in (folder / "verdicts.jsonl").read_text().splitlines()]
    assert len(rows) == 6
    assert all((folder / row[side]["image"]).is_file() for row in rows for side in ("base", "sft", "aligned"))
    assert (folder / "sheet.png").is_file()
    assert sum(len(row["base"]["verdicts"]) for row in rows) == sum(
        entry["base"]["n"] for entry in summary["criteria"].values()
    )
    assert "Diffusion-DPO on Shapes" in (folder / "report.html").read_text()


@pytest.fixture(scope="module")
def with_negative(sd15_folder, tmp_path_factory) -> tuple[Path, dict, str, Settings]:
    """The same demo with a negative model."""
    folder = tmp_path_factory.mktemp("negative")
    npo = saved(sd15_folder, folder / "npo", moved=-0.2)
    settings = replace(MINIATURE, negative={str(npo): 0.7}, negative_alpha=0.5)
    return folder / "run", *demo(folder / "run", sd15_folder, settings=settings), settings


def test_with_a_negative_model_there_is_one_more_model_at_its_own_guidance(finished, with_negative):
    folder, summary, shown, settings = with_negative
    assert list(summary["own"]["models"]) == list(summary["sweep"]) == ["base", "sft", "aligned", "aligned+negative"]
    chosen = summary["own"]["guidance"]["aligned+negative"]
    assert chosen == best_scale(summary["sweep"]["aligned+negative"])
    for place, scale in (("own/aligned+negative", chosen), ("validation/aligned+negative/3", 3)):
        record = json.loads((folder / place / "generation.json").read_text())
        assert record["guidance"] == {"scale": scale, "cond": {"lora0": 1.0}, "uncond": {"lora0": 0.5, "lora1": 0.7}}
        assert record["negative"] == settings.negative
    assert "aligned+negative − aligned, points" in shown
    assert f"aligned+negative, {chosen:g}" in shown
    page = (folder / "report.html").read_text()
    assert "aligned+negative − aligned" in page
    assert "0.5 of aligned and 0.7 of " in page
    # at equal guidance, and for the three others, nothing differs from a demo without it
    without = finished[1]
    assert summary["equal"] == without["equal"]
    assert {name: summary["sweep"][name] for name in without["sweep"]} == without["sweep"]
    differences = summary["own"]["differences"]
    assert {pair: differences[pair] for pair in without["own"]["differences"]} == without["own"]["differences"]


def test_with_online_there_is_one_more_model_that_learns_from_its_own_images(sd15_folder, tmp_path):
    overrides = {
        "rollout.prompts": 2, "rollout.images": 2, "rollout.timesteps": 1, "rollout.inference_steps": 2,
        "rewards": ["sharpness"], **TINY, "train.effective_batch": 4,
    }  # fmt: skip
    settings = replace(MINIATURE, online=True, online_prompts=8, online_overrides=overrides)
    summary, shown = demo(tmp_path / "run", sd15_folder, settings=settings)
    for compared in ("equal", "own"):
        assert list(summary[compared]["models"]) == ["base", "sft", "aligned", "online"]
    assert "learnt by nft from 8 images of its own in 2 iterations; their reward was 1 sharpness" in summary["sentence"]
    assert "online − base, points" in shown
    own = summary["own"]["differences"]["online - base"]["faithfulness"]["mean"]
    (goal,) = [goal for goal in summary["goals"] if "Faithfulness at least 7 points" in goal["goal"]]
    assert goal["reached"] is (own >= 0.07)
    assert (tmp_path / "run" / "prompts.txt").read_text().splitlines() == shapes_prompts("train", 8, settings.seed)
    page = (tmp_path / "run" / "report.html").read_text()
    shown_by = {name: page.count(f'alt="{name} model') for name in ("base", "sft", "aligned", "online")}
    assert shown_by["base"] >= 6
    assert len(set(shown_by.values())) == 1
    with pytest.raises(InputError, match="online: True there, None now"):
        demo(tmp_path / "run", sd15_folder)


def test_a_demo_belongs_to_its_negative_model(with_negative, finished, sd15_folder, tmp_path):
    folder, _, _, settings = with_negative
    with pytest.raises(InputError, match=r"negative: \{.*\} there, None now"):
        demo(folder, sd15_folder)
    with pytest.raises(InputError, match=r"negative: None there, \{.*\} now"):
        demo(finished[0], sd15_folder, settings=settings)
    assert not {"negative", "negative_alpha"} & json.loads((finished[0] / "demo.json").read_text()).keys()
    with pytest.raises(InputError, match="none: no such LoRA"):
        demo(tmp_path / "run", sd15_folder, settings=replace(MINIATURE, negative={"none": 1.0}))
    assert sorted(path.name for path in (tmp_path / "run").iterdir() if path.name[0] != ".") == ["demo.json"]


@pytest.mark.slow
def test_a_model_of_sdxl_architecture_takes_the_same_path(sdxl_folder, tmp_path):
    summary, _ = demo(tmp_path / "run", sdxl_folder)
    assert summary["equal"]["prompts"] == 6
    config = (tmp_path / "run" / "training" / "config.yaml").read_text()
    assert "name: sdxl" in config


def test_base_and_aligned_start_from_the_same_seeds(finished):
    folder = finished[0]
    records = [json.loads((folder / side / "generation.json").read_text()) for side in ("base", "sft", "aligned")]
    drawn = [[(row["prompt"], row["seed"]) for row in record["images"]] for record in records]
    assert drawn[0] == drawn[1] == drawn[2]
    assert len({record["fingerprint"] for record in records}) == 3


def test_shipped_pairs_are_taken_where_model_and_settings_are_theirs(finished, sd15_folder, tmp_path):
    folder = finished[0]
    built = PairSet(folder / "pairs", {"images": 8, "prompts": 4, "pairs": 4}, seed=0)
    packed = pack_pairs(built, tmp_path / "shipped", sd15_folder, {"margin": 0.0})
    found = shipped_pairs(tmp_path / "shipped", sd15_folder, {"margin": 0.0})
    assert found == PairSet(packed, built.totals, 0, shipped=True)
    assert shipped_pairs(tmp_path / "shipped", sd15_folder, {"margin": 0.1}) is None
    assert shipped_pairs(tmp_path / "shipped", tmp_path, {"margin": 0.0}) is None  # other weights: none
    assert find_pairs(MINIATURE, sd15_folder) is None
    views = [load(RECIPES.aligned, [f"data.path={path}"]).data.open() for path in (folder / "pairs", packed)]
    for loose, inside in zip(*views, strict=True):
        assert loose.prompts == inside.prompts
        assert [open_image(image).tobytes() for image in loose.images] == [
            open_image(image).tobytes() for image in inside.images
        ]


def test_a_finished_demo_says_so_and_does_nothing(finished, sd15_folder):
    folder, summary, _ = finished
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name != ".lock"}
    again, shown = demo(folder, sd15_folder)
    assert again == summary
    assert "is finished" in shown
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name != ".lock"} == before


@pytest.mark.slow
def test_two_processes_and_a_stop_in_between_give_the_same_pairs_and_measures(
    finished, sd15_folder, tmp_path, monkeypatch
):
    from t2ialign.demo import training

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(training, "train", stop)
        with pytest.raises(KeyboardInterrupt):
            demo(tmp_path / "run", sd15_folder, processes=2)
    assert (tmp_path / "run" / "pairs" / "pairs.csv").is_file()
    assert not (tmp_path / "run" / "summary.json").exists()
    summary, _ = demo(tmp_path / "run", sd15_folder, processes=2)
    assert (tmp_path / "run/base/generation.json").read_text() == (finished[0] / "base/generation.json").read_text()
    for key in ("equal", "own", "sweep", "criteria", "independent_verifier", "pairs"):
        assert summary[key] == finished[1][key]


def test_a_folder_of_another_demo_is_refused(finished, sd15_folder):
    with pytest.raises(InputError, match=r"other settings \(prompts: 6 there, 7 now\)"):
        demo(finished[0], sd15_folder, settings=Settings(**{**vars(MINIATURE), "prompts": 7}))


def test_a_finished_demo_of_an_older_recipe_is_not_shown_as_todays(finished, sd15_folder, tmp_path):
    newer = tmp_path / "dpo.yaml"
    newer.write_text(RECIPES.aligned.read_text().replace("beta: 300", "beta: 299"))
    with pytest.raises(InputError, match=r"other settings \(recipes: "):
        demo(finished[0], sd15_folder, recipes=RECIPES._replace(aligned=newer))


def test_a_folder_of_something_else_is_left_alone(sd15_folder, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match=r"holds thesis\.tex"):
        demo(tmp_path, sd15_folder)


def test_what_next_works_as_it_stands(finished, sd15_folder):
    from t2ialign.cli.main import app

    folder = finished[0]
    small = {"generate": ["--steps", "2"], "train": ["train.steps=1", "train.effective_batch=2", "train.micro_batch=2"]}
    commands = next_commands(folder, sd15_folder, RECIPES, 3.0)
    for _, command in commands:
        program, verb, *arguments = shlex.split(command)
        result = CliRunner().invoke(app, [verb, *arguments, *small.get(verb, [])])
        assert program == "t2ialign"
        assert result.exit_code == 0, (command, result.output, result.exception)
    assert {shlex.split(command)[1] for _, command in commands} == {"generate", "data", "train"}


def _die(code: int) -> None:
    os._exit(code)


def _refuse(message: str) -> None:
    raise InputError(message)


def test_a_worker_works_beside_and_passes_errors_on(tmp_path):
    with WorkerProcess() as worker:
        worker.start(os.mkdir, str(tmp_path / "made"))
        worker.finish()
        assert (tmp_path / "made").is_dir()
        worker.start(_refuse, "no such thing")
        with pytest.raises(InputError, match="no such thing"):
            worker.finish()
        worker.start(_die, 9)
        with pytest.raises(EnvironmentProblem, match="exit code 9"):
            worker.finish()


def test_a_worker_is_stopped_within_a_task():
    started = time.monotonic()
    with WorkerProcess() as worker:
        worker.start(time.sleep, 60)
        assert not worker.is_done(0.1)
    assert time.monotonic() - started < 30


def _end_when_asked(begun: Path) -> None:
    """As training does: a signal ends it after what is in progress."""
    asked = []
    signal.signal(signal.SIGTERM, lambda *_: asked.append(True))
    begun.touch()
    while not asked:
        time.sleep(0.05)
    time.sleep(0.5)
    begun.with_name("ended").touch()


@pytest.mark.slow
def test_a_worker_whose_task_ends_by_itself_when_asked_is_left_too(tmp_path):
    begun = tmp_path / "begun"
    with WorkerProcess() as worker:
        worker.start(_end_when_asked, begun)
        while not begun.is_file():
            assert not worker.is_done(0.1)
        started = time.monotonic()
    assert (tmp_path / "ended").is_file()
    assert time.monotonic() - started < 20


def test_a_worker_ends_with_a_killed_parent(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(
        "import time\n"
        "from t2ialign.generation.worker import WorkerProcess\n"
        "if __name__ == '__main__':\n"
        "    with WorkerProcess() as worker:\n"
        "        worker.start(time.sleep, 60)\n"
        "        print(worker._process.pid, flush=True)\n"
        "        time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        second = int(parent.stdout.readline())
        time.sleep(1)  # the second process starts to watch
        parent.kill()
    assert gone(second, within_seconds=20)


def gone(pid: int, within_seconds: float) -> bool:
    """Whether a process has ended; a zombie, which nobody of this test can reap, has."""
    until = time.monotonic() + within_seconds
    while time.monotonic() < until:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.1)
    return False


@pytest.mark.slow
def test_the_demos_models_are_evaluated_by_the_script(finished, sd15_folder: Path):
    folder, *_ = finished
    script = ROOT / "scripts" / "evaluate_demo.sh"
    done = subprocess.run([script, folder, sd15_folder], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "640 images of 320 prompts are judged in both" in done.stdout
    assert (folder / "unigenbench" / "report.html").stat().st_size > 10_000
