"""What UniGenBench tests, 10 dimensions and their 27 criteria, and how it sorts prompts: by theme, subject and sentence
structure (arXiv:2508.20751, arXiv:2510.18701).

Names are the labels of the official prompt files, in English and Chinese; meanings are in our words.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any, NamedTuple

from unigenbench.errors import InputError


class Criterion(NamedTuple):
    """One kind of test point; a prompt carries several, and a judge answers each with yes or no."""

    id: str
    """Stable key: the dimension's id, a dot and the criterion, or the dimension's id alone."""
    name: str
    """Label in English prompt files."""
    name_zh: str
    """Label in Chinese prompt files."""
    meaning: str
    """What must hold for a yes."""
    meaning_zh: str
    """The same in Chinese."""


class Dimension(NamedTuple):
    """A group of criteria that leaderboards report as one column."""

    id: str
    name: str
    name_zh: str
    criteria: tuple[Criterion, ...]


def _alone(id: str, name: str, name_zh: str, meaning: str, meaning_zh: str) -> Dimension:
    """A dimension that is its own only criterion."""
    return Dimension(id, name, name_zh, (Criterion(id, name, name_zh, meaning, meaning_zh),))


DIMENSIONS: tuple[Dimension, ...] = (
    _alone(
        "style",
        "Style",
        "风格",
        "The named style of art, photography or design, or the artist's manner, can be recognised.",
        "画面能看出指定的绘画、摄影或设计风格，或指定艺术家的手法。",
    ),
    _alone(
        "world_knowledge",
        "World Knowledge",
        "世界知识",
        "Known people, places, works, facts of a field and expressions of the time look as they really do.",
        "所涉及的人物、地点、作品、专业常识和流行说法与现实相符。",
    ),
    Dimension(
        "attribute",
        "Attribute",
        "属性",
        (
            Criterion(
                "attribute.quantity",
                "Attribute - Quantity",
                "属性-数量",
                "There are exactly as many things as asked for, three or more as a rule.",
                "数量与要求完全一致，一般为三个或更多。",
            ),
            Criterion(
                "attribute.expression",
                "Attribute - Expression",
                "属性-表情",
                "The face shows the feeling asked for, not only a movement such as closed eyes.",
                "面部表现出所要求的情绪，而不只是闭眼之类的面部动作。",
            ),
            Criterion(
                "attribute.material",
                "Attribute - Material",
                "属性-材质",
                "The thing is made of the stated substance and its surface looks so.",
                "物体由指定的材料制成，表面质感也与之相符。",
            ),
            Criterion(
                "attribute.size",
                "Attribute - Size",
                "属性-大小",
                "The thing is as large, tall, long, thick or wide as stated.",
                "物体的大小、高矮、长短、粗细或宽窄与描述一致。",
            ),
            Criterion(
                "attribute.shape",
                "Attribute - Shape",
                "属性-形状",
                "The thing has the stated geometric form.",
                "物体呈现指定的几何形状。",
            ),
            Criterion(
                "attribute.color",
                "Attribute - Color",
                "属性-颜色",
                "The thing has the stated colour.",
                "物体呈现指定的颜色。",
            ),
        ),
    ),
    Dimension(
        "action",
        "Action",
        "动作",
        (
            Criterion(
                "action.hand",
                "Action - Hand (Character/Anthropomorphic)",
                "动作-人物/拟人手部动作",
                "The hands do what is asked, with whole and natural fingers.",
                "手部做出所要求的动作，手指完整自然。",
            ),
            Criterion(
                "action.full_body",
                "Action - Full-body (Character/Anthropomorphic)",
                "动作-人物/拟人全身动作",
                "A person, or a figure that acts like one, does with the whole body what is asked.",
                "人物或拟人角色用全身做出所要求的动作。",
            ),
            Criterion(
                "action.animal",
                "Action - Animal",
                "动作-动物动作",
                "The animal does what is asked.",
                "动物做出所要求的动作。",
            ),
            Criterion(
                "action.non_contact",
                "Action - Non-contact Interaction",
                "动作-实体间无接触互动",
                "Things or beings relate to each other without touching, as in exchanging a look.",
                "人、动物或物体之间有互动但不接触，例如对视。",
            ),
            Criterion(
                "action.contact",
                "Action - Contact Interaction",
                "动作-实体间有接触互动",
                "Things or beings act on each other by touch.",
                "人、动物或物体之间通过接触产生互动。",
            ),
            Criterion(
                "action.state",
                "Action - State",
                "动作-状态",
                "A thing is in the lasting condition that a verb of the prompt states.",
                "物体处于描述中的动词所说的持续状态。",
            ),
        ),
    ),
    Dimension(
        "relationship",
        "Relationship",
        "关系",
        (
            Criterion(
                "relationship.composition",
                "Relationship - Composition",
                "关系-构成关系",
                "One thing is made up of the stated others.",
                "一个事物由描述中的其他事物组成。",
            ),
            Criterion(
                "relationship.similarity",
                "Relationship - Similarity",
                "关系-相似关系",
                "Things are alike in the way the prompt states.",
                "不同事物按描述所说的方式彼此相像。",
            ),
            Criterion(
                "relationship.inclusion",
                "Relationship - Inclusion",
                "关系-包含关系",
                "One thing is inside another, or pictured on it.",
                "一个事物在另一个事物里面，或者画在它上面。",
            ),
            Criterion(
                "relationship.comparison",
                "Relationship - Comparison",
                "关系-比较关系",
                "Things differ in an attribute in the way the prompt states.",
                "不同事物在某个属性上的差别与描述一致。",
            ),
        ),
    ),
    _alone(
        "logical_reasoning",
        "Logical Reasoning",
        "逻辑推理",
        "What follows from the prompt by cause, contrast or intent, without being said, is shown.",
        "描述没有明说、但可由因果、对比或意图推出的内容得到了表现。",
    ),
    Dimension(
        "grammar",
        "Grammar",
        "语法",
        (
            Criterion(
                "grammar.pronoun_reference",
                "Grammar - Pronoun Reference",
                "语法-代词指代",
                "A pronoun that could mean several things is taken to mean the right one.",
                "可能有多种理解的代词，按正确的所指来表现。",
            ),
            Criterion(
                "grammar.consistency",
                "Grammar - Consistency",
                "语法-统一性",
                "What is said of several things at once holds for every one of them.",
                "对多个事物共同提出的要求，每一个都满足。",
            ),
            Criterion(
                "grammar.negation",
                "Grammar - Negation",
                "语法-否定",
                "What the prompt rules out is not there.",
                "描述所排除的内容没有出现。",
            ),
        ),
    ),
    Dimension(
        "compound",
        "Compound",
        "复合考点",
        (
            Criterion(
                "compound.imagination",
                "Compound - Imagination",
                "复合考点-想象力",
                "Something that cannot exist is shown as described.",
                "现实中不可能存在的事物按描述表现出来。",
            ),
            Criterion(
                "compound.feature_matching",
                "Compound - Feature Matching",
                "复合考点-不同实体特征匹配",
                "Several things each carry their own features, with none exchanged.",
                "几个事物各有各的特征，没有互相混淆。",
            ),
        ),
    ),
    Dimension(
        "layout",
        "Entity Layout",
        "实体布局",
        (
            Criterion(
                "layout.two_d",
                "Entity Layout - Two-Dimensional Space",
                "实体布局-二维空间",
                "Things stand where stated in the plane: left, right, above, below.",
                "事物在平面上的位置与描述一致：左、右、上、下。",
            ),
            Criterion(
                "layout.three_d",
                "Entity Layout - Three-Dimensional Space",
                "实体布局-三维空间",
                "Things stand where stated in depth: before, behind, near, far.",
                "事物在纵深上的位置与描述一致：前、后、远、近。",
            ),
        ),
    ),
    _alone(
        "text",
        "Text Generation",
        "文本生成",
        "The words asked for can be read exactly, with no letter missing, wrong or added.",
        "所要求的文字可以准确读出，没有缺漏、错误或多余的字。",
    ),
)
"""In the order of the leaderboard's columns."""

