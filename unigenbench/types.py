"""The records that everything here passes around: prompts with test points, images, requests, replies, judgements."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Language = Literal["en", "zh"]
Severity = Literal["error", "warning"]
Status = Literal["ok", "parse_failed", "refused", "truncated", "transport_failed", "image_missing", "image_bad"]
STATUSES: tuple[Status, ...] = (
    "ok", "parse_failed", "refused", "truncated", "transport_failed", "image_missing", "image_bad",
)  # fmt: skip


@dataclass(frozen=True)
class Point:
    """One test point of a prompt; it is named by its position, as a criterion may occur twice in a prompt."""

    criterion: str
    """id of a taxonomy.Criterion, for example "attribute.color\""""
    label: str
    """as the file writes it, for example "Attribute - Color\""""
    description: str
    """what the criterion means in this prompt; may be empty"""
    flags: frozenset[str] = frozenset()
    """"empty_description", "ungrounded", "duplicate_label\""""


@dataclass(frozen=True)
class Prompt:
    """One row of a prompt file."""

    index: int
    """its number in the file, which names its images"""
    text: str
    theme: str
    subtheme: str
    subject: str
    structure: str
    """canonical English names, whatever the file's language; empty where the file does not say"""
    points: tuple[Point, ...]
    flags: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Repair:
    """What was mended in a file while it was read."""

    line: int
    """1-based, of the file"""
    what: str


@dataclass(frozen=True)
class Problem:
    """Something that a check found wrong."""

    severity: Severity
    """an error: it cannot be used as it is; a warning: it can, but look at it"""
    place: str
    """"file:line", a file or a folder"""
    what: str

    def __str__(self) -> str:
        return f"{self.place}: {self.what}"


@dataclass(frozen=True)
class PromptSet:
    """A prompt file, or a part of it, as it was read."""

    name: str
    """"en", "en_long", "zh", "zh_long", or the file's name"""
    language: Language
    prompts: tuple[Prompt, ...]
    path: Path
    sha256: str
    """of the whole file's bytes"""
    version: str
    """"official v1", "official v0", "suite 1", "shapes 1" by known hash, else "unknown\""""
    repairs: tuple[Repair, ...] = ()
    selection: str | None = None
    """how a subset was chosen, in words; None for the whole file"""


@dataclass(frozen=True)
class ImageFile:
    """One generated image on disk."""

    prompt_index: int
    image_index: int
    path: Path
    sha256: str
    """of the file's bytes"""
    width: int
    height: int
    format: str
    """Pillow's name, for example "PNG\""""


@dataclass(frozen=True)
class Usage:
    """Tokens of one or many replies; adds up."""

    input: int = 0
    output: int = 0
    reasoning: int = 0
    cached_input: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.input + other.input,
            self.output + other.output,
            self.reasoning + other.reasoning,
            self.cached_input + other.cached_input,
        )


@dataclass(frozen=True)
class JudgeRequest:
    """All that a judge is given for one image; what it answers depends on nothing else."""

    key: str
    """"{prompt set}/{prompt index}/{image index}/{sample}\""""
    prompt: Prompt
    image: ImageFile
    text: str
    """the rendered rubric"""
    image_bytes: bytes
    media_type: str
    """for example "image/png\""""
    image_first: bool
    attempt: int = 0
    """number of the parse retry; it changes the seed"""
    seed: int | None = None
    max_tokens: int = 4096


@dataclass(frozen=True)
class JudgeReply:
    """What a judge answered: text to be parsed, or verdicts where it needs no words."""

    text: str = ""
    finish_reason: str = "stop"
    """"stop", "length", "content_filter", or the server's own word"""
    usage: Usage = Usage()
    latency_s: float = 0.0
    request_id: str | None = None
    served_model: str | None = None
    verdicts: tuple[int, ...] | None = None
    """0 or 1 for each test point, in order"""
    probabilities: tuple[float, ...] | None = None
    """of a yes, for each test point, where the judge can say"""
    requests: int = 1
    """to a server, that this one answer took"""


@dataclass(frozen=True)
class Judgement:
    """One line of judgements.jsonl: one image, judged once, or the reason why not."""

    key: str
    judge_id: str
    prompt_index: int
    image_index: int
    image_sha256: str
    prompt_sha256: str
    """of the prompt's text, labels and descriptions"""
    status: Status
    verdicts: tuple[int, ...] | None = None
    """0 or 1 for each test point where the status is "ok", else None"""
    analyses: tuple[str, ...] = ()
    probabilities: tuple[float, ...] | None = None
    raw: str = ""
    parse_note: str = ""
    error: str = ""
    usage: Usage = Usage()
    attempts: int = 1
    parse_attempts: int = 1
    latency_s: float = 0.0
    cached: bool = False
    created: str = ""
    """UTC, ISO 8601"""


@dataclass(frozen=True)
class RunLog:
    """A run folder, read: what was asked, of which images, and what the judge said (the newest line of each key)."""

    path: Path
    manifest: dict[str, Any]
    """run.json: schema_version, run_id, command, versions, dataset, selection, images (root, pattern, per_prompt),
    judge (spec and id), rubric, endpoint, generation, comparable (bool), banner (str or None), usage, cost, status"""
    prompts: PromptSet
    judgements: tuple[Judgement, ...] = field(default=())
