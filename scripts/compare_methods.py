"""Runs every offline method on Shapes as a user would, by the commands of the command line, and measures each.

python scripts/compare_methods.py                       # all studies, two at once; a finished one is not run again
python scripts/compare_methods.py mapo kto --jobs 1

Base and every study draw the same held-out prompts from the same noise. Figures go to
assets/benchmarks/methods_MODEL.json, a table of them to methods_MODEL.md, the Pareto figure to pareto_MODEL.svg.
"""

import argparse
import concurrent.futures
import json
import os
import platform
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from t2ialign.config.reader import load
from t2ialign.demo.evaluation import PromptResult, compare_models, judge
from t2ialign.demo.settings import Settings
from t2ialign.demo.training import equal_steps
from t2ialign.errors import TryAgainError
from t2ialign.models import family_of
from t2ialign.report.comparison import in_points
from t2ialign.shapes.caption import prompts as shapes_prompts
from t2ialign.shapes.data import write_dataset
from t2ialign.storage.atomic import atomic_write
from t2ialign.storage.resources import shipped as of_package

SETTINGS = Settings()
SCENES = 2000
"""Rendered scenes that TDPO and TKTO learn from; the demo's pairs come from about as many images."""
FLIPPED = 0.2
MIXTURES = (0.25, 0.5, 0.75)
"""Weights of faithfulness in the Pareto study; taste has the rest."""
SHOWN = ("faithfulness", "all_right", "taste", "taste_satisfied")
Command = list[str]


class Study(NamedTuple):
    """How a model comes about, and against what it is held beside base."""

    what: str
    commands: list[Command]
    loras: list[str]
    """As `t2ialign generate --lora` takes them."""
    against: tuple[str, ...] = ()
    negatives: tuple[str, ...] = ()
    """As `t2ialign generate --negative` takes them."""


def t2ialign(*arguments: object) -> Command:
    return [sys.executable, "-m", "t2ialign", *map(str, arguments)]


def train(config: str, out: Path, model: Path, *overrides: str) -> Command:
    family = family_of(str(model))
    return t2ialign(
        "train", f"configs/{config}.yaml", f"run_dir={out}", f"backbone.name={family}", f"backbone.pretrained={model}",
        *overrides,
    )  # fmt: skip


def prepare(root: Path, model: Path, guidance: float) -> dict[str, Command]:
    """What several studies share, by folder: candidates with mixed labels, with flips, and with either preference."""
    drawn = ("--guidance", guidance, "--steps", SETTINGS.inference_steps, "--batch", SETTINGS.batch)
    count = ("--images-per-prompt", SETTINGS.images_per_prompt)
    again = ("data", "build", "--images", root / "pairs/images")
    mixed = ("--reward", SETTINGS.reward)
    folders = {
        "pairs": t2ialign(
            "data", "build", "--model", model, "--prompts", root / "train.txt", *drawn, *count, *mixed, "--out",
            root / "pairs",
        ),
        "pairs_flipped": t2ialign(*again, *mixed, "--flip", FLIPPED, "--out", root / "pairs_flipped"),
        "text_pairs": t2ialign("data", "perturb", root / "scenes", "--by", "shapes", "--out", root / "text_pairs"),
    }  # fmt: skip
    for weight in (0.0, *MIXTURES, 1.0):
        name = f"pairs_{weight:g}"
        folders[name] = t2ialign(*again, *labels(weight), "--max-failed", 1, "--out", root / name)
    return folders


def wanted(folders: dict[str, Command], root: Path, chosen: Sequence[Study]) -> list[Command]:
    """The commands whose folders the studies learn from, and that of the images that all others take."""
    told = " ".join(word for study in chosen for command in study.commands for word in command)
    return [
        command
        for name, command in folders.items()
        if name == "pairs" or re.search(rf"{re.escape(str(root / name))}(\s|/|$)", told)
    ]


def labels(weight: float) -> list[str]:
    """The rewards of labels in which faithfulness has this weight; some prompts leave taste nothing to score."""
    of = {"shapes.faithfulness": weight, "shapes.taste": 1 - weight}
    return [word for name, share in of.items() if share for word in ("--reward", f"{name}={share:g}")]


