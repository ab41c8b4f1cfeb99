import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from t2ialign.shapes.caption import (
    PERTURBATIONS,
    SPLITS,
    captions,
    combination,
    constraints,
    corrupt,
    describe,
    family_of,
    parse,
    perturb,
    perturbations,
    prompts,
    split_of,
    write,
)
from t2ialign.shapes.constraint import CRITERIA, Constraint, Spec, counted, holds
from t2ialign.shapes.families import FAMILIES, WORDS
from t2ialign.shapes.scene import Scene, Thing, sample_scene

DOCS = Path(__file__).parents[2] / "docs" / "shapes.md"
WORDINGS = [(name, wording) for name, family in FAMILIES.items() for wording in family.wordings]


def fill(wording: str, rng: np.random.Generator) -> dict[str, str]:
    names = {letter + digit for letter, digit in re.findall(r"\{(\w)(\d?)\}", wording)}
    return {name: WORDS[name[0]][rng.integers(len(WORDS[name[0]]))] for name in sorted(names)}


@pytest.mark.parametrize(("family", "wording"), WORDINGS)
def test_every_wording_comes_back_as_it_was_filled(family: str, wording: str):
    rng = np.random.default_rng(0)
    for _ in range(20):
        slots = fill(wording, rng)
        assert parse(write(wording, slots)) == (family, wording, slots)


def test_the_examples_of_the_docs_are_of_the_family_that_they_stand_for():
    rows = re.findall(r"^\| ([a-z ,]+) \| (an? .*|two .*) \|$", DOCS.read_text(), re.MULTILINE)
    shown = {family_of(text) for _, texts in rows for text in texts.split(" · ") if text != "…"}
    assert shown | {"triple"} == set(FAMILIES) == {name for names, _ in rows for name in names.split(", ")}


def test_no_text_belongs_to_two_wordings():
    rng = np.random.default_rng(1)
    texts = Counter(write(wording, fill(wording, rng)) for _, wording in WORDINGS)
    assert max(texts.values()) == 1


def test_a_caption_is_true_of_the_scene_that_it_describes():
    rng = np.random.default_rng(2)
    seen = set()
    for _ in range(1500):
        scene = sample_scene(rng)
        for family, text in captions(scene, rng).items():
            assert family_of(text) == family
            assert all(holds(constraint, scene) for constraint in constraints(text)), (text, scene)
            seen.add(parse(text).wording)
    assert seen == {wording for _, wording in WORDINGS}


def test_there_are_twelve_families_and_every_criterion_is_stated_by_one():
    assert len(FAMILIES) >= 12
    stated = {c.criterion for split in SPLITS for prompt in prompts(split, 64, 0) for c in constraints(prompt)}
    assert stated == set(CRITERIA)


def test_constraints_by_hand():
    assert constraints("Two red circles.") == (
        Constraint("total", "Attribute - Quantity", value=2),
        Constraint("every", "Attribute - Color", Spec(color="red")),
        Constraint("every", "Attribute - Shape", Spec(shape="circle")),
    )
    assert constraints("an orange ring to the left of a blue cross") == (
        Constraint("total", "Attribute - Quantity", value=2),
        Constraint("exists", "Compound - Feature Matching", Spec("orange", "ring")),
        Constraint("exists", "Compound - Feature Matching", Spec("blue", "cross")),
        Constraint(
            "relation",
            "Entity Layout - Two-Dimensional Space",
            Spec("orange", "ring"),
            Spec("blue", "cross"),
            "left of",
        ),
    )
    assert constraints("two shapes, none of them pink")[-1] == Constraint(
        "absent", "Grammar - Negation", Spec(color="pink")
    )


@pytest.mark.parametrize(
    "text", ["", "a dog", "a red circle and", "five red circles", "a bluered circle", "red circle"]
)
def test_other_texts_are_refused_by_name(text: str):
    with pytest.raises(ValueError, match=re.escape(repr(text))):
        constraints(text)


@given(st.integers(0, 2**32 - 1))
def test_a_perturbed_caption_is_a_caption_with_other_facts(seed: int):
    rng = np.random.default_rng(seed)
    for text in captions(sample_scene(rng), rng).values():
        for kind in perturbations(text):
            changed = perturb(text, kind, rng)
            assert parse(changed).wording == parse(text).wording
            assert combination(changed) != combination(text)


def test_each_kind_of_perturbation_changes_its_fact():
    rng = np.random.default_rng(0)
    assert perturb("a red ring left of a blue cross", "relation", rng) == "a red ring right of a blue cross"
    assert perturb("a red ring left of a blue cross", "swap", rng) == "a blue ring left of a red cross"
    assert perturb("a small red ring", "size", rng) == "a large red ring"
    assert perturb("two red rings", "count", rng) in ("three red rings", "four red rings")
    assert perturb("a red ring", "color", rng).endswith(" ring")
    assert perturb("a red ring", "shape", rng).startswith("a red ")
    assert "red ring on a" in perturb("a red ring on a navy background", "background", rng)


