"""Trains assets/shapes-judge: a small Qwen2.5-VL that answers the rubric about pictures of Shapes, for tests over HTTP.

python scripts/research/train_shapes_judge.py images      # then: vision, judge, export, pairs, export, evaluate

Each training stage keeps runs/judge/STAGE.safetensors and continues from it after a kill. The labels are the
verifier's. First the vision tower learns to say what stands where; then the whole model learns to answer: what decides
each check, then the digits. Fixed sentences of the rubric are single tokens, which makes a prompt about 80 tokens long.
"""

# transformers annotates configs and processors loosely:
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from checkpoints import load_state
from judge_answers import Writer, answer_losses, see_pictures
from judge_examples import ROOT, Pool, draw, make_images, sample_render
from judge_model import SEED, Heads, build_model, build_processor
from judge_pair_evaluation import evaluate_pairs
from judge_pair_stage import export_pairs, train_pairs
from judge_run import Run, muon_and_adamw, write_judge
from PIL import Image
from torch import Tensor, nn
from transformers import Qwen2_5_VLProcessor

from t2ialign.shapes.caption import describe, perturb, perturbations
from t2ialign.shapes.families import FAMILIES
from t2ialign.shapes.judge import points_of
from t2ialign.shapes.render import render_array
from t2ialign.shapes.scene import sample_scene
from unigenbench.judges.base import JudgeOptions
from unigenbench.judging.plan import Settings
from unigenbench.judging.run import JudgeConfig, judge_folder
from unigenbench.prompts import to_csv
from unigenbench.runs.store import open_log
from unigenbench.scoring.agree import agree
from unigenbench.types import Prompt

JUDGE = ROOT / "assets/shapes-judge"
GENERATED = 0.45
"""Share of the training pictures that the diffusion model made."""


def _state_file(folder: Path, stage: str) -> Path:
    return folder / f"{stage}.safetensors"


