"""Judges of the user's own, by import path."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from unigenbench.errors import InputError
from unigenbench.judges.base import JudgeOptions, open_judge
from unigenbench.judges.imported import open_imported

MINE = """
from unigenbench.judges.base import JudgeReply, Probe, judge_id


class Mine:
    spec = {"kind": "mine"}
    id = judge_id(spec)

    async def probe(self):
        return Probe()

    async def judge(self, request):
        return JudgeReply(verdicts=(1,) * len(request.prompt.points))

    async def aclose(self):
        pass


class WithOptions(Mine):
    def __init__(self, options):
        self.options = options


def made():
    return Mine()


class NoProbe(Mine):
    probe = None


class NotAsync(Mine):
    def judge(self, request):
        return 1


class BadSpec(Mine):
    spec = {"set": {1}}


class NoId(Mine):
    id = None


value = 3
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "my_judges.py"
    path.write_text(MINE, encoding="utf-8")
    (tmp_path / "broken_judges.py").write_text("import a_package_that_is_not_there\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    yield path
    sys.modules.pop("my_judges", None)


@pytest.mark.parametrize("where", ["my_judges", "my_judges.py"])
@pytest.mark.parametrize("name", ["Mine", "made"])
def test_a_class_or_a_function_beside_the_user_is_found(mine, where, name):
    judge = open_judge(f"{where}:{name}")
    assert judge.spec == {"kind": "mine"}
    assert sys.path[0] != str(mine.parent)


def test_options_are_given_to_what_takes_them(mine):
    options = JudgeOptions(batch_size=3)
    assert open_imported(f"{mine}:WithOptions", options).options is options


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("my_judges:mine", "my_judges has no 'mine'; did you mean 'Mine'?"),
        ("my_judges:Nothing_like_it", "my_judges has no 'Nothing_like_it'$"),
        ("no_such_module:Mine", "no module 'no_such_module'; is it installed, or beside you"),
        ("my_judges.inner:Mine", "no module 'my_judges.inner'"),
        ("elsewhere/judges.py:Mine", "no file elsewhere/judges.py"),
        ("broken_judges:Mine", "broken_judges needs 'a_package_that_is_not_there', which is not installed"),
        ("my_judges:value", "a int; it must be a class, or a function"),
        ("my_judges:NoProbe", "NoProbe has no `async def probe`"),
        ("my_judges:NotAsync", "NotAsync has no `async def judge`"),
        ("my_judges:BadSpec", r"BadSpec.spec is \{'set': \{1\}\}; it must be a dictionary of JSON values"),
        ("my_judges:NoId", "NoId has no id"),
        ("my_judges:", "write package.module:Class"),
    ],
)
def test_what_is_wrong_is_said_in_one_message(mine, reference, message):
    with pytest.raises(InputError, match=message) as caught:
        open_imported(reference, JudgeOptions())
    assert reference in str(caught.value)
    assert "\n" not in str(caught.value)