def studies(root: Path, model: Path, guidance: float) -> dict[str, Study]:
    def here(name: str, what: str, config: str, *overrides: str, against: tuple[str, ...] = ()) -> Study:
        return one(root, model, name, what, config, *overrides, against=against)

    on_pairs, on_flipped = f"data.path={root / 'pairs'}", f"data.path={root / 'pairs_flipped'}"
    on_texts = f"data.path={root / 'text_pairs'}"
    passes = equal_steps(load("configs/shapes_dpo.yaml", [on_pairs]), load("configs/shapes_sft.yaml", [on_pairs]))
    as_long = f"train.steps={passes}"
    drawn = ("--guidance", guidance, "--steps", SETTINGS.inference_steps, "--batch", SETTINGS.batch)
    count = ("--images-per-prompt", SETTINGS.images_per_prompt)
    rounds = [
        sys.executable, "scripts/iterative_dpo.py", "configs/shapes_dpo.yaml", "--out", root / "iterative", "--prompts",
        root / "train.txt", "--reward", SETTINGS.reward, "--rounds", 3, *count, *drawn,
        f"backbone.name={family_of(str(model))}", f"backbone.pretrained={model}", "train.steps=44",
    ]  # fmt: skip
    found = {
        "dpo": here("dpo", "Diffusion-DPO", "shapes_dpo", on_pairs),
        "mapo": here("mapo", "MaPO", "shapes_mapo", on_pairs),
        "kto": here("kto", "Diffusion-KTO", "shapes_kto", on_pairs),
        "lpo": here("lpo", "list-wise DPO", "shapes_lpo", f"data.path={root / 'pairs/images/scores.jsonl'}"),
        "tdpo": here("tdpo", "TDPO, on rendered scenes", "shapes_tdpo", on_texts),
        "tkto": here("tkto", "TKTO, on rendered scenes", "shapes_tkto", on_texts),
        "scenes_sft": here(
            "scenes_sft", "SFT on the same scenes", "shapes_sft", f"data.path={root / 'scenes'}", as_long
        ),
        "iterative": Study(
            "iterative DPO, 3 rounds of a third", [list(map(str, rounds))], [str(root / "iterative/round2/training")],
            ("dpo",),
        ),
        "dpo_flipped": here("dpo_flipped", "DPO, 20 % of labels flipped", "shapes_dpo", on_flipped, against=("dpo",)),
        "smoothed_flipped": here(
            "smoothed_flipped", "DPO with label smoothing 0.2, flipped", "shapes_dpo", on_flipped,
            f"objective.label_smoothing={FLIPPED}", against=("dpo_flipped",),
        ),
        "mapo_flipped": here(
            "mapo_flipped", "MaPO, flipped", "shapes_mapo", on_flipped, against=("mapo", "dpo_flipped")
        ),
        "taste_only": here("taste_only", "DPO, taste only", "shapes_dpo", f"data.path={root / 'pairs_0'}"),
        "faithful_only": here(
            "faithful_only", "DPO, faithfulness only", "shapes_dpo", f"data.path={root / 'pairs_1'}"
        ),
    }  # fmt: skip
    return found | inversions(root, model, on_pairs) | negative_models(root, model, on_pairs) | mixtures(root, model)


def one(root: Path, model: Path, name: str, what: str, config: str, *overrides: str, against: Sequence[str]) -> Study:
    """A study of one training run."""
    return Study(what, [train(config, root / name, model, *overrides)], [str(root / name)], tuple(against))


def inversions(root: Path, model: Path, on_pairs: str) -> dict[str, Study]:
    """InPO and SmPO, each inverted in every step and once before training.

    The pairs' scores lie between 0 and 1, which is the range that the recipe of SmPO states.
    """
    stored = ("noiser.weights=reference", "noiser.levels=10")
    found = {}
    for name, what in (("inpo", "InPO"), ("smpo", "SmPO")):
        for place, words, overrides in ((name, what, ()), (f"{name}_stored", f"{what}, stored levels", stored)):
            config = f"shapes_{name}"
            found[place] = one(root, model, place, words, config, on_pairs, *overrides, against=("dpo",))
    return found


def negative_models(root: Path, model: Path, on_pairs: str) -> dict[str, Study]:
    """Negative models for guidance, beside base and beside Diffusion-DPO."""
    found = {}
    for name, what, config, overrides in (
        ("npo", "Diffusion-NPO as negative", "shapes_npo", ()),
        ("self_npo", "Self-NPO as negative", "shapes_self_npo", ()),
        ("self_npo_noise", "Self-NPO from noise as negative", "shapes_self_npo", ("noiser.start=noise",)),
    ):
        command = train(config, root / name, model, on_pairs, *overrides)
        found[name] = Study(what, [command], [], negatives=(str(root / name),))
    for name in ("npo", "self_npo"):
        found[f"dpo_{name}"] = Study(
            f"Diffusion-DPO with {name} as negative", [], [str(root / "dpo")], ("dpo",), (str(root / name),)
        )
    return found