def test_what_a_caption_does_not_state_cannot_be_perturbed():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="nothing to change of kind 'relation'"):
        perturb("a red ring", "relation", rng)
    with pytest.raises(ValueError, match="unknown kind of perturbation 'mood'"):
        perturb("a red ring", "mood", rng)  # pyright: ignore[reportArgumentType]
    assert set(perturbations("a red ring above a blue cross")) == {"color", "shape", "relation", "swap"}
    assert set(PERTURBATIONS) >= set(perturbations("a red ring"))


def test_a_corrupted_caption_says_something_else():
    rng = np.random.default_rng(3)
    for prompt in prompts("train", 400, 3):
        assert corrupt(prompt, rng) != prompt


def test_the_split_is_by_facts_not_by_wording():
    pairs = [
        ("a red ring left of a blue cross", "a blue cross is to the right of a red ring"),
        ("a red ring and a blue cross", "a picture of a blue cross and a red ring"),
        ("a red ring smaller than a blue cross", "a blue cross is larger than a red ring"),
        ("three green squares", "three squares, all green"),
    ]
    for one, other in pairs:
        assert combination(one) == combination(other)
        assert split_of(one) == split_of(other)
    assert combination("a red ring left of a blue cross") != combination("a blue cross left of a red ring")


def test_the_split_never_changes():
    # pinned: data sets and the shipped model were made with this split
    asked = ["a red circle", "a blue circle", "a green ring", "two pink rings", "a cyan ring and a blue circle"]
    assert [split_of(prompt) for prompt in asked] == ["train", "test", "validation", "train", "test"]


def test_about_a_tenth_of_the_combinations_is_held_out_twice():
    found = {combination(text): split_of(text) for text in _described(3000)}
    shares = Counter(found.values())
    assert shares["train"] / len(found) == pytest.approx(0.8, abs=0.04)
    assert shares["test"] / len(found) == pytest.approx(0.1, abs=0.03)


def _described(n: int) -> list[str]:
    rng = np.random.default_rng(4)
    found = (describe(sample_scene(rng), name, rng) for _ in range(n // 16) for name in FAMILIES)
    return [text for text in found if text is not None]


def test_a_thousand_different_held_out_prompts_of_every_family():
    asked = prompts("test", 1000, 0)
    assert len(set(asked)) == 1000
    assert {split_of(prompt) for prompt in asked} == {"test"}
    assert set(map(family_of, asked)) == set(FAMILIES)


def test_prompts_take_turns_over_families_and_repeat_with_the_seed():
    asked = prompts("train", 64, 5)
    assert {split_of(prompt) for prompt in asked} == {"train"}
    assert Counter(map(family_of, asked)) == dict.fromkeys(FAMILIES, 4)
    assert asked == prompts("train", 64, 5)
    assert asked != prompts("train", 64, 6)
    assert {family_of(prompt) for prompt in prompts("test", 20, 0, ("pair", "triple"))} == {"pair", "triple"}


def test_asking_for_more_prompts_than_there_are_is_an_error():
    with pytest.raises(ValueError, match="different prompts of none of, not 1000"):
        prompts("test", 1000, 0, ("none of",))
    with pytest.raises(ValueError, match="unknown split 'dev'"):
        prompts("dev", 1, 0)  # pyright: ignore[reportArgumentType]


def test_constraints_hold_and_fail_by_hand():
    scene = Scene("navy", (Thing("ring", "red", "large", 16, 20), Thing("cross", "blue", "small", 48, 44)))
    right = [
        "a red ring and a blue cross",
        "a red ring left of a blue cross",
        "a blue cross below a red ring",
        "a red ring larger than a blue cross",
        "a large red ring and a small blue cross",
        "two shapes, none of them pink",
        "two shapes, but no squares",
    ]
    wrong = [
        "a blue ring and a red cross",
        "a red ring right of a blue cross",
        "a blue cross above a red ring",
        "a red ring smaller than a blue cross",
        "a small red ring and a small blue cross",
        "two shapes, none of them red",
        "two rings",
        "a red ring",
        "a red ring, a blue cross and a blue cross",
        "a ring and a cross of the same color",
        "a red ring on a black background",
    ]
    assert all(holds(constraint, scene) for text in right for constraint in constraints(text))
    assert not any(all(holds(constraint, scene) for constraint in constraints(text)) for text in wrong)


def test_things_are_counted_for_statements_of_a_number():
    scene = Scene("navy", (Thing("ring", "red", "large", 16, 20), Thing("ring", "blue", "small", 48, 44)))
    found = {
        constraint.kind: counted(constraint, scene) for constraint in constraints("three shapes, none of them red")
    }
    assert found == {"total": 2, "absent": None}
    assert counted(Constraint("count", "", Spec(color="red"), value=2), scene) == 1


def test_an_empty_scene_satisfies_nothing_but_its_background():
    empty = Scene("navy", ())
    for text in ("two shapes, none of them red", "two rings of the same color", "a red ring"):
        assert not any(holds(constraint, empty) for constraint in constraints(text))
    assert holds(constraints("a red ring on a navy background")[-1], empty)


@pytest.mark.slow
def test_prompts_are_the_same_in_every_process():
    # sets of strings come in another order under another hash seed; the same seed must still give the same prompts
    code = "from t2ialign.shapes.caption import prompts; print(prompts('train', 800, 0))"
    texts = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(texts) == 1
