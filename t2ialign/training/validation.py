"""What is measured along a run: images of fixed prompts and seeds with their rewards, and held-out pairs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import stdev

from PIL import Image, ImageDraw

from t2ialign.config.generation import GenerationConfig
from t2ialign.config.schema import RunConfig
from t2ialign.generation.images import NotFinite, try_images
from t2ialign.policy import Policy
from t2ialign.rewards.registry import load_pointwise
from t2ialign.training.best import Best
from t2ialign.training.core import Core
from t2ialign.training.encoding import encode_data
from t2ialign.training.engine import Engine
from t2ialign.training.measurement import Measurement
from t2ialign.training.metrics import Metrics
from t2ialign.training.negative import unconditional_weights
from t2ialign.training.pair_accuracy import HeldOutAccuracy, HeldOutPairs
from t2ialign.training.preflight import Plan
from t2ialign.training.validation_sheet import Sheet, draw_sheet, sheet_path, with_scores, write_index, write_sheet
from t2ialign.types import Weights

logger = logging.getLogger(__name__)
Both = tuple[dict[int, float], dict[int, float]]
"""Number of the prompt -> score, of base and policy."""
Scorer = Callable[[list[Image.Image], list[str]], list[float | None]]


def _means(scores: Mapping[str, Both]) -> Metrics:
    """What is recorded of each reward: both means, of the same prompts, and the standard error of their difference."""
    means: Metrics = {}
    for name, (base, policy) in scores.items():
        both = sorted(base.keys() & policy.keys())
        if both:
            for who, values in (("base", base), ("policy", policy)):
                means[f"validation/{name}/{who}"] = sum(values[place] for place in both) / len(both)
        if len(both) > 1:
            differences = [policy[place] - base[place] for place in both]
            means[f"validation/{name}/standard_error"] = stdev(differences) / len(both) ** 0.5
    return means


class ValidationImages(Measurement):
    """Images of fixed prompts and seeds beside those of the untouched base; draws nothing that training draws.

    Args:
        policy: who answers.
        prompts: one image each.
        folder: where the sheets go.
        every: optimizer steps between sheets; one more after the last step.
        steps: the last step.
        generation: how the images are made.
        scorers: name -> reward, measured on base and policy.
        unconditional: "base" and "policy" -> what answers in their unconditional branch; default: themselves.
        weights: whose images stand beside the base's.
        scored: called with the scores before they are recorded.
    """

    def __init__(
        self,
        policy: Policy,
        prompts: list[str],
        folder: Path,
        *,
        every: int,
        steps: int,
        generation: GenerationConfig,
        scorers: dict[str, Scorer],
        unconditional: Mapping[str, Weights] | None = None,
        weights: str = "policy",
        scored: Callable[[Engine, Mapping[str, float]], None] | None = None,
    ):
        super().__init__(every=every, steps=steps)
        self._policy, self._prompts, self._folder = policy, prompts, folder
        self._generation = generation
        self._scorers = scorers
        self._unconditional = unconditional or {}
        self._weights, self._scored = weights, scored
        self._base: list[Image.Image | NotFinite] | None = None
        self._base_scores: dict[str, dict[int, float]] = {}

    def _is_recorded(self, engine: Engine) -> bool:
        names = {f"validation/{name}/policy" for name in self._scorers}
        return sheet_path(self._folder, engine.step).is_file() and names <= engine.recorded

    def measure(self, engine: Engine) -> Metrics:
        """Makes the sheet of this step, and records and returns its scores."""
        if self._base is None:
            self._base = self._images("base")
        images = self._images(self._weights)
        labels = ("base", self._weights)
        sheet = self._show(engine, dict(zip(labels, (self._base, images), strict=True)))
        by_image = {name: self._both_scores(name, scorer, images) for name, scorer in self._scorers.items()}
        if by_image:
            said = {name: dict(zip(labels, both, strict=True)) for name, both in by_image.items()}
            write_index(self._folder, with_scores(sheet, said))
        scores = _means(by_image)
        if scores:
            if self._scored is not None:
                self._scored(engine, scores)
            engine.log(scores)
        return scores

    def _show(self, engine: Engine, made: Mapping[str, Sequence[Image.Image | NotFinite]]) -> Sheet:
        """Writes the sheet of this step, before a reward may fail, and gives it to the trackers."""
        columns = {label: [self._shown(image) for image in images] for label, images in made.items()}
        picture, sheet = draw_sheet(engine.step, self._prompts, columns)
        write_sheet(self._folder, picture, sheet)
        if engine.tracker is not None:
            engine.tracker.image("validation/images", picture, engine.step)
        return sheet

    def _both_scores(self, name: str, scorer: Scorer, images: Sequence[Image.Image | NotFinite]) -> Both:
        """Scores of the base, which are asked for until all are there, and of the policy."""
        assert self._base is not None
        base = self._base_scores.get(name) or self._scores(name, scorer, self._base)
        if len(base) == len(self._prompts):
            self._base_scores[name] = base
        return base, self._scores(name, scorer, images)

    def _scores(self, name: str, scorer: Scorer, made: Sequence[Image.Image | NotFinite]) -> dict[int, float]:
        """Number of the prompt -> score, of the images that there are and that have one."""
        images = {place: image for place, image in enumerate(made) if not isinstance(image, NotFinite)}
        if not images:
            return {}
        answers = scorer(list(images.values()), [self._prompts[place] for place in images])
        scores = {place: score for place, score in zip(images, answers, strict=True) if score is not None}
        if len(scores) < len(images):
            unscored = len(images) - len(scores)
            logger.warning(f"reward {name} gave no score to {unscored} of {len(images)} validation images")
        return scores

    def _shown(self, image: Image.Image | NotFinite) -> Image.Image:
        """The image, or a crossed-out square for one that is not finite."""
        if not isinstance(image, NotFinite):
            return image
        side = self._policy.backbone.resolution
        crossed = Image.new("RGB", (side, side), "white")
        ImageDraw.Draw(crossed).line([(0, 0), (side, side)], "red", 2)
        ImageDraw.Draw(crossed).line([(0, side), (side, 0)], "red", 2)
        return crossed

    def _images(self, weights: str) -> list[Image.Image | NotFinite]:
        seeds = list(range(len(self._prompts)))
        negative = self._unconditional.get(weights)
        images = list(
            try_images(self._policy, self._prompts, seeds, self._generation, weights=weights, negative=negative)
        )
        failed = [image for image in images if isinstance(image, NotFinite)]
        if failed:
            logger.warning(
                f"{len(failed)} of {len(images)} validation images of the {weights} are not finite, crossed out and "
                f"not scored; first: {failed[0]}"
            )
        return images


def prepare_held_out(config: RunConfig, core: Core, plan: Plan) -> HeldOutPairs | None:
    """The held-out pairs that the config names, encoded; None where it names none."""
    validate = config.validation
    if validate.pairs is None or plan.held_out is None:
        return None
    return HeldOutPairs(
        plan.held_out,
        encode_data(config, validate.pairs, plan.held_out, core, plan.held_out_buckets),
        max_pairs=validate.max_pairs,
        draws=validate.draws,
        seed=config.seed,
        batch=config.train.micro_batch,
    )


def build_validation(config: RunConfig, core: Core, plan: Plan, held_out: HeldOutPairs | None) -> Sequence[Measurement]:
    """The measurements that the config asks for."""
    validate, steps = config.validation, config.train.steps
    wanted: list[Measurement] = []
    if plan.prompts is not None:
        images = ValidationImages(
            core.policy,
            plan.prompts,
            config.run_dir / "validation",
            every=validate.every_steps,
            steps=steps,
            generation=validate.generation,
            scorers={reward.name: reward for reward in load_pointwise(validate.rewards, "validation")},
            unconditional=unconditional_weights(config),
            weights=validate.weights,
            scored=Best(config, core) if validate.best is not None else None,
        )
        wanted.append(images)
    if held_out is not None:
        wanted.append(HeldOutAccuracy(core.policy, held_out, every=validate.every_steps, steps=steps))
    return wanted