def train(stage: str, folder: Path, steps: int, minutes: float, batch: int) -> None:
    """Trains a stage to its number of steps or minutes, as `Run.train` does."""
    processor = load_processor(folder)
    torch.manual_seed(SEED)
    model = build_model(processor.tokenizer)
    modules = nn.ModuleDict({"model": model, "heads": Heads(128)})
    if stage == "judge" and not _state_file(folder, "judge").exists():
        seeing = load_state(_state_file(folder, "vision"))["modules"]
        modules.load_state_dict({k: v for k, v in seeing.items() if "visual" in k or "heads" in k}, strict=False)
    learner = modules if stage == "judge" else nn.ModuleDict({"visual": model.model.visual, "heads": modules["heads"]})
    run = (
        Run(_state_file(folder, stage), modules, muon_and_adamw(modules))
        if stage == "judge"
        else _vision_run(folder, modules, learner)
    )
    pool, writer = Pool(folder / "train.npz"), Writer(processor)

    def losses(rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        examples = [pool.sample(rng) if rng.random() < GENERATED else sample_render(rng) for _ in range(batch)]
        with torch.autocast("cpu", torch.bfloat16):
            tokens = see_pictures(model, processor, [example.pixels for example in examples])
            loss, right = modules["heads"].loss(tokens.float(), [example.seen for example in examples])
            if stage == "judge":
                said, more = answer_losses(model, tokens, examples, writer)
                loss, right = 0.5 * loss + 3 * said, right | more | {"said": said.item()}
        return loss, right | {"loss": loss.item()}

    run.train(losses, steps, minutes)


def _vision_run(folder: Path, modules: nn.ModuleDict, learner: nn.ModuleDict) -> Run:
    """A run that trains the vision tower and its heads, and saves the whole model."""
    run = Run(_state_file(folder, "vision"), modules, muon_and_adamw(modules))
    trained = {id(parameter) for parameter in learner.parameters()}
    for parameter in modules.parameters():
        parameter.requires_grad_(id(parameter) in trained)
    return run


def load_processor(folder: Path) -> Any:
    """The processor of the run, made at the first call."""
    made = folder / "processor"
    if not made.exists():
        build_processor().save_pretrained(made)
    return Qwen2_5_VLProcessor.from_pretrained(made)


def export(folder: Path, out: Path) -> None:
    """Writes the judge of the stage `judge` as an ordinary folder."""
    processor = load_processor(folder)
    model = build_model(processor.tokenizer)
    state = load_state(_state_file(folder, "judge"))
    modules = nn.ModuleDict({"model": model, "heads": Heads(128)})
    modules.load_state_dict(state["modules"])
    write_judge(out, processor, model, {"steps": state["step"]})


# Evaluation


def write_held_out(folder: Path, count: int, seed: int = 2026) -> None:
    """prompts.csv and two images of each prompt, none of which was trained on.

    Image 0 is rendered from a scene with a held-out caption, in which one fact is changed for about half of the
    prompts; image 1 is what assets/shapes-sd draws for the prompt.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    captions: list[str] = []
    while len(captions) < count:
        scene = sample_scene(rng)
        caption = describe(scene, list(FAMILIES)[len(captions) % len(FAMILIES)], rng, "test")
        if caption is None:
            continue
        kinds = perturbations(caption)
        if kinds and rng.random() < 0.5:
            caption = perturb(caption, kinds[rng.integers(len(kinds))], rng)
        Image.fromarray(render_array(scene, rng)).save(folder / f"{len(captions)}_0.png")
        captions.append(caption)
    for start in range(0, count, 32):
        for at, pixels in enumerate(draw(captions[start : start + 32], seed + start, 3.0), start):
            Image.fromarray(pixels).save(folder / f"{at}_1.png")
    asked = [
        Prompt(index, text, "Art", "Graphic Art", "Other Entity", "Descriptive", points_of(text))
        for index, text in enumerate(captions)
    ]
    (folder / "prompts.csv").write_text(to_csv(asked, "en"), encoding="utf-8", newline="\n")


def order(folder: Path, run: str, judge: str, **options: Any) -> JudgeConfig:
    """A run of unigenbench over the held-out images."""
    return JudgeConfig(
        data=str(folder / "prompts.csv"), images=folder, judge=judge, run=folder / run, images_per_prompt=2,
        options=JudgeOptions(**options), settings=Settings(concurrency=16, max_tokens=256),
    )  # fmt: skip


def evaluate(judge: Path, folder: Path, count: int) -> None:
    """Judges held-out images with a judge and with the verifier, and prints how far they agree."""
    if not (folder / "prompts.csv").exists():
        write_held_out(folder, count)
    judge_folder(order(folder, "judge", f"hf:{judge}", device="cpu", dtype="float32", batch_size=16))
    judge_folder(order(folder, "verifier", "shapes"))
    found = agree([open_log(folder / "judge"), open_log(folder / "verifier")])["pairs"][0]
    print("| criterion | verdicts | agree | kappa | 95 % interval |\n|---|---|---|---|---|")
    for name, entry in {**found["overall"], **found["criteria"]}.items():
        if entry["kappa"] is not None:
            low, high = entry["kappa_ci"]
            total = sum(entry[cell] for cell in ("both", "only_first", "only_second", "neither"))
            print(f"| {name} | {total} | {entry['observed']:.3f} | {entry['kappa']:.2f} | {low:.2f} to {high:.2f} |")


STAGES = ("images", "vision", "judge", "export", "pairs", "export_pairs", "evaluate", "evaluate_pairs")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--folder", type=Path, default=ROOT / "runs/judge")
    parser.add_argument("--judge", type=Path, default=JUDGE, help="what is evaluated, or written by export")
    parser.add_argument("--start", type=Path, default=JUDGE, help="pairs, export_pairs: the judge that learns more")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--minutes", type=float, default=math.inf)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--pictures", type=Path, help="pairs: a folder that t2ialign data build made of shapes-sd")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    match options.stage:
        case "images":
            make_images(options.folder / "train.npz", options.images, 1)
        case "export":
            export(options.folder, options.judge)
        case "evaluate":
            evaluate(options.judge, options.folder / "held_out", options.images)
        case "pairs":
            limits = options.steps, options.minutes, options.batch
            train_pairs(options.start, _state_file(options.folder, "pairs"), options.pictures, *limits)
        case "export_pairs":
            export_pairs(options.start, _state_file(options.folder, "pairs"), options.judge)
        case "evaluate_pairs":
            evaluate_pairs(options.judge, options.folder, options.images)
        case stage:
            train(stage, options.folder, options.steps, options.minutes, options.batch)


if __name__ == "__main__":
    main()
