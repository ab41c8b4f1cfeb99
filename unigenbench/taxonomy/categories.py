"""How prompts are sorted: by theme and sub-theme, subject, and sentence structure, in either language."""

from __future__ import annotations

from typing import NamedTuple


class Label(NamedTuple):
    """One value by which prompts are sorted."""

    name: str
    """Canonical, in English: what a Prompt carries."""
    name_zh: str
    variants: tuple[str, ...] = ()
    """What official prompt files also write for it, in either language."""


class Theme(NamedTuple):
    """What a prompt is for, with its finer kinds. Two themes have an "Other": a sub-theme is named by both."""

    name: str
    name_zh: str
    subthemes: tuple[Label, ...]
    variants: tuple[str, ...] = ()
    """As in Label."""


THEMES: tuple[Theme, ...] = (
    Theme(
        "Creative Divergence",
        "创意发散",
        (
            Label("Imaginative Thinking", "想象力发散", ("Creativity divergence-imagination divergence",)),
            Label("Other", "其他"),
        ),
    ),
    Theme(
        "Art",
        "艺术",
        (
            Label("Graphic Art", "平面艺术"),
            Label("Photography Art", "摄影艺术"),
            Label("Sculptural Art", "立体艺术", ("Art-Three-dimensional Art",)),
            Label("Other", "其他"),
        ),
    ),
    Theme(
        "Illustration",
        "配图",
        (
            Label("Content Illustration", "内容配图", ("Mapping-Content Mapping",)),
            Label("Copywriting Illustration", "文案配图"),
        ),
    ),
    Theme(
        "Film & Story",
        "影视故事",
        (Label("Realism", "写实"), Label("Animation", "动画"), Label("Sci-Fi", "科幻")),
    ),
    Theme(
        "Design",
        "设计",
        (
            Label("Advertising/E-commerce Design", "广告/电商设计"),
            Label("UI Design", "软件界面设计"),
            Label("Fashion Design", "服装设计"),
            Label("Logo/Icon Design", "logo/icon设计"),
            Label("Spatial Design", "空间设计", ("Design-Space Design",)),
            Label("IP Design", "ip设计"),
            Label("Poster Design", "海报设计"),
            Label("Game Design", "游戏设计"),
            Label("Design Assets", "设计素材"),
        ),
    ),
)
SUBJECTS: tuple[Label, ...] = (
    Label("Character", "人物"),
    Label("Animal", "动物"),
    Label("Other Entity", "其他实体"),
    Label("Scene", "场景"),
    Label("Anthropomorphic", "拟人"),
)
STRUCTURES: tuple[Label, ...] = (
    Label("Descriptive", "描述式", ("descriptive sentence pattern", "描述式句式")),
    Label("Imperative", "指令式", ("imperative sentence pattern", "指令式句式")),
)
