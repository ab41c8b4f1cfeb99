"""The studies that scripts/compare_methods.py knows: how each model comes about, as commands that a user would type."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, cast

from t2ialign.config.reader import load
from t2ialign.demo.settings import Settings
from t2ialign.demo.training import equal_steps, passes
from t2ialign.models import family_of
from t2ialign.noisers.inversion import InversionNoiser

SETTINGS = Settings()
SCENES = 2000
"""Rendered scenes that TDPO and TKTO learn from; the demo's pairs come from about as many images."""
FLIPPED = 0.2
MIXTURES = (0.25, 0.5, 0.75)
"""Weights of faithfulness in the Pareto study; taste has the rest."""
STORED = ("noiser.weights=reference", "noiser.levels=10")
DRAWS = (1, 2, 4)
PROMPTS = "prompts.txt"
ONLINE_PROMPTS = 3000
"""Prompts of the training split that online methods make images of."""
Command = list[str]


class Place(NamedTuple):
    """Where one seed's work stands, and what all its studies share."""

    root: Path
    model: Path
    guidance: float
    """Of candidates, and of the images that are compared at equal guidance."""
    seed: int = 0
    """Of prompts, images and training."""


class Study(NamedTuple):
    """How a model comes about, and against what it is held beside base."""

    what: str
    commands: Sequence[Command] = ()
    loras: tuple[str, ...] = ()
    """As `t2ialign generate --lora` takes them."""
    against: tuple[str, ...] = ()
    negatives: tuple[str, ...] = ()
    """As `t2ialign generate --negative` takes them."""
    alpha: float = 1.0
    """As `t2ialign generate --negative-alpha` takes it."""


def t2ialign(*arguments: object) -> Command:
    return [sys.executable, "-m", "t2ialign", *map(str, arguments)]


def drawn(place: Place) -> tuple[object, ...]:
    """How candidates are made."""
    return (
        "--guidance", place.guidance, "--steps", SETTINGS.inference_steps, "--batch", SETTINGS.batch,
        "--images-per-prompt", SETTINGS.images_per_prompt,
    )  # fmt: skip


def overrides(place: Place, folder: str) -> list[str]:
    """What every training of a seed has in common."""
    return [
        f"run_dir={place.root / folder}", f"backbone.name={family_of(str(place.model))}",
        f"backbone.pretrained={place.model}", f"data.cache.folder={place.root / 'cache'}", f"seed={place.seed}",
    ]  # fmt: skip


def one(place: Place, name: str, what: str, config: str, *changes: str, against: Sequence[str] = ()) -> Study:
    """A study of one training run."""
    command = t2ialign("train", f"configs/{config}.yaml", *overrides(place, name), *changes)
    return Study(what, [command], (str(place.root / name),), tuple(against))


def prepare(place: Place) -> dict[str, Command]:
    """What several studies share, by folder: candidates with mixed labels, with flips, and with either preference."""
    root = place.root
    again = ("data", "build", "--images", root / "pairs/images")
    mixed = ("--reward", SETTINGS.reward)
    folders = {
        "pairs": t2ialign(
            "data", "build", "--model", place.model, "--prompts", root / "train.txt", "--seed", place.seed,
            *drawn(place), *mixed, "--out", root / "pairs",
        ),
        "pairs_flipped": t2ialign(*again, *mixed, "--flip", FLIPPED, "--out", root / "pairs_flipped"),
        "text_pairs": t2ialign("data", "perturb", root / "scenes", "--by", "shapes", "--out", root / "text_pairs"),
    }  # fmt: skip
    for weight in (0.0, *MIXTURES, 1.0):
        name = f"pairs_{weight:g}"
        folders[name] = t2ialign(*again, *labels(weight), "--max-failed", 1, "--out", root / name)
    return folders


def wanted(folders: dict[str, Command], root: Path, chosen: Sequence[Study]) -> list[Command]:
    """The commands whose folders the studies learn from, and that of the images that other folders take."""
    told = " ".join(word for study in chosen for command in study.commands for word in command)
    named = [name for name in folders if re.search(rf"{re.escape(str(root / name))}(\s|/|$)", told)]
    return [command for name, command in folders.items() if name in named or (named and name == "pairs")]


def labels(weight: float) -> list[str]:
    """The rewards of labels in which faithfulness has this weight; some prompts leave taste nothing to score."""
    of = {"shapes.faithfulness": weight, "shapes.taste": 1 - weight}
    return [word for name, share in of.items() if share for word in ("--reward", f"{name}={share:g}")]


def studies(place: Place) -> dict[str, Study]:
    """All models but base and those that only serve as negative models."""
    on_pairs = f"data.path={place.root / 'pairs'}"
    return (
        preferences(place, on_pairs)
        | text_pairs(place, on_pairs)
        | flips(place)
        | inversions(place, on_pairs)
        | fixed_draws(place, on_pairs)
        | mixtures(place)
        | online(place)
    )


