"""A fingerprint changes with everything that changes the scores, and with nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t2ialign.config.component import COMPONENTS
from t2ialign.rewards import fingerprint as fingerprints
from t2ialign.rewards.fingerprint import project_files
from t2ialign.rewards.registry import parse_reward

REWARD = """
import numpy
from typing import TYPE_CHECKING
from constants import VALUE
import helpers.deep as deep
if TYPE_CHECKING:
    import for_types

WEIGHTS = "mine.safetensors"

def f(images, prompts, weights=None):
    import late
    return [VALUE + deep.more()] * len(images)
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A reward with modules beside it, in packages, imported late, and weights."""
    files = {
        "rew.py": REWARD,
        "constants.py": "VALUE = 1.0\n",
        "helpers/__init__.py": "",
        "helpers/deep.py": "from . import deeper\nfrom .deeper import ONE\n\ndef more():\n    return deeper.ONE\n",
        "helpers/deeper.py": "ONE = 1\n",
        "late.py": "",
        "for_types.py": "",
        "unrelated.py": "",
        "mine.safetensors": "weights",
        "other.safetensors": "weights",
        "folder/config.json": "{}",
        "folder/inner/model.safetensors": "weights",
        "folder/notes.md": "",
    }
    for name, text in files.items():
        path = tmp_path / "project" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "project"


def of(project: Path, options: str = "") -> str:
    return parse_reward(f"{project / 'rew.py'}:f{options}").fingerprint()


CODE = ["rew.py", "constants.py", "helpers/__init__.py", "helpers/deep.py", "helpers/deeper.py", "late.py"]


@pytest.mark.parametrize("name", [*CODE, "mine.safetensors"])
def test_it_changes_with_every_project_file_that_the_reward_uses(project: Path, name: str):
    before = of(project)
    (project / name).write_text((project / name).read_text() + "\n")
    assert of(project) != before


@pytest.mark.parametrize("name", ["unrelated.py", "for_types.py", "other.safetensors"])
def test_it_does_not_change_with_what_the_reward_does_not_use(project: Path, name: str):
    before = of(project)
    (project / name).write_text("changed")
    assert of(project) == before


@pytest.mark.parametrize("changed", ["folder/config.json", "folder/inner/model.safetensors"])
def test_a_file_or_folder_that_an_option_names_counts_by_content(project: Path, changed: str):
    named = of(project, f",weights={project / 'other.safetensors'}")
    assert named == of(project, f",weights={project / 'mine.safetensors'}"), "equal content elsewhere is the same"
    (project / "other.safetensors").write_text("others")
    assert of(project, f",weights={project / 'other.safetensors'}") != named
    folder = of(project, f",weights={project / 'folder'}")
    (project / "folder/notes.md").write_text("a note")
    assert of(project, f",weights={project / 'folder'}") == folder
    (project / changed).write_text("changed")
    assert of(project, f",weights={project / 'folder'}") != folder


def test_name_and_options_count_weight_and_batch_size_do_not(project: Path):
    assert of(project, ",weights=1") != of(project, ",weights=2") != of(project)
    assert of(project, ",batch_size=3") == of(project) == parse_reward(f"{project / 'rew.py'}:f=0.5").fingerprint()


def test_installed_packages_are_not_followed(project: Path):
    followed = project_files([project / "rew.py"])
    assert {path.relative_to(project).as_posix() for path in followed} == {*CODE, "mine.safetensors"}


@pytest.mark.parametrize("module", ["verify", "caption", "scene", "taste"])
def test_the_shapes_rewards_change_with_the_verifier(module: str, monkeypatch: pytest.MonkeyPatch):
    names = [name for name in COMPONENTS["reward"] if name.startswith("shapes.")]
    before = {name: parse_reward(name).fingerprint() for name in names}
    true_digest = fingerprints.file_digest
    edited = f"shapes/{module}.py"
    monkeypatch.setattr(
        fingerprints, "file_digest", lambda p: "edited" if p.as_posix().endswith(edited) else true_digest(p)
    )
    assert names
    assert all(parse_reward(name).fingerprint() != before[name] for name in names)


def test_a_users_reward_on_our_verifier_changes_with_it(project: Path):
    (project / "rew.py").write_text("from t2ialign.shapes.reward import faithfulness\n")
    assert any(path.as_posix().endswith("shapes/verify.py") for path in project_files([project / "rew.py"]))


@given(st.text(max_size=60) | st.binary(max_size=60))
@settings(deadline=None, max_examples=30)
def test_a_source_of_any_content_has_a_fingerprint(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("source") / "rew.py"
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    assert path.resolve() in project_files([path])


@given(
    st.dictionaries(
        st.text(max_size=5), st.recursive(st.text() | st.integers(), lambda inner: st.lists(inner), max_leaves=3)
    )
)
@settings(deadline=None, max_examples=30)
def test_options_of_any_content_have_a_fingerprint(options):
    assert len(fingerprints.fingerprint("a", len, options)) == 32
