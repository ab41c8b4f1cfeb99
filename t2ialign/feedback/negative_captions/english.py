"""Negative captions in English by rules: one word or phrase exchanged for one that excludes it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from hashlib import blake2b
from typing import NamedTuple

from t2ialign.errors import EnvironmentProblem
from t2ialign.feedback.negative_captions import words
from t2ialign.feedback.negative_captions.base import Answer, Kind, judged, near_synonyms
from t2ialign.rng import keyed_seed

RULES = 1
"""Version of the rules; part of the fingerprint."""
REACH = 3
"""Words between a negation and what it denies, at most."""
_TOKEN = re.compile(r"\w+(?:['’-]\w+)*|[^\w\s]|\s+")
_DETERMINERS = ("a", "an", "the", "one", "his", "her", "its", "their", "my")
_SMALL_NUMBERS = range(2, 13)


class Edit(NamedTuple):
    """What stands at characters start to stop of a prompt, and one thing that could stand there instead."""

    start: int
    stop: int
    text: str


class EnglishEditor:
    """Changes one word or phrase that a list knows, with article, number and form kept in agreement.

    Quoted text, names, what is denied, and phrases in which a word has another meaning are left alone.
    """

    concurrency = 1

    def __init__(self) -> None:
        """
        Raises:
            EnvironmentProblem: `inflect` is not installed.
        """
        try:
            import inflect
        except ImportError:
            raise EnvironmentProblem('--by english needs inflect: pip install "t2ialign[text]"') from None
        self._english = inflect.engine()
        lists = [value for name, value in sorted(vars(words).items()) if name.isupper()]
        digest = blake2b(repr([sorted(part) if isinstance(part, frozenset) else part for part in lists]).encode())
        self.fingerprint = f"english {RULES} {digest.hexdigest()[:16]}"

    def __call__(self, prompt: str, kind: Kind, seed: int) -> Answer:
        edits = self.edits(prompt, kind)
        if not edits:
            return Answer("inapplicable", "")
        # first the place, then the word: a place with many words must not crowd out the others
        places = sorted({(edit.start, edit.stop) for edit in edits})
        place = places[keyed_seed(seed, "place", prompt, kind) % len(places)]
        there = [edit for edit in edits if (edit.start, edit.stop) == place]
        return judged(prompt, self._applied(prompt, there[keyed_seed(seed, "word", prompt, kind) % len(there)]))

    def edits(self, prompt: str, kind: Kind) -> list[Edit]:
        """Every change of the kind that the rules know, in the order of the prompt."""
        phrases = _Phrases(prompt)
        found = [edit for rule in _RULES[kind] for edit in rule(self, phrases)]
        wanted = [edit for edit in found if kind == "relation" or not phrases.holds(edit.text)]
        return sorted(dict.fromkeys(wanted))

    def _applied(self, prompt: str, edit: Edit) -> str:
        before, text = prompt[: edit.start], edit.text
        if prompt[edit.start].isupper():
            text = text[0].upper() + text[1:]
        article = re.search(r"\b([Aa])n?(\s+)$", before)
        if article is not None and not text.lower().startswith(("a ", "an ", "the ")):
            right = self._english.a(text).split()[0]
            right = right.capitalize() if article[1].isupper() else right
            before = before[: article.start()] + right + article[2]
        return before + text + prompt[edit.stop :]

    @cached_property
    def _nouns(self) -> dict[str, tuple[str, ...]]:
        """Noun -> what may stand in its place, in the same number."""
        found: dict[str, tuple[str, ...]] = {}
        for group in words.NOUNS:
            plurals = tuple(self._english.plural(noun) for noun in group)
            for forms in (group, plurals):
                found |= {form: _others(form, forms) for form in forms if form not in found}
        return found

    @cached_property
    def _attributes(self) -> dict[str, tuple[str, ...]]:
        found = {word: _others(word, group) for group in words.EXCLUSIVE for word in group}
        for sides in words.OPPOSITES:
            for side, other in (sides, sides[::-1]):
                for word in side:
                    found[word] = (*found.get(word, ()), *other)
        found["grey"] = found["gray"]
        return found

    @cached_property
    def _positions(self) -> dict[str, tuple[str, ...]]:
        found: dict[str, tuple[str, ...]] = {}
        for pair in words.POSITIONS:
            for one, other in (pair, pair[::-1]):
                found.setdefault(one, (other,))
        return found

    @cached_property
    def _movements(self) -> dict[str, tuple[str, ...]]:
        """Verb in -ing or with -s -> what may stand in its place, in the same form."""
        found: dict[str, tuple[str, ...]] = {}
        for form in (self._third_person, self._participle):
            every = tuple(form(verb) for verb in words.MOVEMENTS)
            found |= {word: _others(word, every) for word in every}
            for one, other in words.ACTIONS:
                found |= {form(one): (form(other),), form(other): (form(one),)}
        return found

    @cached_property
    def _contexts(self) -> dict[str, tuple[str, ...]]:
        found = {phrase: _others(phrase, group) for group in words.EXCLUSIVE_CONTEXTS for phrase in group}
        for group in words.CONTEXTS:
            others = tuple(phrase for other in words.CONTEXTS if other is not group for phrase in other)
            found |= dict.fromkeys(group, others)
        return found

    def _third_person(self, verb: str) -> str:
        return self._english.plural(verb)  # an s, as nouns take it: sits, flies, pushes

    def _participle(self, verb: str) -> str:
        return self._english.present_participle(self._third_person(verb))

    # The rules: each yields the edits it sees.

    def _other_noun(self, phrases: _Phrases) -> Iterator[Edit]:
        return phrases.exchanges(self._nouns)

    def _other_attribute(self, phrases: _Phrases) -> Iterator[Edit]:
        for edit in phrases.exchanges(self._attributes):
            word, following = phrases.prompt[edit.start : edit.stop].lower(), phrases.word_after(edit.stop)
            if word not in words.ALSO_NOUNS or (following.isalpha() and following not in words.FUNCTION_WORDS):
                yield edit

    def _other_number(self, phrases: _Phrases) -> Iterator[Edit]:
        """Another number of what stands in the plural, at least half as many again or a third fewer."""
        names = {self._english.number_to_words(str(number)): number for number in _SMALL_NUMBERS}
        for place, token in enumerate(phrases.tokens):
            in_digits = token.text.isdigit() and int(token.text) in _SMALL_NUMBERS
            number = int(token.text) if in_digits else names.get(token.word)
            if number is None or not phrases.is_free(place, place + 1) or not self._counts(phrases, place):
                continue
            for name, other in names.items():
                if max(number, other) >= 1.5 * min(number, other):
                    yield Edit(token.start, token.stop, str(other) if in_digits else str(name))

    def _counts(self, phrases: _Phrases, place: int) -> bool:
        """Whether a plural follows the number, perhaps after a word or two."""
        following = [token.word for token in phrases.tokens[place + 1 : place + 4]]
        return any(word.isalpha() and len(word) > 2 and self._is_plural(word) for word in following)

    def _is_plural(self, word: str) -> bool:
        return word in self._nouns and self._english.singular_noun(word) is not False

    def _other_position(self, phrases: _Phrases) -> Iterator[Edit]:
        return phrases.exchanges(self._positions)

    def _other_movement(self, phrases: _Phrases) -> Iterator[Edit]:
        """Not where the word describes a thing ("a flying carpet"), nor where -s may be a plural ("dances")."""
        for edit in phrases.exchanges(self._movements):
            before = phrases.word_before(edit.start)
            after_noun = before in self._nouns
            if (edit.text.endswith("ing") and before not in (*_DETERMINERS, "", *self._attributes)) or after_noun:
                yield edit

    def _sides_exchanged(self, phrases: _Phrases) -> Iterator[Edit]:
        """Two things change places around a relation that has a direction: a dog chasing a cat."""
        for start, stop in phrases.find(words.DIRECTED):
            left, right = self._thing_before(phrases, start), self._thing_after(phrases, stop)
            if left is None or right is None or phrases.text_of(*left).lower() == phrases.text_of(*right).lower():
                continue
            between = phrases.prompt[phrases.tokens[left[1] - 1].stop : phrases.tokens[right[0]].start]
            text = f"{_lowered(phrases.text_of(*right))}{between}{_lowered(phrases.text_of(*left))}"
            yield Edit(phrases.tokens[left[0]].start, phrases.tokens[right[1] - 1].stop, text)

    def _thing_before(self, phrases: _Phrases, stop: int) -> tuple[int, int] | None:
        """Determiner to noun, right before a position or "is"."""
        end = stop - 1 if stop and phrases.tokens[stop - 1].word == "is" else stop
        for start in range(end - 2, max(-1, end - 5), -1):
            if self._is_thing(phrases, start, end):
                return start, end
        return None

    def _thing_after(self, phrases: _Phrases, start: int) -> tuple[int, int] | None:
        for stop in range(start + 2, min(len(phrases.tokens), start + 5) + 1):
            if self._is_thing(phrases, start, stop):
                following = phrases.tokens[stop].word if stop < len(phrases.tokens) else ""
                return None if following in self._nouns else (start, stop)
        return None

    def _is_thing(self, phrases: _Phrases, start: int, stop: int) -> bool:
        """Whether tokens are a singular determiner, known adjectives and a known noun in the singular."""
        inner = [token.word for token in phrases.tokens[start:stop]]
        noun = inner[-1] if inner else ""
        return (
            len(inner) >= 2
            and inner[0] in ("a", "an", "the")
            and noun in self._nouns
            and not self._is_plural(noun)
            and all(word in self._attributes for word in inner[1:-1])
            and phrases.is_free(start, stop)
        )

    def _other_place(self, phrases: _Phrases) -> Iterator[Edit]:
        """Preposition, article and place together; not where the place describes another thing ("a kitchen table")."""
        for preposition, place in words.PLACES:
            for article in ("a", "the"):
                for start, stop in phrases.find((f"{preposition} {article} {place}",)):
                    following = phrases.tokens[stop].word if stop < len(phrases.tokens) else ""
                    if following in self._nouns or not phrases.is_free(start, stop):
                        continue
                    for other_preposition, other in words.PLACES:
                        if other != place:
                            found = article if other not in ("moon", "snow") else "the"
                            found = self._english.a(other).split()[0] if found == "a" else found
                            yield phrases.edit(start, stop, f"{other_preposition} {found} {other}")

    def _other_context(self, phrases: _Phrases) -> Iterator[Edit]:
        return phrases.exchanges(self._contexts)


_RULES: dict[Kind, tuple[Callable[[EnglishEditor, _Phrases], Iterator[Edit]], ...]] = {
    "content": (EnglishEditor._other_noun,),
    "attribute": (EnglishEditor._other_attribute, EnglishEditor._other_number),
    "relation": (EnglishEditor._other_position, EnglishEditor._other_movement, EnglishEditor._sides_exchanged),
    "context": (EnglishEditor._other_place, EnglishEditor._other_context),
}


class _Token(NamedTuple):
    text: str
    word: str
    """in lower case"""
    start: int
    stop: int


class _Phrases:
    """A prompt cut into words and marks, and which of them may be changed."""

    def __init__(self, prompt: str):
        self.prompt = prompt
        self.tokens = [
            _Token(match[0], match[0].lower(), match.start(), match.end())
            for match in _TOKEN.finditer(prompt)
            if not match[0].isspace()
        ]
        self._fixed = [(start, stop) for start, stop in self.find(words.FIXED)]
        self._quoted = [
            match.span() for match in re.finditer(r"\"[^\"]*\"|“[^”]*”|‘[^’]*’|(?<!\w)'[^']*'(?!\w)", prompt)
        ]
        self._loud = prompt.isupper() or prompt.istitle()

    def find(self, phrases: tuple[str, ...]) -> list[tuple[int, int]]:
        """(first, one past the last) token of every occurrence of a phrase."""
        found = []
        for parts in (phrase.lower().split() for phrase in phrases):
            for start in range(len(self.tokens) - len(parts) + 1):
                if [token.word for token in self.tokens[start : start + len(parts)]] == parts:
                    found.append((start, start + len(parts)))
        return found

    def exchanges(self, table: Mapping[str, tuple[str, ...]]) -> Iterator[Edit]:
        """Every occurrence of an entry, longest first and never within a longer one, with everything instead of it."""
        taken: set[int] = set()
        for phrase in sorted(table, key=lambda phrase: (-len(phrase.split()), phrase)):
            for start, stop in self.find((phrase,)):
                if taken.isdisjoint(range(start, stop)):
                    taken.update(range(start, stop))
                    if self.is_free(start, stop):
                        yield from (self.edit(start, stop, text) for text in table[phrase])

    def edit(self, start: int, stop: int, text: str) -> Edit:
        return Edit(self.tokens[start].start, self.tokens[stop - 1].stop, text)

    def is_free(self, start: int, stop: int) -> bool:
        """Whether tokens may be changed: not quoted, no name, not denied, not part of a longer fixed phrase."""
        first, last = self.tokens[start], self.tokens[stop - 1]
        quoted = any(begin < last.stop and first.start < end for begin, end in self._quoted)
        fixed = any(begin < stop and start < end and not (start <= begin and end <= stop) for begin, end in self._fixed)
        near = [token.word for token in self.tokens[max(0, start - REACH) : start]]
        clause = near[max((i + 1 for i, word in enumerate(near) if word in ",.;:"), default=0) :]
        denied = not words.NEGATIONS.isdisjoint(clause)
        return not (quoted or fixed or denied or any(map(self._is_name, range(start, stop))))

    def _is_name(self, place: int) -> bool:
        """Whether a capital says so; not at the start of a sentence, nor in a prompt that is all capitals."""
        starts = place == 0 or self.tokens[place - 1].text in (".", "!", "?", ":")
        text = self.tokens[place].text
        return text[0].isupper() and not starts and not self._loud and text != "3D"

    def holds(self, text: str) -> bool:
        """Whether the prompt names this already, or something near it."""
        wanted = text.lower().split()
        if len(wanted) == 1:
            return any(near_synonyms(token.word, wanted[0]) for token in self.tokens)
        return bool(self.find((text,)))

    def word_before(self, start: int) -> str:
        """The last word before a character, an auxiliary left out."""
        before = [token.word for token in self.tokens if token.stop <= start]
        while before and before[-1] in ("is", "are"):
            before.pop()
        return before[-1] if before else ""

    def word_after(self, stop: int) -> str:
        """The next word or mark after a character."""
        return next((token.word for token in self.tokens if token.start >= stop), "")

    def text_of(self, start: int, stop: int) -> str:
        return self.prompt[self.tokens[start].start : self.tokens[stop - 1].stop]


def _others(word: str, group: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(other for other in group if other != word and not near_synonyms(word, other))


def _lowered(text: str) -> str:
    return text[0].lower() + text[1:]
