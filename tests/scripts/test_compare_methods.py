"""The script that runs every method on Shapes: its commands are valid, its table and figure show what was measured."""

import importlib.util
import re
from pathlib import Path

import pytest

from t2ialign.config.reader import load

ROOT = Path(__file__).parents[2]
SPEC = importlib.util.spec_from_file_location("compare_methods", ROOT / "scripts" / "compare_methods.py")
assert SPEC is not None
assert SPEC.loader is not None
script = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(script)


@pytest.fixture
def studies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict:
    monkeypatch.chdir(ROOT)
    return script.studies(tmp_path, ROOT / "assets" / "shapes-sd", 1.5)


def test_every_training_command_is_a_config_that_loads(studies: dict):
    trained = [command for study in studies.values() for command in study.commands if "train" in command]
    # iterative DPO is a script; soups, and DPO with a negative model of another study, train nothing
    assert len(trained) == len(studies) - 1 - len(script.MIXTURES) - 2
    for command in trained:
        config = command[command.index("train") + 1]
        assert load(config, command[command.index("train") + 2 :]).run_dir.parent.is_dir()


def test_each_preference_has_its_weight_in_the_labels():
    assert script.labels(0.25) == ["--reward", "shapes.faithfulness=0.25", "--reward", "shapes.taste=0.75"]
    assert script.labels(1.0) == ["--reward", "shapes.faithfulness=1"]


def test_a_soup_mixes_the_two_single_preferences_and_is_held_against_weighted_labels(studies: dict):
    soup = studies["soup_0.25"]
    assert [Path(lora).name for lora in soup.loras] == ["faithful_only:0.25", "taste_only:0.75"]
    assert soup.against == ("weighted_0.25",)


def test_a_negative_model_is_drawn_with_as_one(studies: dict, tmp_path: Path):
    both = studies["dpo_npo"]
    drawn = script.draw(tmp_path, ROOT / "assets" / "shapes-sd", 3.0, "dpo_npo", both.loras, both.negatives)
    assert drawn[drawn.index("--lora") + 1] == str(tmp_path / "dpo")
    assert drawn[drawn.index("--negative") + 1] == str(tmp_path / "npo")
    alone = studies["self_npo"]
    assert (alone.loras, alone.negatives) == ([], (str(tmp_path / "self_npo"),))


def found(names: list[str]) -> dict:
    keys = ("faithfulness", "all_right", "taste", "taste_satisfied")
    shift = {"mean": 0.05, "low": 0.03, "high": 0.07}
    one = {
        name: {
            "what": name, "means": dict.fromkeys(keys, 0.5 + 0.01 * place),
            "over": {"base": dict.fromkeys(keys, shift)}, "diversity": {"mean": 0.97},
        }
        for place, name in enumerate(names)
    }  # fmt: skip
    return {"base": dict.fromkeys(keys, 0.4), **one}


def test_the_table_has_a_line_a_comparison():
    lines = script.table(found(["dpo", "mapo"]), "head").splitlines()
    assert lines[4] == "| base | 40.0% | 40.0% | 40.0% | 40.0% | 1 |"
    assert lines[5] == "| dpo − base | " + " | ".join(["+5.0 (+3.0 to +7.0)"] * 4) + " | 0.97 |"
    assert len(lines) == 7


def test_the_figure_shows_both_ways_of_mixing_and_base():
    mixed = [f"{kind}_{weight:g}" for kind in ("weighted", "soup") for weight in script.MIXTURES]
    drawn = script.pareto(found(["taste_only", "faithful_only", *mixed]))
    assert drawn.count("<polyline") == 2
    assert drawn.count("<circle") == 2 * (2 + len(script.MIXTURES)) + 1
    assert all(0 <= float(x) <= 640 for x in re.findall(r'cx="([\d.]+)"', drawn))


def test_only_what_the_chosen_studies_learn_from_is_prepared(studies: dict, tmp_path: Path):
    folders = script.prepare(tmp_path, ROOT / "assets" / "shapes-sd", 1.5)
    assert set(folders) == {
        "pairs",
        "pairs_flipped",
        "text_pairs",
        "pairs_0",
        "pairs_0.25",
        "pairs_0.5",
        "pairs_0.75",
        "pairs_1",
    }

    def made(*names: str) -> set[str]:
        commands = script.wanted(folders, tmp_path, [studies[name] for name in names])
        return {name for name, command in folders.items() if command in commands}

    assert made("dpo") == {"pairs"}
    assert made("taste_only", "tdpo") == {"pairs", "pairs_0", "text_pairs"}
    assert made("mapo_flipped", "weighted_0.25") == {"pairs", "pairs_flipped", "pairs_0.25"}