CRITERIA: tuple[Criterion, ...] = tuple(criterion for dimension in DIMENSIONS for criterion in dimension.criteria)
"""All 27, in order."""

BY_ID: dict[str, Criterion] = {criterion.id: criterion for criterion in CRITERIA}
"""Criteria by their ids."""
DIMENSION_OF: dict[str, Dimension] = {
    criterion.id: dimension for dimension in DIMENSIONS for criterion in dimension.criteria
}
"""The dimension of each criterion's id."""

LONGEST_LABEL = 120
"""Characters of an unknown label that are compared and shown."""


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


def _key(label: str) -> str:
    """A label without the differences that say nothing: case, blanks."""
    return " ".join(label.casefold().split())


def _names(labels: tuple[Label, ...] | tuple[Theme, ...]) -> dict[str, str]:
    """{any spelling: canonical English name}"""
    return {_key(text): label.name for label in labels for text in (label.name, label.name_zh, *label.variants)}


_THEMES = _names(THEMES)
_SUBTHEMES = {theme.name: _names(theme.subthemes) for theme in THEMES}
_SUBJECTS = _names(SUBJECTS)
_STRUCTURES = _names(STRUCTURES)
_CRITERIA = {_key(name): criterion for criterion in CRITERIA for name in (criterion.name, criterion.name_zh)}


