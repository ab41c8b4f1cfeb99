"""What UniGenBench tests: 10 dimensions and their 27 criteria (arXiv:2508.20751, arXiv:2510.18701).

Names are the labels of the official prompt files, in English and Chinese; meanings are in our words.
"""

from __future__ import annotations

from typing import NamedTuple


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


class Dimension(NamedTuple):
    """A group of criteria that leaderboards report as one column."""

    id: str
    name: str
    name_zh: str
    criteria: tuple[Criterion, ...]


def _alone(id: str, name: str, name_zh: str, meaning: str) -> Dimension:
    """A dimension that is its own only criterion."""
    return Dimension(id, name, name_zh, (Criterion(id, name, name_zh, meaning),))


DIMENSIONS: tuple[Dimension, ...] = (
    _alone(
        "style",
        "Style",
        "风格",
        "The named style of art, photography or design, or the artist's manner, can be recognised.",
    ),
    _alone(
        "world_knowledge",
        "World Knowledge",
        "世界知识",
        "Known people, places, works, facts of a field and expressions of the time look as they really do.",
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
            ),
            Criterion(
                "attribute.expression",
                "Attribute - Expression",
                "属性-表情",
                "The face shows the feeling asked for, not only a movement such as closed eyes.",
            ),
            Criterion(
                "attribute.material",
                "Attribute - Material",
                "属性-材质",
                "The thing is made of the stated substance and its surface looks so.",
            ),
            Criterion(
                "attribute.size",
                "Attribute - Size",
                "属性-大小",
                "The thing is as large, tall, long, thick or wide as stated.",
            ),
            Criterion("attribute.shape", "Attribute - Shape", "属性-形状", "The thing has the stated geometric form."),
            Criterion("attribute.color", "Attribute - Color", "属性-颜色", "The thing has the stated colour."),
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
            ),
            Criterion(
                "action.full_body",
                "Action - Full-body (Character/Anthropomorphic)",
                "动作-人物/拟人全身动作",
                "A person, or a figure that acts like one, does with the whole body what is asked.",
            ),
            Criterion("action.animal", "Action - Animal", "动作-动物动作", "The animal does what is asked."),
            Criterion(
                "action.non_contact",
                "Action - Non-contact Interaction",
                "动作-实体间无接触互动",
                "Things or beings relate to each other without touching, as in exchanging a look.",
            ),
            Criterion(
                "action.contact",
                "Action - Contact Interaction",
                "动作-实体间有接触互动",
                "Things or beings act on each other by touch.",
            ),
            Criterion(
                "action.state",
                "Action - State",
                "动作-状态",
                "A thing is in the lasting condition that a verb of the prompt states.",
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
            ),
            Criterion(
                "relationship.similarity",
                "Relationship - Similarity",
                "关系-相似关系",
                "Things are alike in the way the prompt states.",
            ),
            Criterion(
                "relationship.inclusion",
                "Relationship - Inclusion",
                "关系-包含关系",
                "One thing is inside another, or pictured on it.",
            ),
            Criterion(
                "relationship.comparison",
                "Relationship - Comparison",
                "关系-比较关系",
                "Things differ in an attribute in the way the prompt states.",
            ),
        ),
    ),
    _alone(
        "logical_reasoning",
        "Logical Reasoning",
        "逻辑推理",
        "What follows from the prompt by cause, contrast or intent, without being said, is shown.",
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
            ),
            Criterion(
                "grammar.consistency",
                "Grammar - Consistency",
                "语法-统一性",
                "What is said of several things at once holds for every one of them.",
            ),
            Criterion("grammar.negation", "Grammar - Negation", "语法-否定", "What the prompt rules out is not there."),
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
            ),
            Criterion(
                "compound.feature_matching",
                "Compound - Feature Matching",
                "复合考点-不同实体特征匹配",
                "Several things each carry their own features, with none exchanged.",
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
            ),
            Criterion(
                "layout.three_d",
                "Entity Layout - Three-Dimensional Space",
                "实体布局-三维空间",
                "Things stand where stated in depth: before, behind, near, far.",
            ),
        ),
    ),
    _alone(
        "text",
        "Text Generation",
        "文本生成",
        "The words asked for can be read exactly, with no letter missing, wrong or added.",
    ),
)
"""In the order of the leaderboard's columns."""

CRITERIA: tuple[Criterion, ...] = tuple(criterion for dimension in DIMENSIONS for criterion in dimension.criteria)
"""All 27, in order."""
