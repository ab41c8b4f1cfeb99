"""The journal: entries found by key, torn lines dropped, nothing lost that was appended."""

from __future__ import annotations

from pathlib import Path
from threading import Thread
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t2ialign.errors import DataError
from t2ialign.storage.journal import Journal, format_entries, read_entries


class Note(NamedTuple):
    name: str
    value: float | None


def opened(path: Path) -> Journal[Note, str]:
    return Journal(path, Note, lambda note: note.name)


TEXT = st.text(st.characters(exclude_categories=()))
"""Any text, lone surrogates and line separators included."""
NOTES = st.lists(st.builds(Note, TEXT, st.none() | st.floats(allow_nan=False, allow_infinity=False)))


@given(NOTES, NOTES)
@settings(deadline=None, max_examples=30)
def test_what_was_appended_is_found_by_every_later_journal(tmp_path_factory, first, second):
    path = tmp_path_factory.mktemp("journal") / "notes"
    opened(path).append(first)
    opened(path).append(second)
    expected = {note.name: note for note in [*first, *second]}
    again = opened(path)
    assert {name: again.get(name) for name in expected} == expected
    assert list(again) == list(expected.values())
    assert read_entries(path, Note) == [*first, *second]


@given(NOTES.filter(bool), st.data())
@settings(deadline=None, max_examples=30)
def test_a_file_cut_anywhere_loses_the_torn_line_alone(tmp_path_factory, notes, data):
    path = tmp_path_factory.mktemp("journal") / "notes"
    content = format_entries(notes).encode()
    cut = data.draw(st.integers(0, len(content)))
    path.write_bytes(content[:cut])
    journal = opened(path)
    whole = notes[: content[:cut].count(b"\n")]
    assert read_entries(path, Note) == whole
    journal.append([Note("after", 1.0)])
    assert read_entries(path, Note) == [*whole, Note("after", 1.0)]


@pytest.mark.parametrize("line", ["{}", "[]", "3", '{"name": 1, "value": 2}', '{"name": "a", "value": "x"}', "{", "é"])
def test_a_line_that_is_no_entry_is_named(tmp_path, line):
    path = tmp_path / "notes"
    path.write_text(format_entries([Note("a", 1.0)]) + line + "\n", encoding="latin-1")
    with pytest.raises(DataError, match=r"notes:2: not an entry with name, value; remove the line, or the file"):
        opened(path)


def test_keys_that_are_not_asked_for_are_ignored(tmp_path):
    (tmp_path / "notes").write_text('{"value": 2, "other": 1, "name": "a"}\n')
    assert read_entries(tmp_path / "notes", Note) == [Note("a", 2.0)]


def test_threads_share_a_journal(tmp_path):
    journal = opened(tmp_path / "notes")

    def write(thread: int) -> None:
        for number in range(20):
            journal.append([Note(f"{thread} {number} " + "x" * 5000, None)])

    threads = [Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(journal) == len(read_entries(tmp_path / "notes", Note)) == 80
