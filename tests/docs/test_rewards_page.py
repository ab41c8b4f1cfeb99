"""What docs/rewards.md says is so."""

from __future__ import annotations

import re
from pathlib import Path

from PIL import Image

from t2ialign.config.component import COMPONENTS
from t2ialign.rewards.registry import load_reward

PAGE = (Path(__file__).parents[2] / "docs" / "rewards.md").read_text(encoding="utf-8")


def test_the_first_example_is_a_reward(tmp_path):
    code = re.search(r"```python\n(# my_rewards\.py\n.*?)```", PAGE, re.DOTALL)
    assert code is not None
    (tmp_path / "my_rewards.py").write_text(code[1])
    vivid = load_reward(f"{tmp_path / 'my_rewards.py'}:vivid")
    assert vivid([Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "gray")], ["a", "b"]) == [1.0, 0.0]


def test_the_page_lists_all_known_names():
    table = PAGE.split("| known name |")[1].split("\n\n")[0]
    first_cells = [line.split("|")[1] for line in table.splitlines()[2:]]
    assert {name for cell in first_cells for name in re.findall(r"`([\w.]+)`", cell)} == set(COMPONENTS["reward"])
