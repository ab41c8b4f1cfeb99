"""How far the verifier can be trusted: an independent one reads the same images, and the verdicts are compared."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from t2ialign.demo.evaluation import PromptResult, open_rgb, scene_of
from t2ialign.generation.worker import WorkerProcess
from t2ialign.progress import track
from t2ialign.shapes.matcher import match
from t2ialign.shapes.scene import Scene
from t2ialign.shapes.verify import Unreadable, verify
from t2ialign.statistics import wilson
from t2ialign.storage.atomic import atomic_write

MODELS = ("base", "aligned")
Reading = dict[str, Any]
"""An image as both read it: image, prompt; verifier and independent, what each saw, in words; verdicts, each a claim
and whether it holds to verifier and to independent."""


def read_independently(
    run_dir: Path, results: Sequence[PromptResult], worker: WorkerProcess | None
) -> dict[str, list[Reading]]:
    """Readings of the images of base and aligned model, side by side where there are two processes; also written."""
    tables = {model: run_dir / f"independent_verifier_{model}.jsonl" for model in MODELS}
    if worker is not None:
        worker.start(write_readings, results, "base", run_dir, tables["base"])
    else:
        write_readings(results, "base", run_dir, tables["base"])
    write_readings(results, "aligned", run_dir, tables["aligned"])
    if worker is not None:
        worker.finish()
    return {
        model: [json.loads(line) for line in table.read_text(encoding="utf-8").splitlines()]
        for model, table in tables.items()
    }


def write_readings(results: Sequence[PromptResult], model: str, run_dir: Path, out: Path) -> None:
    """Reads a model's images with the independent verifier and writes a `Reading` a line."""
    readings = (_reading(result, model, run_dir) for result in results)
    lines = [
        json.dumps(reading, ensure_ascii=False)
        for reading in track(readings, f"images of {model} read independently", len(results))
    ]
    with atomic_write(out) as partial:
        partial.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _reading(result: PromptResult, model: str, run_dir: Path) -> Reading:
    verified = result[model]
    scene = scene_of(verified["scene"])
    seen = match(open_rgb(run_dir / verified["image"]))
    verdicts = verify(result["prompt"], seen).verdicts
    return {
        "image": verified["image"],
        "prompt": result["prompt"],
        "verifier": verified["unreadable"] if scene is None else in_words(scene),
        "independent": seen.reason if isinstance(seen, Unreadable) else in_words(seen),
        "verdicts": [
            {"claim": one["claim"], "verifier": one["right"], "independent": other.right}
            for one, other in zip(verified["verdicts"], verdicts, strict=True)
        ],
    }


def in_words(scene: Scene) -> str:
    """For example "small red ring, large blue cross on navy"."""
    things = ", ".join(f"{thing.size} {thing.color} {thing.shape}" for thing in scene.things)
    return f"{things or 'nothing'} on {scene.background}"


def agreement(readings: Sequence[Reading]) -> dict[str, Any]:
    """How often the independent verdicts equal the verifier's, and the readings in which one differs.

    Returns:
        verdicts and pictures: mean, low, high, n (Wilson, 95 %); a picture agrees where both say, or both deny, that
        every statement holds. disagreements: readings.
    """
    equal = [[one["verifier"] == one["independent"] for one in reading["verdicts"]] for reading in readings]
    verdicts = [same for reading in equal for same in reading]
    pictures = [_all_right(reading, "verifier") == _all_right(reading, "independent") for reading in readings]
    return {
        "verdicts": wilson(sum(verdicts), len(verdicts))._asdict(),
        "pictures": wilson(sum(pictures), len(pictures))._asdict(),
        "disagreements": [reading for reading, same in zip(readings, equal, strict=True) if not all(same)],
    }


def _all_right(reading: Reading, who: str) -> bool:
    return all(verdict[who] for verdict in reading["verdicts"])