def fold_theme(label: str) -> str | None:
    """The canonical name of a theme in either language; None where there is no such theme."""
    return _THEMES.get(_key(label))


def fold_subtheme(theme: str, label: str) -> str | None:
    """The canonical name of a sub-theme of a theme, also where the label repeats the theme before a hyphen."""
    names = _SUBTHEMES.get(theme, {})
    before, _, after = label.partition("-")
    return names.get(_key(label)) or (names.get(_key(after)) if fold_theme(before) == theme else None)


def fold_subject(label: str) -> str | None:
    """The canonical name of a subject; None where there is no such subject."""
    return _SUBJECTS.get(_key(label))


def fold_structure(label: str) -> str | None:
    """The canonical name of a sentence structure; None where there is no such structure."""
    return _STRUCTURES.get(_key(label))


def criterion_of(label: str) -> Criterion:
    """The criterion of a prompt file's label, in either language.

    Raises:
        InputError: there is no such criterion.
    """
    found = _CRITERIA.get(_key(label))
    if found is None:
        shown = label if len(label) <= LONGEST_LABEL else f"{label[:LONGEST_LABEL]}..."
        near = get_close_matches(_key(shown), _CRITERIA, n=1)
        hint = f"; did you mean '{_CRITERIA[near[0]].name}'?" if near else "; `unigenbench taxonomy` lists the labels"
        raise InputError(f"'{shown}' is no criterion{hint}")
    return found


def find_dimension(text: str) -> Dimension:
    """The dimension of an id or a name, in either language.

    Raises:
        InputError: there is no such dimension.
    """
    for dimension in DIMENSIONS:
        if _key(text) in map(_key, (dimension.id, dimension.name, dimension.name_zh)):
            return dimension
    raise InputError(f"'{text}' is no dimension; give one of {', '.join(dimension.id for dimension in DIMENSIONS)}")


def as_mapping() -> dict[str, list[dict[str, Any]]]:
    """All of it, ready for JSON: dimensions, themes, subjects, structures."""
    return {
        "dimensions": [
            {**dimension._asdict(), "criteria": [criterion._asdict() for criterion in dimension.criteria]}
            for dimension in DIMENSIONS
        ],
        "themes": [
            {**theme._asdict(), "subthemes": [subtheme._asdict() for subtheme in theme.subthemes]} for theme in THEMES
        ],
        "subjects": [label._asdict() for label in SUBJECTS],
        "structures": [label._asdict() for label in STRUCTURES],
    }
