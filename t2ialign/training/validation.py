"""What is measured along a run: images of fixed prompts and seeds with their rewards, and held-out pairs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from t2ialign.config.generation import GenerationConfig
from t2ialign.config.schema import RunConfig
from t2ialign.generation.images import NotFinite, try_images
from t2ialign.policy import Policy
from t2ialign.rewards.registry import load_pointwise
from t2ialign.storage.atomic import atomic_write
from t2ialign.training.core import Core
from t2ialign.training.encoding import encode_data
from t2ialign.training.engine import Engine
from t2ialign.training.measurement import Measurement
from t2ialign.training.negative import unconditional_weights
from t2ialign.training.pair_accuracy import HeldOutAccuracy, HeldOutPairs
from t2ialign.training.preflight import Plan
from t2ialign.types import Weights

logger = logging.getLogger(__name__)
Scorer = Callable[[list[Image.Image], list[str]], list[float | None]]


def grid(rows: list[list[Image.Image]]) -> Image.Image:
    """Images side by side, a list a row, 2 px apart."""
    width, height = rows[0][0].size
    sheet = Image.new("RGB", (len(rows[0]) * (width + 2) - 2, len(rows) * (height + 2) - 2), "white")
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            sheet.paste(image, (x * (width + 2), y * (height + 2)))
    return sheet


class ValidationImages(Measurement):
    """Images of fixed prompts and seeds, the untouched base on the left; draws nothing that training draws.

    Args:
        policy: who answers.
        prompts: one image each.
        folder: where the sheets go.
        every: optimizer steps between sheets; one more after the last step.
        steps: the last step.
        generation: how the images are made.
        scorers: name -> reward, measured on base and policy.
        unconditional: "base" and "policy" -> what answers in their unconditional branch; default: themselves.
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
    ):
        super().__init__(every=every, steps=steps)
        self._policy, self._prompts, self._folder = policy, prompts, folder
        self._generation = generation
        self._scorers = scorers
        self._unconditional = unconditional or {}
        self._base: list[Image.Image | NotFinite] | None = None

    def _is_recorded(self, engine: Engine) -> bool:
        names = {f"validation/{name}/policy" for name in self._scorers}
        return self._sheet(engine).is_file() and names <= engine.recorded

    def _sheet(self, engine: Engine) -> Path:
        return self._folder / f"step-{engine.step:06d}.png"

    def measure(self, engine: Engine) -> None:
        """Makes the sheet of this step and records its scores."""
        if self._base is None:
            self._base = self._images("base")
        images = self._images("policy")
        sheet = grid([[self._shown(image) for image in pair] for pair in zip(self._base, images, strict=True)])
        with atomic_write(self._sheet(engine)) as partial:
            sheet.save(partial, format="PNG")
        if engine.tracker is not None:
            engine.tracker.image("validation/base_left_policy_right", sheet, engine.step)
        scores: dict[str, float] = {}
        for name, scorer in self._scorers.items():
            base, policy = (self._scores(name, scorer, made) for made in (self._base, images))
            both = sorted(base.keys() & policy.keys())  # the two means are of the same prompts
            if both:
                for who, values in (("base", base), ("policy", policy)):
                    scores[f"validation/{name}/{who}"] = sum(values[place] for place in both) / len(both)
        if scores:
            engine.log(scores)

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
        encode_data(config, validate.pairs, plan.held_out, core),
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
        )
        wanted.append(images)
    if held_out is not None:
        wanted.append(HeldOutAccuracy(core.policy, held_out, every=validate.every_steps, steps=steps))
    return wanted
