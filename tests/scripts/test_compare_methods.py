"""The script that runs every method on Shapes: its commands are valid, its table and figure show what was measured."""

import argparse
import re
from pathlib import Path

import compare_methods
import pytest
from methods import figures, measuring
from methods.studies import MIXTURES, Place, Study, beside, labels, negative_models, prepare, studies, wanted

from t2ialign.config.reader import load

ROOT = Path(__file__).parents[2]
KEYS = ("faithfulness", "all_right", "taste", "taste_satisfied", "mean_of_both")


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Place:
    monkeypatch.chdir(ROOT)
    return Place(tmp_path, ROOT / "assets" / "shapes-sd", 1.5, seed=5)


def test_every_training_command_is_a_config_that_loads(place: Place):
    every = studies(place) | negative_models(place)
    trained = [command for study in every.values() for command in study.commands if "train" in command]
    assert len(trained) == len(every) - 1 - len(MIXTURES)  # iterative DPO is a script; soups train nothing
    for command in trained:
        config = load(command[command.index("train") + 1], command[command.index("train") + 2 :])
        assert config.run_dir.parent == place.root
        assert config.seed == 5


def test_each_preference_has_its_weight_in_the_labels():
    assert labels(0.25) == ["--reward", "shapes.faithfulness=0.25", "--reward", "shapes.taste=0.75"]
    assert labels(1.0) == ["--reward", "shapes.faithfulness=1"]


def test_a_soup_mixes_the_two_single_preferences_and_is_held_against_weighted_labels(place: Place):
    soup = studies(place)["soup_0.25"]
    assert [Path(lora).name for lora in soup.loras] == ["faithful_only:0.25", "taste_only:0.75"]
    assert soup.against == ("weighted_0.25",)


def test_dpo_that_is_as_long_as_stored_inpo_counts_the_inversions(place: Place):
    long = studies(place)["dpo_long"].commands[0]
    steps = next(int(word.partition("=")[2]) for word in long if word.startswith("train.steps="))
    # 132 steps of 64 pairs, 6 passes a pair; 800 pairs of 26 passes once
    assert steps == round((132 * 64 * 6 + 800 * 26) / (64 * 6))


def test_a_study_is_drawn_with_a_negative_model_and_held_against_itself_without(place: Place):
    dpo, negatives = studies(place)["dpo"], negative_models(place)
    found = beside("dpo", dpo, "npo:0.5", negatives, alpha=0.5)
    assert found == {
        "dpo+npo_0.5@0.5": Study(
            "Diffusion-DPO with Diffusion-NPO, beta 0.5, alpha 0.5 as negative",
            (),
            (str(place.root / "dpo"),),
            ("dpo",),
            (f"{place.root / 'npo'}:0.5",),
            0.5,
        )
    }
    alone = beside("base", Study("base"), "self_npo", negatives, alpha=1.0)["base+self_npo"]
    assert (alone.loras, alone.negatives) == ((), (str(place.root / "self_npo"),))


def chosen(tmp_path: Path, *names: str, **changes: object) -> compare_methods.Seed:
    values = {
        "studies": list(names), "negative": [], "negative_alpha": [1.0], "root": tmp_path, "prompts": 3,
        "validation": 2, "guidance": 1.5, "model": ROOT / "assets" / "shapes-sd", **changes,
    }  # fmt: skip
    return compare_methods.choose(argparse.Namespace(**values), 5)


def test_base_and_each_study_are_drawn_with_each_negative_model_which_is_trained_too(place: Place, tmp_path: Path):
    seed = chosen(tmp_path, "dpo", negative=["npo", "npo:0.5"], negative_alpha=[1.0, 0.0])
    assert list(seed.trained) == ["dpo", "npo"]
    assert list(seed.compared) == [
        "base", "dpo", "base+npo", "base+npo_0.5", "dpo+npo", "dpo+npo@0", "dpo+npo_0.5", "dpo+npo_0.5@0",
    ]  # fmt: skip


def test_seeds_have_prompts_and_folders_of_their_own(place: Place, tmp_path: Path):
    seed = chosen(tmp_path, "dpo")
    assert seed.place.root == tmp_path / "shapes-sd" / "seed5"
    assert len(seed.held_out) == 3
    assert len(seed.validation) == 2
    assert not {*seed.held_out} & {*seed.validation}


def test_a_study_that_does_not_exist_is_refused_by_name(place: Place, tmp_path: Path):
    with pytest.raises(SystemExit, match=r"no study nothing; there are dpo, sft, .*--negative npo, self_npo"):
        chosen(tmp_path, "nothing")


