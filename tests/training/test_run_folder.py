"""A run folder belongs to one config, also after an upgrade that brings new keys."""

from pathlib import Path

import pytest
import yaml
from toys import write_config

from t2ialign.config.reader import load
from t2ialign.errors import InputError
from t2ialign.training.run_folder import CONFIG, check_same_config, write_run_manifest


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = write_config(tmp_path / "c.yaml", model=tmp_path, pairs=tmp_path, run_dir=tmp_path / "run")
    write_run_manifest(load(path))
    return path


def change(path: Path, section: str, key: str, value: str | None) -> None:
    """Sets a key of the folder's record, or removes it."""
    manifest = path.parent / "run" / CONFIG
    content = yaml.safe_load(manifest.read_text())
    if value is None:
        del content[section][key]
    else:
        content[section][key] = value
    manifest.write_text(yaml.safe_dump(content))


def test_a_run_that_was_written_without_a_newer_key_goes_on_at_its_default(path: Path):
    change(path, "train", "compile", None)
    check_same_config(load(path))
    with pytest.raises(InputError, match=r"another config \(train\.compile: False there, 'whole' now\)"):
        check_same_config(load(path, ["train.compile=whole"]))


def test_a_key_that_is_gone_is_named(path: Path):
    change(path, "backbone", "long_prompts", "truncate")
    with pytest.raises(InputError, match=r"backbone\.long_prompts: 'truncate' there, None now"):
        check_same_config(load(path))