def mixtures(root: Path, model: Path) -> dict[str, Study]:
    """Faithfulness and taste weighed in the labels, and in a soup of two adapters."""
    found = {}
    ends = ("faithful_only", "taste_only")
    for weight in MIXTURES:
        found[f"weighted_{weight:g}"] = one(
            root, model, f"weighted_{weight:g}", f"DPO, labels {weight:g} faithfulness", "shapes_dpo",
            f"data.path={root / f'pairs_{weight:g}'}", against=(),
        )  # fmt: skip
        parts = [f"{root / name}:{share:g}" for name, share in zip(ends, (weight, 1 - weight), strict=True)]
        found[f"soup_{weight:g}"] = Study(
            f"LoRA soup, {weight:g} faithfulness", [], parts, (f"weighted_{weight:g}",)
        )  # fmt: skip
    return found


def longest_first(names: Sequence[str]) -> list[str]:
    """The order in which studies start: the rounds, which also make images, before the rest."""
    return sorted(names, key=lambda name: name != "iterative")


def draw(
    root: Path, model: Path, guidance: float, name: str, loras: Sequence[str], negatives: Sequence[str] = ()
) -> Command:
    chosen = [word for lora in loras for word in ("--lora", lora)]
    chosen += [word for lora in negatives for word in ("--negative", lora)]
    return t2ialign(
        "generate", "--model", model, "--prompts", root / "test.txt", *chosen, "--guidance", guidance, "--steps",
        SETTINGS.inference_steps, "--batch", SETTINGS.batch, "--out", root / "images" / name,
    )  # fmt: skip


def run(root: Path, name: str, commands: Sequence[Command]) -> float:
    """Runs the commands one after the other and returns the seconds they took; what they print is in `NAME.log`.

    Raises:
        TryAgainError: one failed.
    """
    started = time.monotonic()
    with (root / f"{name}.log").open("a", encoding="utf-8") as log:
        for command in commands:
            print("$", shlex.join(command), file=log, flush=True)
            if subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False).returncode:
                raise TryAgainError(f"{name}: {shlex.join(command)} failed; see {log.name}. The same command goes on.")
    return time.monotonic() - started


def measure(root: Path, prompts: list[str], names: Sequence[str], chosen: dict[str, Study]) -> dict[str, Any]:
    """Every study against base, and against what it names."""
    folders = {name: f"images/{name}" for name in ("base", *names)}
    rows = judge(prompts, root, folders, "verdicts.jsonl")
    found: dict[str, Any] = {"base": against(rows, ("base", names[0]))["models"]["base"]}
    for name in names:
        compared = against(rows, ("base", name))
        found[name] = {
            "what": chosen[name].what,
            "means": compared["models"][name],
            "over": {
                other: against(rows, (other, name))["differences"][f"{name} - {other}"]
                for other in ("base", *chosen[name].against)
                if other in folders
            },
            "diversity": compared["diversity"][name]["diversity"],
        }
    return found


def against(rows: list[PromptResult], models: tuple[str, str]) -> dict[str, Any]:
    return compare_models(rows, models, SETTINGS.seed)


def table(found: dict[str, Any], head: str) -> str:
    """Means of base, then a line a study and other model: differences in points with 95 % intervals."""
    shown = [key.replace("_", " ") for key in SHOWN]
    lines = [head, "", f"| | {' | '.join(shown)} | diversity |", "|---" * (len(SHOWN) + 2) + "|"]
    means = " | ".join(f"{found['base'][key]:.1%}" for key in SHOWN)
    lines.append(f"| base | {means} | 1 |")
    for name, one in found.items():
        for other, shifts in {} if name == "base" else one["over"].items():
            ratio = one["diversity"]
            spread = f"{ratio['mean']:.2f}" if ratio and other == "base" else ""
            told = found[other]["what"] if other != "base" else "base"
            values = " | ".join(in_points(shifts[key]) for key in SHOWN)
            lines.append(f"| {one['what']} − {told} | {values} | {spread} |")
    return "\n".join(lines) + "\n"


