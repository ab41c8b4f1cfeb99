"""docs/data-formats.md: every example is written as the page says, and read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from drawings import Drawn, as_arrow, drawing
from own_data import write_image

from t2ialign.config.reader import validated

PAGE = Path(__file__).parents[2] / "docs" / "data-formats.md"
SECTIONS = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL))
EXAMPLES = [name for name, text in SECTIONS.items() if "```yaml" in text and name != "The hub"]


def write_files(section: str) -> None:
    """The files of a section: named blocks, images that it names, and what its Python writes."""
    for name, content in re.findall(r"^`(my/[\w./-]+)`:\n\n```\w+\n(.*?)```", section, re.MULTILINE | re.DOTALL):
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
        for image in re.findall(r"[\w/]+\.png", content):
            if "folders" not in name:  # whose table names images by their stems
                write_image(path.parent / image)
    for image in re.findall(r"`(my/[\w./-]+\.png)`", section):
        write_image(Path(image))
    for code in re.findall(r"```python\n(.*?)```", section, re.DOTALL):
        exec(compile(code, str(PAGE), "exec"), {})


@pytest.mark.parametrize("section", EXAMPLES)
def test_an_example_is_read(section: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("my/saved").mkdir(parents=True)
    as_arrow(Path("my/saved"), [Drawn("a fox", drawing(1), drawing(2))] * 2)  # as `datasets` would
    write_files(SECTIONS[section])
    blocks = re.findall(r"```yaml\n(.*?)```", SECTIONS[section], re.DOTALL)
    for block in blocks:
        source = validated("data", yaml.safe_load(block)["data"]).open()
        assert len(source) == 2
        assert all(image is not None for row in range(2) for image in source[row].images)


def test_the_config_of_the_hub_is_one():
    (block,) = re.findall(r"```yaml\n(.*?)```", SECTIONS["The hub"], re.DOTALL)
    data = validated("data", yaml.safe_load(block)["data"])
    assert (data.shards, data.mirrors) == (4, ("other/copy", "my/copy"))


def test_every_kind_of_table_is_on_the_page():
    from t2ialign.data.tables.parts import SUFFIXES

    text = PAGE.read_text(encoding="utf-8")
    assert [suffix for suffix in SUFFIXES if suffix not in text and suffix[1:] not in text.lower()] == []