def preferences(place: Place, on_pairs: str) -> dict[str, Study]:
    """Image pairs and lists of the model's own images, by each objective, and in rounds."""
    dpo, sft = (load(f"configs/shapes_{name}.yaml", [on_pairs]) for name in ("dpo", "sft"))
    rounds = [
        sys.executable, "scripts/iterative_dpo.py", "configs/shapes_dpo.yaml", "--out", place.root / "iterative",
        "--prompts", place.root / "train.txt", "--reward", SETTINGS.reward, "--rounds", 3, *drawn(place),
        *overrides(place, "iterative")[1:3], f"seed={place.seed}", "train.steps=44",
    ]  # fmt: skip
    lists = f"data.path={place.root / 'pairs/images/scores.jsonl'}"
    return {
        "dpo": one(place, "dpo", "Diffusion-DPO", "shapes_dpo", on_pairs),
        "sft": one(place, "sft", "SFT on winners", "shapes_sft", on_pairs, f"train.steps={equal_steps(dpo, sft)}"),
        "mapo": one(place, "mapo", "MaPO", "shapes_mapo", on_pairs),
        "kto": one(place, "kto", "Diffusion-KTO", "shapes_kto", on_pairs),
        "lpo": one(place, "lpo", "list-wise DPO", "shapes_lpo", lists),
        "iterative": Study(
            "iterative DPO, 3 rounds of a third", [list(map(str, rounds))],
            (str(place.root / "iterative/round2/training"),), ("dpo",),
        ),
    }  # fmt: skip


def text_pairs(place: Place, on_pairs: str) -> dict[str, Study]:
    """Prompt pairs of rendered scenes, and SFT on the scenes with as many UNet passes."""
    on_texts = f"data.path={place.root / 'text_pairs'}"
    dpo, sft = (load(f"configs/shapes_{name}.yaml", [on_pairs]) for name in ("dpo", "sft"))
    return {
        "tdpo": one(place, "tdpo", "TDPO, on rendered scenes", "shapes_tdpo", on_texts),
        "tkto": one(place, "tkto", "TKTO, on rendered scenes", "shapes_tkto", on_texts),
        "scenes_sft": one(
            place, "scenes_sft", "SFT on the same scenes", "shapes_sft", f"data.path={place.root / 'scenes'}",
            f"train.steps={equal_steps(dpo, sft)}",
        ),
    }  # fmt: skip


def flips(place: Place) -> dict[str, Study]:
    """A fifth of the labels turned around."""
    on_flipped = f"data.path={place.root / 'pairs_flipped'}"
    return {
        "dpo_flipped": one(
            place, "dpo_flipped", "DPO, 20 % of labels flipped", "shapes_dpo", on_flipped, against=("dpo",)
        ),
        "smoothed_flipped": one(
            place, "smoothed_flipped", "DPO with label smoothing 0.2, flipped", "shapes_dpo", on_flipped,
            f"objective.label_smoothing={FLIPPED}", against=("dpo_flipped",),
        ),
        "mapo_flipped": one(
            place, "mapo_flipped", "MaPO, flipped", "shapes_mapo", on_flipped, against=("mapo", "dpo_flipped")
        ),
    }  # fmt: skip


def inversions(place: Place, on_pairs: str) -> dict[str, Study]:
    """InPO and SmPO: inverted in every step as we hold it right, as released, by parts of that, and once beforehand.

    The pairs' scores lie between 0 and 1, which is the range that the recipe of SmPO states.
    """
    grid, source = "noiser.grid=released", "noiser.correction_timestep=source"
    found = {}
    for name, what, of, changes in (
        ("inpo", "InPO", "inpo", ()),
        ("inpo_stored", "InPO, stored levels", "inpo", STORED),
        ("inpo_released", "InPO as released", "inpo", (grid, "noiser.eta=0.1")),
        ("inpo_grid", "InPO, released grid without its noise", "inpo", (grid,)),
        ("smpo", "SmPO", "smpo", ()),
        ("smpo_stored", "SmPO, stored levels", "smpo", STORED),
        ("smpo_released", "SmPO as released", "smpo", (grid, source)),
        ("smpo_grid", "SmPO, released grid", "smpo", (grid,)),
        ("smpo_source", "SmPO, corrections at the source", "smpo", (source,)),
    ):
        against = ("dpo", "sft", "dpo_long") if name.endswith("_stored") else ("dpo", of)
        against = tuple(other for other in against if other != name)
        found[name] = one(place, name, what, f"shapes_{of}", on_pairs, *changes, against=against)
    steps = stored_steps(on_pairs)
    found["dpo_long"] = one(
        place, "dpo_long", f"Diffusion-DPO, {steps} steps", "shapes_dpo", on_pairs, f"train.steps={steps}",
        against=("dpo",),
    )  # fmt: skip
    return found


