"""Secrets stay secret."""

from __future__ import annotations

from pathlib import Path

import pytest

from unigenbench.errors import InputError
from unigenbench.judges.keys import public_url, read_key, redact, url_secrets


def test_the_projects_own_variable_wins_and_a_file_wins_over_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("UNIGENBENCH_API_KEY", "OPENAI_API_KEY", "GEMINI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    assert read_key("openai") is None
    monkeypatch.setenv("OPENAI_API_KEY", "theirs")
    assert (read_key("openai"), read_key("gemini"), read_key("hf")) == ("theirs", None, None)
    monkeypatch.setenv("UNIGENBENCH_API_KEY", "own")
    assert (read_key("openai"), read_key("gemini")) == ("own", "own")
    (tmp_path / "key").write_text("from a file\n")
    assert read_key("openai", tmp_path / "key") == "from a file"


def test_a_key_file_that_is_missing_or_empty_is_named(tmp_path: Path):
    with pytest.raises(InputError, match="absent: cannot be read as a key file"):
        read_key("openai", tmp_path / "absent")
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(InputError, match="empty; put the key on its first line"):
        read_key("openai", tmp_path / "empty")


@pytest.mark.parametrize("key", ["two\nlines", "sk-ключ", "a\tb"])
def test_a_key_that_no_header_can_hold_is_named_by_its_place_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
):
    (tmp_path / "key").write_text(key, encoding="utf-8")
    monkeypatch.setenv("UNIGENBENCH_API_KEY", key)
    for place, file in (("UNIGENBENCH_API_KEY", None), (str(tmp_path / "key"), tmp_path / "key")):
        with pytest.raises(InputError, match=f"{place}: holds more than a key") as caught:
            read_key("openai", file)
        assert key not in str(caught.value)


def test_an_address_is_shown_without_what_may_be_a_key():
    url = "https://me:hush@host:8443/v1?key=AIza12345&alt=json"
    assert public_url(url) == "https://host:8443/v1"
    assert url_secrets(url) == ["AIza12345", "hush"]
    assert redact("Incorrect key AIza12345", [None, "", "AIza12345"]) == "Incorrect key [key]"
