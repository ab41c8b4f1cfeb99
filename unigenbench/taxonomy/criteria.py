"""The 10 dimensions and their 27 criteria, each with its label in English and Chinese prompt files and its meaning.

Names are the labels of the official prompt files; meanings are in our words (arXiv:2508.20751, arXiv:2510.18701).
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