def row(prompt: str, **models: tuple[float, float | None]) -> dict:
    scene = {"background": "white", "things": []}
    return {
        "prompt": prompt,
        **{
            name: {
                "faithfulness": faithfulness, "all_right": float(faithfulness == 1), "taste": taste,
                "taste_satisfied": None if taste is None else float(taste == 1), "residual": 1.0, "unreadable": None,
                "scene": scene, "verdicts": [],
            }
            for name, (faithfulness, taste) in models.items()
        },
    }  # fmt: skip


def test_seeds_are_pooled_and_shown_apart():
    by_seed = {
        5: [row("a red circle", base=(0.0, 0.0), dpo=(1.0, 0.5))] * 4,
        6: [row("a blue square", base=(1.0, 0.5), dpo=(1.0, 0.5))] * 4,
    }
    found = measuring.compare(by_seed, {"base": Study("base"), "dpo": Study("DPO", (), (), ("sft",))})
    over = found["dpo"]["over"]
    assert list(over) == ["base"]
    assert over["base"]["faithfulness"]["mean"] == 0.5
    assert over["base"]["mean_of_both"]["mean"] == (0.5 + 0.25) / 2
    assert [found["dpo"]["seeds"][seed]["base"]["faithfulness"]["mean"] for seed in (5, 6)] == [1.0, 0.0]


def found(names: list[str]) -> dict:
    shift = {"mean": 0.05, "low": 0.03, "high": 0.07}
    one = {
        name: {
            "what": name, "means": dict.fromkeys(KEYS[:4], 0.5 + 0.01 * place),
            "over": {"base": dict.fromkeys(KEYS, shift)}, "diversity": {"mean": 0.97},
        }
        for place, name in enumerate(names)
    }  # fmt: skip
    return {"base": dict.fromkeys(KEYS[:4], 0.4), **one}


def test_the_table_has_a_line_a_comparison():
    lines = figures.table(found(["dpo", "mapo"]), "head").splitlines()
    assert lines[4] == "| base | 40.0% | 40.0% | 40.0% | 40.0% | 40.0% | 1 |"
    assert lines[5] == "| dpo − base | " + " | ".join(["+5.0 (+3.0 to +7.0)"] * 5) + " | 0.97 |"
    assert len(lines) == 7


def test_the_table_shows_each_seeds_own_guidance():
    scales = {5: {"base": 5.0, "dpo": 2.5}, 6: {"base": 7.5, "dpo": 3.0}}
    lines = figures.table(found(["dpo"]), "head", scales).splitlines()
    assert lines[4].endswith("| 5, 7.5 |")
    assert lines[5].endswith("| 0.97 | 2.5, 3 |")


def test_the_figure_shows_both_ways_of_mixing_and_base():
    mixed = [f"{kind}_{weight:g}" for kind in ("weighted", "soup") for weight in MIXTURES]
    drawn = figures.pareto(found(["taste_only", "faithful_only", *mixed]))
    assert drawn.count("<polyline") == 2
    assert drawn.count("<circle") == 2 * (2 + len(MIXTURES)) + 1
    assert all(0 <= float(x) <= 640 for x in re.findall(r'cx="([\d.]+)"', drawn))


def test_only_what_the_chosen_studies_learn_from_is_prepared(place: Place):
    folders, every = prepare(place), studies(place)
    mixed = {f"pairs_{weight:g}" for weight in (0, *MIXTURES, 1)}
    assert set(folders) == {"pairs", "pairs_flipped", "text_pairs"} | mixed

    def made(*names: str) -> set[str]:
        commands = wanted(folders, place.root, [every[name] for name in names])
        return {name for name, command in folders.items() if command in commands}

    assert made("dpo") == {"pairs"}
    assert made("taste_only", "tdpo") == {"pairs", "pairs_0", "text_pairs"}
    assert made("mapo_flipped", "weighted_0.25") == {"pairs", "pairs_flipped", "pairs_0.25"}


def test_a_negative_model_changes_images_and_the_seed_makes_them_again(place: Place):
    drawn = {}
    for name, guidance in (("plain", 1.5), ("again", 1.5), ("stronger", 3.0)):
        folder = measuring.Folder(["a red circle"], f"images/{name}", guidance)
        measuring.draw(place, Study("base"), [folder])
        drawn[name] = (place.root / folder.name / "0_0.png").read_bytes()
    assert drawn["plain"] == drawn["again"] != drawn["stronger"]
