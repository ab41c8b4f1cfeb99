"""Rules of English: what is exchanged, what is left alone, and that the lists are well kept."""

from __future__ import annotations

import itertools

import inflect
import pytest

from t2ialign.feedback.negative_captions import words
from t2ialign.feedback.negative_captions.base import KINDS, Kind, judged, near_synonyms
from t2ialign.feedback.negative_captions.english import EnglishEditor

EDITOR = EnglishEditor()
ENGLISH = inflect.engine()


def possible(prompt: str, kind: Kind) -> set[str]:
    """Everything that can stand instead."""
    return {edit.text for edit in EDITOR.edits(prompt, kind)}


def written(prompt: str, kind: Kind, wanted: str) -> str:
    """The whole prompt of a seed that chooses this word."""
    for seed in range(400):
        text = EDITOR(prompt, kind, seed).text
        if wanted in text:
            return text
    raise AssertionError(f"no seed of 400 writes {wanted!r}")


def test_a_noun_becomes_another_of_its_group_with_its_article():
    assert {"elephant", "cat", "horse"} <= possible("a photo of a dog", "content")
    assert written("a photo of a dog", "content", "elephant") == "a photo of an elephant"
    assert written("An elephant sleeps", "content", "cat") == "A cat sleeps"


def test_a_plural_stays_a_plural():
    assert written("two wolves in the snow", "content", "mice") == "two mice in the snow"
    assert "mouse" not in possible("two wolves in the snow", "content")


@pytest.mark.parametrize(
    ("prompt", "kind", "before", "after"),
    [
        ("a red car", "attribute", "red", "blue"),
        ("a large red car", "attribute", "large", "small"),
        ("three dogs", "attribute", "three", "five"),
        ("4 dogs", "attribute", "4", "8"),
        ("a cup to the left of a plate", "relation", "to the left of", "to the right of"),
        ("a cup on top of a plate", "relation", "on top of", "underneath"),
        ("a woman is running", "relation", "running", "sleeping"),
        ("a dog runs home", "relation", "runs", "sleeps"),
        ("a man pushing a cart", "relation", "pushing", "pulling"),
        ("a cat on the beach", "context", "on the beach", "in the desert"),
        ("a cat on a beach", "context", "on a beach", "in an office"),
        ("a city at night", "context", "at night", "at noon"),
        ("an oil painting of a bridge", "context", "oil painting", "photograph"),
    ],
)
def test_each_kind_exchanges_what_excludes_each_other(prompt: str, kind: Kind, before: str, after: str):
    expected = prompt.replace(before, after).replace("an photograph", "a photograph")
    assert written(prompt, kind, after) == expected


def test_who_does_what_to_whom_is_turned_around():
    assert written("A red dog chasing the cat, photo", "relation", "The cat") == "The cat chasing a red dog, photo"
    assert "the cat above a dog" in possible("a dog above the cat", "relation")


@pytest.mark.parametrize(
    "prompt",
    [
        'a sign that says "red dog"',  # what is to be written stays
        "a portrait by Fox Miller",  # a name
        "a street without a dog",  # absent: a street without a cat may be the same street
        "no red dogs",
        "a glass of milk tea",  # not glass, not milk, not tea
        "a hot-air festival",
    ],
)
def test_what_must_not_be_changed_is_left_alone(prompt: str):
    assert possible(prompt, "attribute") == possible(prompt, "content") == set()


@pytest.mark.parametrize(
    ("prompt", "kind"),
    [
        ("an orange on a plate", "attribute"),  # the fruit
        ("a stone, a square and a piece of paper", "attribute"),
        ("a flying carpet", "relation"),
        ("three of them", "attribute"),
        ("in the 1960s", "attribute"),
        ("a kitchen table", "context"),
        ("the dances", "relation"),
    ],
)
def test_a_word_in_another_use_is_left_alone(prompt: str, kind: Kind):
    assert possible(prompt, kind) == set()


def test_a_phrase_is_changed_as_a_whole():
    assert all("dog" not in text for text in possible("a hot dog", "content"))
    assert written("a hot dog", "content", "pizza") == "a pizza"


def test_what_the_prompt_names_already_is_no_negative_caption():
    assert {"cat", "dog"}.isdisjoint(possible("a dog and a cat", "content"))
    assert {"red", "blue"}.isdisjoint(possible("a crimson hat and a blue red car", "attribute"))


def test_a_kind_that_the_prompt_does_not_state_is_inapplicable():
    for kind in KINDS:
        assert EDITOR("abstract shapes of thought", kind, 0).outcome == "inapplicable"


def test_equal_seeds_write_equal_prompts_and_others_differ():
    prompt = "a dog, a car and a banana"
    drawn = [EDITOR(prompt, "content", seed).text for seed in range(20)]
    assert drawn == [EDITOR(prompt, "content", seed).text for seed in range(20)]
    assert len(set(drawn)) > 10


# --- near-synonyms


@pytest.mark.parametrize(
    ("prompt", "text", "outcome"),
    [
        ("a red car", "a blue car", "written"),
        ("a red car", "A red car.", "unchanged"),
        ("a red car", "a crimson automobile", "near_synonym"),
        ("a red car", "a very beautiful red car", "near_synonym"),
        ("two red cars", "two red automobiles", "near_synonym"),
        ("two cars", "three cars", "written"),
        ("a dog left of a cat", "a cat left of a dog", "written"),
        ("a red car", "a red car\na blue car", "malformed"),
        ("a red car", "", "malformed"),
        ("a red car", "I am sorry, but I cannot help with a request like this one, as it is not clear", "malformed"),
    ],
)
def test_only_another_meaning_is_a_negative_caption(prompt: str, text: str, outcome: str):
    assert judged(prompt, text).outcome == outcome


def test_no_rule_ever_exchanges_near_synonyms():
    groups = [*words.NOUNS, *words.EXCLUSIVE, *words.EXCLUSIVE_CONTEXTS]
    for group in groups:
        found = EDITOR._nouns | EDITOR._attributes | EDITOR._contexts
        assert not [(one, other) for one in group for other in found[one] if near_synonyms(one, other)]


# --- the lists


def test_no_word_stands_in_two_lists_of_a_kind():
    for lists in (words.NOUNS, words.EXCLUSIVE, (*words.CONTEXTS, *words.EXCLUSIVE_CONTEXTS), words.NEAR_SYNONYMS):
        every = [word for group in lists for word in group]
        assert len(every) == len(set(every)), {word for word in every if every.count(word) > 1}


def test_nouns_are_singular_and_their_plurals_lead_back():
    for noun in itertools.chain(*words.NOUNS):
        assert ENGLISH.singular_noun(ENGLISH.plural(noun)) == noun


def test_opposites_are_no_near_synonyms_and_symmetric():
    for one, other in words.OPPOSITES:
        assert not [(a, b) for a in one for b in other if near_synonyms(a, b)]
    for word, others in EDITOR._attributes.items():
        assert word == "grey" or all(word in EDITOR._attributes[other] for other in others)
    for word, others in EDITOR._movements.items():
        assert all(word in EDITOR._movements[other] for other in others)


def test_every_list_is_in_lower_case_but_for_names():
    every = [word for group in (*words.NOUNS, *words.EXCLUSIVE, *words.CONTEXTS, words.FIXED) for word in group]
    assert every == [word.lower() for word in every]


def test_every_movement_has_a_right_form():
    assert {"sitting", "running", "swimming", "flying", "crawling", "flies", "sits"} <= set(EDITOR._movements)
