"""The records behind the gallery: every judged image with prompt, verdicts and replies, for the page's script."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Sequence
from typing import Any

from unigenbench.judges.keys import redact
from unigenbench.report.facts import STATUS_WORDS
from unigenbench.report.pictures import Album
from unigenbench.report.runs import Run
from unigenbench.scoring.verdicts import image_key
from unigenbench.taxonomy import DIMENSIONS
from unigenbench.types import Judgement, Prompt


def gallery(runs: Sequence[Run], album: Album) -> dict[str, Any]:
    """All that the script shows. Runs share a card where number, text and test points of the prompt are the same.

    Returns:
        runs: name, letter; dimensions: id, name, criteria; statuses: what each says; prompts; and cards, each with the
        place of its prompt, the number of its image, and for each run the answers to it (one per sample of the judge,
        none where not judged).
    """
    prompts: dict[tuple[Any, ...], int] = {}
    records: list[dict[str, Any]] = []
    cards: dict[tuple[int, int], dict[str, Any]] = {}
    for place, run in enumerate(runs):
        answers = _by_image(run)
        for prompt in run.log.prompts.prompts:
            identity = (prompt.index, prompt.text, tuple((point.label, point.description) for point in prompt.points))
            if identity not in prompts:
                prompts[identity] = len(records)
                records.append(_prompt(prompt, run.log.prompts.language))
            for image, judgements in sorted(answers.get(prompt.index, {}).items()):
                card = cards.setdefault(
                    (prompts[identity], image),
                    {"prompt": prompts[identity], "image": image, "sides": [None] * len(runs)},
                )
                picture = album.picture(run.log, judgements[0])
                card["sides"][place] = {
                    "src": picture.src,
                    "full": picture.full,
                    "sha": judgements[0].image_sha256[:16],
                    "answers": [_answer(judgement) for judgement in judgements],
                }
    return {
        "runs": [{"letter": run.letter, "name": run.name, "judge": _judge_id(run)} for run in runs],
        "dimensions": [
            {"id": d.id, "name": d.name, "criteria": [{"id": c.id, "name": c.name.split(" (")[0]} for c in d.criteria]}
            for d in DIMENSIONS
        ],
        "statuses": STATUS_WORDS,
        "prompts": records,
        "cards": [cards[place] for place in sorted(cards)],
    }


def _by_image(run: Run) -> dict[int, dict[int, list[Judgement]]]:
    """prompt index -> image index -> judgements, one per sample of the judge, in their order."""
    table: dict[int, dict[int, list[Judgement]]] = {}
    for judgement in sorted(run.log.judgements, key=image_key):
        table.setdefault(judgement.prompt_index, {}).setdefault(judgement.image_index, []).append(judgement)
    return table


def _judge_id(run: Run) -> str:
    return next((judgement.judge_id for judgement in run.log.judgements), "")


def _prompt(prompt: Prompt, language: str) -> dict[str, Any]:
    return {
        "index": prompt.index,
        "text": prompt.text,
        "language": language,
        "theme": prompt.theme,
        "subtheme": prompt.subtheme,
        "subject": prompt.subject,
        "structure": prompt.structure,
        "points": [
            {"criterion": p.criterion, "label": p.label, "description": p.description, "flags": sorted(p.flags)}
            for p in prompt.points
        ],
    }


def _answer(judgement: Judgement) -> dict[str, Any]:
    """What is shown of a judgement; what is empty is left out, as most of it is."""
    shown = {
        "status": judgement.status,
        "verdicts": judgement.verdicts,
        "analyses": judgement.analyses,
        "probabilities": judgement.probabilities,
        "raw": judgement.raw,
        "note": judgement.parse_note,
        "error": judgement.error,
    }
    return {key: value for key, value in shown.items() if value}


def pack(value: Any, secrets: Sequence[str] = ()) -> str:
    """JSON without the secrets, deflated (zlib's format, which DecompressionStream calls "deflate"), in base64."""
    text = redact(json.dumps(value, ensure_ascii=False, separators=(",", ":")), secrets)
    return base64.b64encode(zlib.compress(text.encode("utf-8"), 9)).decode("ascii")
