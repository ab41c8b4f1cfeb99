"""The taxonomy against the counts of the paper and the labels of the official prompt file."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from hashlib import sha256
from pathlib import Path

import pytest
from typer.testing import CliRunner

from unigenbench.cli.main import app
from unigenbench.errors import InputError
from unigenbench.prompts import OFFICIAL, read_prompts
from unigenbench.taxonomy import (
    CRITERIA,
    DIMENSION_OF,
    DIMENSIONS,
    STRUCTURES,
    SUBJECTS,
    THEMES,
    criterion_of,
    find_dimension,
    fold_structure,
    fold_subject,
    fold_subtheme,
    fold_theme,
)


def test_there_are_10_dimensions_and_27_criteria():
    assert len(DIMENSIONS) == 10
    # Attribute 6, Action 6, Relationship 4, Grammar 3, Compound 2, Layout 2, and four that stand alone
    assert [len(dimension.criteria) for dimension in DIMENSIONS] == [1, 1, 6, 6, 4, 1, 3, 2, 2, 1]
    assert len(CRITERIA) == 27
    for key in ("id", "name", "name_zh", "meaning", "meaning_zh"):
        assert len({getattr(criterion, key) for criterion in CRITERIA}) == 27


@pytest.mark.parametrize(("key", "separator"), [("name", " - "), ("name_zh", "-")])
def test_a_label_begins_with_its_dimension(key, separator):
    for dimension in DIMENSIONS:
        for criterion in dimension.criteria:
            assert getattr(criterion, key).split(separator, 1)[0] == getattr(dimension, key)
            assert criterion.id.split(".")[0] == dimension.id


@pytest.mark.parametrize("key", ["name", "name_zh"])
def test_a_label_is_found_in_either_language(key: str):
    for criterion in CRITERIA:
        assert criterion_of(getattr(criterion, key)) == criterion
        assert criterion_of(f" {getattr(criterion, key).upper()}  ") == criterion
    for dimension in DIMENSIONS:
        assert find_dimension(getattr(dimension, key)) == find_dimension(dimension.id) == dimension


def test_an_unknown_label_is_an_input_error_with_the_nearest_one():
    with pytest.raises(InputError, match="'Atribute - Color' is no criterion; did you mean 'Attribute - Color'"):
        criterion_of("Atribute - Color")
    with pytest.raises(InputError, match="'1234567' is no criterion; `unigenbench taxonomy` lists"):
        criterion_of("1234567")


def test_there_are_5_themes_20_sub_themes_5_subjects_and_2_structures():
    assert [len(theme.subthemes) for theme in THEMES] == [2, 4, 2, 3, 9]
    assert (len(SUBJECTS), len(STRUCTURES)) == (5, 2)


@pytest.mark.parametrize(
    ("theme", "label", "name"),
    [
        ("Art", "Art-Graphic Art", "Graphic Art"),
        ("Art", "Art-Photography Art", "Photography Art"),
        ("Art", "Art-Three-dimensional Art", "Sculptural Art"),
        ("Art", "艺术-立体艺术", "Sculptural Art"),
        ("Art", "Other", "Other"),
        ("Illustration", "Mapping-Content Mapping", "Content Illustration"),
        ("Illustration", "配图-内容配图", "Content Illustration"),
        ("Creative Divergence", "Creativity divergence-imagination divergence", "Imaginative Thinking"),
        ("Creative Divergence", "Creative divergence-other", "Other"),
        ("Creative Divergence", "创意发散-其他", "Other"),
        ("Design", "Design-Space Design", "Spatial Design"),
        ("Design", "Design-Game Design", "Game Design"),
        ("Design", "Logo/icon design", "Logo/Icon Design"),
        ("Design", "logo/icon设计", "Logo/Icon Design"),
        ("Film & Story", "Sci-Fi", "Sci-Fi"),
        ("Film & Story", "Other", None),  # of other themes
        ("Design", "Art-Graphic Art", None),
        ("Creative Divergence", "Art-Other", None),
        ("Weather", "Other", None),
    ],
)
def test_variants_of_a_sub_theme_are_one(theme: str, label: str, name: str | None):
    assert fold_subtheme(theme, label) == name


def test_themes_subjects_and_structures_fold_over_language_and_spelling():
    assert (fold_theme("影视故事"), fold_theme("film & story"), fold_theme("Film")) == ("Film & Story",) * 2 + (None,)
    assert (fold_subject("拟人"), fold_subject("Robot")) == ("Anthropomorphic", None)
    imperative = ("Imperative", "imperative sentence pattern", "指令式", "指令式句式")
    assert {fold_structure(label) for label in imperative} == {"Imperative"}


OFFICIAL_COUNTS = {
    "style": 250, "world_knowledge": 158, "attribute.quantity": 36, "attribute.expression": 39,
    "attribute.material": 53, "attribute.size": 36, "attribute.shape": 40, "attribute.color": 30, "action.hand": 39,
    "action.full_body": 46, "action.animal": 34, "action.non_contact": 49, "action.contact": 42, "action.state": 53,
    "relationship.composition": 74, "relationship.similarity": 45, "relationship.inclusion": 46,
    "relationship.comparison": 32, "logical_reasoning": 109, "grammar.pronoun_reference": 68,
    "grammar.consistency": 54, "grammar.negation": 65, "compound.imagination": 98, "compound.feature_matching": 96,
    "layout.two_d": 68, "layout.three_d": 66, "text": 87,
}  # fmt: skip
"""Test points of each criterion in the short files, by the benchmark's own table."""
DIMENSION_COUNTS = {
    "style": 250, "world_knowledge": 158, "attribute": 234, "action": 263, "relationship": 197,
    "logical_reasoning": 109, "grammar": 187, "compound": 194, "layout": 134, "text": 87,
}  # fmt: skip
SUBTHEME_COUNTS = {
    "Creative Divergence": {"Imaginative Thinking": 53, "Other": 17},
    "Art": {"Graphic Art": 40, "Photography Art": 43, "Sculptural Art": 57, "Other": 17},
    "Illustration": {"Content Illustration": 70, "Copywriting Illustration": 43},
    "Film & Story": {"Realism": 52, "Animation": 51, "Sci-Fi": 47},
    "Design": {
        "Advertising/E-commerce Design": 16, "UI Design": 16, "Fashion Design": 15, "Logo/Icon Design": 13,
        "Spatial Design": 13, "IP Design": 11, "Poster Design": 9, "Game Design": 9, "Design Assets": 8,
    },
}  # fmt: skip


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_official_short_files_hold_what_the_benchmark_says(official: Path, language: str):
    path = official / f"test_prompts_{language}.csv"
    assert OFFICIAL[sha256(path.read_bytes()).hexdigest()] == language
    prompts = read_prompts(path).prompts
    points = Counter(point.criterion for prompt in prompts for point in prompt.points)
    assert points == OFFICIAL_COUNTS
    assert points.total() == 1813
    dimensions = Counter(DIMENSION_OF[point.criterion].id for prompt in prompts for point in prompt.points)
    assert dimensions == DIMENSION_COUNTS
    assert Counter(len(prompt.points) for prompt in prompts) == {1: 65, 2: 154, 3: 159, 4: 147, 5: 75}
    assert Counter((prompt.theme, prompt.subtheme) for prompt in prompts) == {
        (theme, subtheme): count for theme, counts in SUBTHEME_COUNTS.items() for subtheme, count in counts.items()
    }
    assert Counter(prompt.subject for prompt in prompts) == {
        "Character": 151, "Animal": 136, "Other Entity": 136, "Scene": 117, "Anthropomorphic": 60,
    }  # fmt: skip
    assert Counter(prompt.structure for prompt in prompts) == {"Descriptive": 421, "Imperative": 179}


def test_the_command_prints_json():
    result = CliRunner().invoke(app, ["taxonomy", "--json"])
    content = json.loads(result.stdout)
    assert [dimension["id"] for dimension in content["dimensions"]] == [dimension.id for dimension in DIMENSIONS]
    assert content["dimensions"][2]["criteria"][5]["meaning_zh"] == CRITERIA[7].meaning_zh
    assert [len(theme["subthemes"]) for theme in content["themes"]] == [2, 4, 2, 3, 9]


def test_the_command_lists_them_all():
    result = CliRunner().invoke(app, ["taxonomy"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    for criterion in CRITERIA:
        assert criterion.id in result.output
    assert "10 dimensions, 27 criteria" in result.output


def test_the_package_needs_neither_torch_nor_t2ialign():
    code = (
        "import sys\nfor name in ('torch', 't2ialign', 'transformers', 'diffusers'): sys.modules[name] = None\n"
        "import unigenbench, unigenbench.taxonomy, unigenbench.cli.main\nsys.argv = ['unigenbench', 'taxonomy']\n"
        "unigenbench.cli.main.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "27 criteria" in done.stdout
