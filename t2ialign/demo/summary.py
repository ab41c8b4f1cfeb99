"""What a finished demo writes down: figures, goals and whether they were reached, caveats, settings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from t2ialign.config.reader import load, read_yaml
from t2ialign.config.schema import OnlineConfig
from t2ialign.demo.evaluation import MEASURES
from t2ialign.demo.pair_set import PairSet
from t2ialign.demo.settings import FOLDERS, ONLINE, TIMINGS, WITH_NEGATIVE, Settings
from t2ialign.demo.training import passes
from t2ialign.generation.folder import RECORD
from t2ialign.report.outcome import outcome


def summarise(
    run_dir: Path, settings: Settings, model: Path, pairs: PairSet, measured: Mapping[str, Any]
) -> dict[str, Any]:
    """The content of summary.json.

    Args:
        measured: equal, own, sweep, criteria and independent_verifier, which become part of it.
    """
    recipe, _ = read_yaml(run_dir / FOLDERS["aligned"] / "config.yaml")
    totals = pairs.totals
    return {
        "title": f"Diffusion-DPO on Shapes: {model.name}",
        "sentence": (
            f"The embedded model made {totals['images']:,} images of {totals['prompts']} training prompts, the reward "
            f"{settings.reward} ranked them, and Diffusion-DPO trained a rank-{recipe['lora']['rank']} LoRA on the "
            f"{totals['pairs']} resulting pairs for {recipe['train']['steps']} steps. SFT had the winners of the same "
            "pairs and as many UNet passes. Base, SFT and aligned model then each drew "
            f"{settings.prompts:,} held-out prompts from the same noise."
            f"{_online_sentence(run_dir, settings)}{_negative_sentence(settings)}"
        ),
        "measures": [{"key": key, "name": name, "meaning": meaning} for key, (name, meaning) in MEASURES.items()],
        **measured,
        "goals": [goal._asdict() for goal in outcome(measured).goals],
        "pairs": totals,
        "caveats": caveats(settings),
        "settings": _described(run_dir, settings, model, pairs),
        "timings_seconds": json.loads((run_dir / TIMINGS).read_text()),
    }


def caveats(settings: Settings) -> list[str]:
    """What the figures do not say."""
    return [
        "One training run with one seed. The intervals say how the result varies with the held-out prompts, not "
        "with the training seed.",
        *(
            ["The online model is trained by the verifier and the taste that measure it, on other prompts."]
            if settings.online
            else []
        ),
        f"One image a prompt, {settings.inference_steps} DDIM steps; other settings give other numbers.",
        "The held-out prompts combine known words in ways that no training pair did. They are of the same small "
        "world: nothing follows for photographs.",
        "The labels of the training pairs come from the same verifier and the same taste that measure the result. "
        "That is the aim of this demo; on real data, measure with another judge than the one that labelled. The "
        "independent verifier says how far the verifier itself can be trusted.",
        "Diversity is measured over the prompts of a family, with one image a prompt: it does not see a model that "
        "draws one prompt always alike but different prompts differently.",
    ]


def _described(run_dir: Path, settings: Settings, model: Path, pairs: PairSet) -> dict[str, Any]:
    """What was run: name -> value, for the report."""
    dpo, sft = (load(run_dir / FOLDERS[name] / "config.yaml", []) for name in ("aligned", "sft"))
    record = json.loads((run_dir / "base" / RECORD).read_text(encoding="utf-8"))
    return {
        "model": str(model),
        "weights": record["fingerprint"],
        "seed": settings.seed,
        "reward of the pairs": settings.reward,
        "training prompts": settings.pair_prompts,
        "candidates a prompt": settings.images_per_prompt,
        "pairs": f"{pairs.totals['pairs']}, made with seed {pairs.seed}{', shipped' if pairs.shipped else ''}",
        "guidance of the candidates": settings.guidance_scale,
        "DDIM steps": settings.inference_steps,
        "UNet passes of DPO": f"{dpo.train.steps} steps x {dpo.train.effective_batch} pairs x {passes(dpo)}",
        "UNet passes of SFT": f"{sft.train.steps} steps x {sft.train.effective_batch} images x {passes(sft)}",
        "own guidance chosen by": "mean of faithfulness and taste, of equal ones the lower scale, on "
        f"{settings.validation_prompts} validation prompts a model and scale",
        **({"negative model": _negative_model(settings)} if settings.negative else {}),
    }


def _negative_model(settings: Settings) -> str:
    """The negative models with their shares."""
    shares = [f"{beta:g} of {path}" for path, beta in settings.negative.items()]
    return " and ".join([f"{settings.negative_alpha:g} of aligned", *shares])


def _online_sentence(run_dir: Path, settings: Settings) -> str:
    if not settings.online:
        return ""
    config = load(run_dir / FOLDERS[ONLINE] / "config.yaml", [])
    assert isinstance(config, OnlineConfig)
    iterations = config.train.steps // config.rollout.updates
    images = iterations * config.rollout.prompts * config.rollout.images
    rewards = " and ".join(f"{reward.weight:g} {reward.name}" for reward in config.rewards)
    return (
        f" The online model learnt by {config.objective.name} from {images:,} images of its own in {iterations} "
        f"iterations; their reward was {rewards}."
    )


def _negative_sentence(settings: Settings) -> str:
    if not settings.negative:
        return ""
    return (
        f" {WITH_NEGATIVE} is the aligned model with base plus {_negative_model(settings)} in the unconditional "
        "branch, and is compared at its own guidance."
    )