def stored_steps(on_pairs: str) -> int:
    """Optimizer steps in which DPO makes as many UNet passes as InPO does in training and in inverting the pairs."""
    dpo = load("configs/shapes_dpo.yaml", [on_pairs])
    inpo = load("configs/shapes_inpo.yaml", [on_pairs, *STORED])
    once = SETTINGS.pair_prompts * cast(InversionNoiser, inpo.noiser).trajectory_passes(inpo.data.views, 1000)
    per_step = dpo.train.effective_batch * passes(dpo)
    return round((inpo.train.steps * inpo.train.effective_batch * passes(inpo) + once) / per_step)


def fixed_draws(place: Place, on_pairs: str) -> dict[str, Study]:
    """DPO twice as long, with fresh draws in every visit of a pair and with a few fixed ones."""
    found = {"draws_fresh": one(place, "draws_fresh", "DPO, 264 steps", "shapes_dpo", on_pairs, "train.steps=264")}
    for draws in DRAWS:
        name = f"draws_{draws}"
        found[name] = one(
            place, name, f"DPO, 264 steps, draws {draws}", "shapes_dpo", on_pairs, "train.steps=264",
            f"noiser.draws={draws}", against=("draws_fresh",),
        )  # fmt: skip
    return found


def online(place: Place) -> dict[str, Study]:
    """Methods that train on the policy's own images, as their recipes say."""
    on_prompts = f"data.path={place.root / PROMPTS}"
    found = {}
    for name, what, against in (
        ("nft", "DiffusionNFT", ("dpo",)),
        ("pref_nft", "NFT on win rates", ("dpo", "nft")),
        ("grpo", "GRPO", ("dpo",)),
        ("pref_grpo", "Pref-GRPO", ("dpo", "grpo", "nft")),
    ):
        found[name] = one(place, name, what, f"shapes_{name}", on_prompts, against=against)
    return found


def mixtures(place: Place) -> dict[str, Study]:
    """Faithfulness and taste alone, weighed in the labels, and in a soup of two adapters."""
    root, ends = place.root, ("faithful_only", "taste_only")
    found = {
        "taste_only": one(place, "taste_only", "DPO, taste only", "shapes_dpo", f"data.path={root / 'pairs_0'}"),
        "faithful_only": one(
            place, "faithful_only", "DPO, faithfulness only", "shapes_dpo", f"data.path={root / 'pairs_1'}"
        ),
    }
    for weight in MIXTURES:
        name = f"weighted_{weight:g}"
        found[name] = one(
            place, name, f"DPO, labels {weight:g} faithfulness", "shapes_dpo", f"data.path={root / f'pairs_{weight:g}'}"
        )
        parts = [f"{root / end}:{share:g}" for end, share in zip(ends, (weight, 1 - weight), strict=True)]
        found[f"soup_{weight:g}"] = Study(
            f"LoRA soup, {weight:g} faithfulness", (), tuple(parts), (f"weighted_{weight:g}",)
        )
    return found


def negative_models(place: Place) -> dict[str, Study]:
    """Models that only ever serve in the unconditional branch."""
    on_pairs = f"data.path={place.root / 'pairs'}"
    return {
        "npo": one(place, "npo", "Diffusion-NPO", "shapes_npo", on_pairs),
        "self_npo": one(place, "self_npo", "Self-NPO", "shapes_self_npo", on_pairs),
        "self_npo_noise": one(
            place, "self_npo_noise", "Self-NPO from noise", "shapes_self_npo", on_pairs, "noiser.start=noise"
        ),
        "self_npo_against": one(
            place, "self_npo_against", "Self-NPO against the prompt", "shapes_self_npo", on_pairs,
            "noiser.guidance_scale=-4",
        ),
    }  # fmt: skip


def beside(name: str, study: Study, negative: str, negatives: dict[str, Study], alpha: float) -> dict[str, Study]:
    """A study drawn with a negative model, and held against the same study without.

    Args:
        negative: NAME of a negative model, with :beta if not 1.
        alpha: share of the study's own LoRAs in the unconditional branch.

    Raises:
        KeyError: there is no such negative model.
    """
    key, _, beta = negative.partition(":")
    chosen = negatives[key]
    added = tuple(f"{lora}:{beta}" if beta else lora for lora in chosen.loras)
    suffix = f"@{alpha:g}" if alpha != 1 else ""
    told = f"{chosen.what}{f', beta {beta}' if beta else ''}{f', alpha {alpha:g}' if alpha != 1 else ''}"
    found = Study(f"{study.what} with {told} as negative", (), study.loras, (name,), added, alpha)
    return {f"{name}+{negative.replace(':', '_')}{suffix}": found}