def pareto(found: dict[str, Any]) -> str:
    """An SVG of faithfulness over taste: soups of two adapters, and adapters trained on weighted labels."""
    lines = {
        "labels weighted": ("#1b6ca8", ["taste_only", *(f"weighted_{w:g}" for w in MIXTURES), "faithful_only"]),
        "LoRA soup": ("#c8553d", ["taste_only", *(f"soup_{w:g}" for w in MIXTURES), "faithful_only"]),
    }
    points = {
        name: [100 * one["means"][key] for key in ("taste", "faithfulness")]
        for name, one in found.items()
        if name != "base"
    }
    base = [100 * found["base"][key] for key in ("taste", "faithfulness")]
    lines = {label: (color, [name for name in names if name in points]) for label, (color, names) in lines.items()}
    used = [base, *(points[name] for _, names in lines.values() for name in names)]
    low, high = ([pick(point[i] for point in used) for i in (0, 1)] for pick in (min, max))

    def place(point: Sequence[float]) -> tuple[float, float]:
        x, y = ((value - a) / (b - a) for value, a, b in zip(point, low, high, strict=True))
        return 60 + 460 * x, 300 - 250 * y

    text = '<text x="{:.0f}" y="{:.0f}" font-size="12" fill="{}">{}</text>'
    parts = ['<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 360" font-family="sans-serif">']
    parts.append('<rect width="640" height="360" fill="white"/>')
    for row, (label, (color, names)) in enumerate(lines.items()):
        placed = [place(points[name]) for name in names]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>')
        for name, (x, y) in zip(names, placed, strict=True):
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{color}"/>')
            share = {"taste_only": "0", "faithful_only": "1"}.get(name, name.rpartition("_")[2])
            parts.append(text.format(x + 6, y - 6 + 18 * row, color, share))
        parts.append(text.format(70, 320 + 16 * row, color, f"{label} (weight of faithfulness)"))
    x, y = place(base)
    parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="#555"/>', text.format(x + 6, y - 6, "#555", "base")]
    parts.append(text.format(330, 20, "#222", f"across: taste, {low[0]:.1f} to {high[0]:.1f} %"))
    parts.append(text.format(330, 36, "#222", f"upwards: faithfulness, {low[1]:.1f} to {high[1]:.1f} %"))
    return "\n".join([*parts, "</svg>"]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="*", help="which; all if none is named")
    parser.add_argument("--model", type=Path, default=of_package("assets/shapes-sd"))
    parser.add_argument("--guidance", type=float, default=SETTINGS.guidance_scale)
    parser.add_argument("--jobs", type=int, default=max(1, min(4, (os.cpu_count() or 1))), help="studies at once")
    parser.add_argument("--prompts", type=int, default=SETTINGS.prompts, help="held-out prompts")
    parser.add_argument("--root", type=Path, default=Path("runs/methods"))
    parser.add_argument("--out", type=Path, default=Path("assets/benchmarks"))
    options = parser.parse_args()
    root, model, guidance = options.root / options.model.name, options.model, options.guidance
    every = studies(root, model, guidance)
    names = [name for name in every if not options.studies or name in options.studies]
    if unknown := set(options.studies) - set(every):
        raise SystemExit(f"no study {', '.join(sorted(unknown))}; there are {', '.join(every)}")
    root.mkdir(parents=True, exist_ok=True)
    prompts = shapes_prompts("test", options.prompts, SETTINGS.seed)
    for name, lines in {
        "test": prompts,
        "train": shapes_prompts("train", SETTINGS.pair_prompts, SETTINGS.seed),
    }.items():
        with atomic_write(root / f"{name}.txt") as partial:
            partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
    if not (root / "scenes").is_dir():
        write_dataset(root / "scenes.partial", SCENES, seed=1, noise=0).rename(root / "scenes")
    needed = wanted(prepare(root, model, guidance), root, [every[name] for name in names])
    run(root, "prepare", needed)
    drawing = {"base": [draw(root, model, guidance, "base", [])]}
    drawing |= {name: [draw(root, model, guidance, name, every[name].loras, every[name].negatives)] for name in names}
    trained = ["base", *(name for name in names if every[name].commands)]
    waves = [
        {name: [*(every[name].commands if name in every else []), *drawing[name]] for name in longest_first(trained)},
        {name: commands for name, commands in drawing.items() if name not in trained},
    ]
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        for wave in waves:  # soups come after the adapters they are made of
            pending = {pool.submit(run, root, name, commands): name for name, commands in wave.items()}
            for done in concurrent.futures.as_completed(pending):
                print(f"{pending[done]}: {done.result():.0f} s", flush=True)
    found = measure(root, prompts, names, every)
    stem = f"methods_{model.name}"
    about = {"machine": platform.processor() or platform.machine(), "prompts": len(prompts), "guidance": guidance}
    with atomic_write(options.out / f"{stem}.json") as partial:
        partial.write_text(json.dumps({**about, "studies": found}, indent=1), encoding="utf-8")
    told = table(
        found, f"{len(prompts):,} held-out prompts, guidance {guidance:g}, {model.name}; differences in points"
    )
    with atomic_write(options.out / f"{stem}.md") as partial:
        partial.write_text(told, encoding="utf-8")
    if "soup_0.5" in found and "weighted_0.5" in found:
        with atomic_write(options.out / f"pareto_{model.name}.svg") as partial:
            partial.write_text(pareto(found), encoding="utf-8")
    print(told)


if __name__ == "__main__":
    main()
