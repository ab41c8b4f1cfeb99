"""Configs: what is read, and one clear message for whatever is wrong."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from t2ialign.config import component, reader
from t2ialign.errors import InputError

GOOD = """\
run_dir: runs/x
backbone: {name: sd15, pretrained: models/tiny}
lora: {rank: 4, alpha: 8}
data: {name: pairs, path: pairs.csv}
noiser: {name: forward}
objective: {name: dpo, beta: 5000}
optim: {lr: 1e-5, warmup_steps: 2}
train: {steps: 10, effective_batch: 4, micro_batch: 2}
"""
LOSSES = """\
from __future__ import annotations
from typing import ClassVar
from pydantic import Field
from t2ialign.objectives.base import Objective

class Margin(Objective):
    name: str = "margin"
    views: ClassVar[int | None] = 2
    tau: float = Field(0.5, gt=0)
    '''Temperature.'''
    def __call__(self, prediction, batch):
        raise NotImplementedError

class NotOne:
    pass
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(text: str, name: str = "x.yaml") -> Path:
    path = Path(name)
    path.write_text(text, encoding="utf-8")
    return path


def message(text: str, overrides: list[str] | None = None) -> str:
    with pytest.raises(InputError) as caught:
        reader.load(written(text), overrides or [])
    return str(caught.value)


def test_a_good_config_loads(here: Path):
    loaded = reader.load(written(GOOD))
    assert loaded.optim.lr == 1e-5
    assert loaded.objective.beta == 5000
    assert loaded.lora is not None
    assert loaded.lora.alpha == 8
    assert loaded.data.path == Path("pairs.csv")
    assert loaded.checkpoint.keep == 2


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "beta: 5000",
            "beat: 5000",
            [
                "x.yaml:6: objective.beat: unknown key; did you mean 'beta'? Keys here: name, space, beta",
                "x.yaml:6: objective.beta: this key is missing",
            ],
        ),
        (
            "name: dpo",
            "name: dopo",
            [
                "x.yaml:6: objective: unknown name 'dopo'; did you mean 'dpo'? Known: awm, denoising, dpo, grpo, "
                "ipo, kto, lipo, lpo, mapo, mapo_v2, nft, or package.module:Class"
            ],
        ),
        ("beta: 5000", "beta: -1", ["x.yaml:6: objective.beta: Input should be greater than 0 (got -1)"]),
        (
            "steps: 10,",
            "steps: ten,",
            [
                "x.yaml:8: train.steps: Input should be a valid integer, unable to parse string as an integer (got "
                "'ten')"
            ],
        ),
        (
            "steps: 10,",
            "steps: 1.5,",
            ["x.yaml:8: train.steps: Input should be a valid integer, got a number with a fractional part (got 1.5)"],
        ),
        ("steps: 10,", "steps: true,", ["x.yaml:8: train.steps: Input should be a number, not true"]),
        (
            "lr: 1e-5",
            "lr: fast",
            ["x.yaml:7: optim.lr: Input should be a valid number, unable to parse string as a number (got 'fast')"],
        ),
        ("lr: 1e-5", "lr: .inf", ["x.yaml:7: optim.lr: Input should be a finite number (got inf)"]),
        ("lr: 1e-5", "lr: .nan", ["x.yaml:7: optim.lr: Input should be a finite number (got nan)"]),
        (
            "steps: 10, eff",
            "steps: 0, eff",
            ["x.yaml:8: train.steps: Input should be greater than or equal to 1 (got 0)"],
        ),
        ("run_dir: runs/x\n", "", ["x.yaml: run_dir: this key is missing"]),
        (
            "effective_batch: 4",
            "effective_batch: 5",
            ["x.yaml: train.effective_batch 5 is not a multiple of train.micro_batch 2; nearest: 4 or 6"],
        ),
        (
            "{name: forward}",
            "{kind: forward}",
            ["x.yaml:5: noiser: give the noiser a name, as in {name: forward}"],
        ),
        ("optim: {lr: 1e-5, warmup_steps: 2}", "optim: 3", ["x.yaml:7: optim: Input should be a valid dictionary"]),
        (
            "name: dpo",
            "name: nowhere.at_all:Loss",
            ["x.yaml:6: objective: no module 'nowhere.at_all', named by 'nowhere.at_all:Loss'; is it installed"],
        ),
        (
            "name: dpo",
            "name: math:tau",
            ["x.yaml:6: objective: 'math:tau' is not a t2ialign objective: subclass"],
        ),
        ("name: dpo", "name: math:Tau", ["x.yaml:6: objective: math has no 'Tau'"]),
        ("name: dpo", "name: losses.py:Loss", ["x.yaml:6: objective: losses.py: no such file"]),
    ],
)
def test_messages_name_file_line_key_value_and_remedy(here: Path, old: str, new: str, expected: list[str]):
    assert old in GOOD
    found = message(GOOD.replace(old, new))
    for line in expected:
        assert line in found


def test_all_problems_are_told_at_once(here: Path):
    found = message(GOOD.replace("lr: 1e-5", "lr: 0").replace("rank: 4", "rnk: 4").replace("beta: 5000", "beta: 0"))
    assert len(found.splitlines()) == 3
    assert "x.yaml:3: lora.rnk: unknown key; did you mean 'rank'?" in found


def test_a_line_is_the_keys_own_in_block_style_too(here: Path):
    text = GOOD.replace("optim: {lr: 1e-5, warmup_steps: 2}", "optim:\n  # comment\n  lr: 1e-5\n  warmup: 2")
    assert "x.yaml:10: optim.warmup: unknown key; did you mean 'warmup_steps'?" in message(text)


def test_a_key_written_twice_is_an_error(here: Path):
    assert message(GOOD + "run_dir: runs/y\n") == "x.yaml:9: key 'run_dir' is written twice"
    assert message(GOOD.replace("rank: 4,", "rank: 4, rank: 5,")) == "x.yaml:3: key 'rank' is written twice"


@pytest.mark.parametrize("text", ["1e-5", "1.0e-5", "0.00001", "1E-5", "10e-6"])
def test_every_spelling_of_a_rate_is_a_number(here: Path, text: str):
    assert reader.load(written(GOOD.replace("1e-5", text))).optim.lr == pytest.approx(1e-5)
    assert reader.load(written(GOOD), [f"optim.lr={text}"]).optim.lr == pytest.approx(1e-5)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "this holds NoneType"),
        ("- a\n- b\n", "this holds list"),
        ("just words", "this holds str"),
        ("run_dir: [1, 2\nx: y: z", "not YAML"),
        ("a: !!python/object:os.system x", "not YAML"),
        ("a: 2001-99-99", "x.yaml:1: a: unknown key"),
        ("? [a, b]\n: c", "not YAML"),
        ("a: &x [*x]", "x.yaml:1: not YAML: write the value of *x out; there are no aliases here"),
    ],
)
def test_what_is_not_a_config_is_refused(here: Path, text: str, expected: str):
    found = message(text)
    assert found.startswith("x.yaml")
    assert expected in found


def test_a_file_that_is_not_text_or_not_there_is_refused(here: Path):
    Path("x.yaml").write_bytes(b"\xff\xfe\x00a")
    with pytest.raises(InputError, match="not a text file"):
        reader.load("x.yaml")
    written(GOOD, "shapes_dpo.yaml")
    with pytest.raises(InputError, match=r"shapes_dop\.yaml: no such config; did you mean shapes_dpo\.yaml\?"):
        reader.load("shapes_dop.yaml")


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_configs_never_end_in_anything_but_a_message(here: Path, data: st.DataObject):
    start = data.draw(st.integers(0, len(GOOD)))
    removed = data.draw(st.integers(0, 20))
    added = data.draw(st.text(alphabet=st.sampled_from("{}[]:,&*!|>'\"%@#-? \n\t1eE.~a\x00é"), max_size=8))
    written(GOOD[:start] + added + GOOD[start + removed :])
    with suppress(InputError):
        reader.load("x.yaml")


def test_overrides_replace_values_and_add_sections(here: Path):
    loaded = reader.load(written(GOOD), ["train.steps=7", "objective.beta=2e3", "checkpoint.keep=5", "lora=null"])
    assert (loaded.train.steps, loaded.objective.beta, loaded.checkpoint.keep) == (7, 2000, 5)
    assert loaded.lora is None


def test_a_component_is_exchanged_with_all_of_its_keys(here: Path):
    given = ["backbone.name=sdxl", "backbone.pretrained=somewhere/xl"]
    for overrides in (given, given[::-1]):
        assert reader.load(written(GOOD), overrides).backbone.family == "sdxl"


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (
            "objective.name=denoising",
            "override 'objective.name=denoising' would keep beta of 'objective', written for 'dpo'; give "
            "objective.beta=... as well, or start from another config",
        ),
        ("train.steps", "override 'train.steps' is not key=value, as in train.steps=100"),
        ("=3", "override '=3' is not key=value"),
        ("run_dir.steps=3", "override 'run_dir.steps=3': 'run_dir' holds 'runs/x', which has no keys"),
        ("train.steps=[", "override 'train.steps=[': the value is not YAML"),
        ("train.stps=3", "override 'train.stps=3': train.stps: unknown key; did you mean 'steps'?"),
        ("train.steps=-3", "override 'train.steps=-3': train.steps: Input should be greater than or equal to 1"),
        ("optim.lr=2001-99-99", "unable to parse string as a number (got '2001-99-99')"),
        ("trian.steps=3", "override 'trian.steps=3': trian: unknown key; did you mean 'train'?"),
    ],
)
def test_wrong_overrides_name_themselves(here: Path, override: str, expected: str):
    assert expected in message(GOOD, [override])


def test_an_objective_of_the_users_own_goes_through_the_same_door(here: Path):
    written(LOSSES, "losses.py")
    own = GOOD.replace("{name: dpo, beta: 5000}", "{name: losses.py:Margin, tau: 0.01}")
    loaded = reader.load(written(own))
    assert type(loaded.objective).__name__ == "Margin"
    assert loaded.objective.tau == 0.01
    assert reader.parse(yaml.safe_load(reader.dump(loaded))) == loaded
    assert "x.yaml:6: objective.tua: unknown key; did you mean 'tau'? Keys here: name, space, tau" in message(
        own.replace("tau", "tua")
    )
    assert "x.yaml:6: objective.tau: Input should be greater than 0 (got -1)" in message(own.replace("0.01", "-1"))
    assert "is not a t2ialign objective" in message(own.replace("Margin, tau: 0.01", "NotOne"))
    assert "losses.py has no 'Margins'" in message(own.replace("Margin,", "Margins,"))


def test_a_noiser_is_not_an_objective(here: Path):
    wrong = GOOD.replace("{name: dpo, beta: 5000}", "{name: 't2ialign.noisers.forward:ForwardNoiser'}")
    assert "is not a t2ialign objective" in message(wrong)


def test_a_file_that_cannot_be_imported_is_tried_again(here: Path):
    Path("broken.py").write_text("raise ZeroDivisionError")
    for _ in range(2):
        with pytest.raises(InputError, match=r"broken\.py:1: raised ZeroDivisionError"):
            component.import_reference("broken.py:Loss")


def test_a_dump_writes_every_default_and_loads_to_the_same(here: Path):
    loaded = reader.load(written(GOOD))
    text = reader.dump(loaded)
    assert reader.load(written(text, "dumped.yaml")) == loaded
    assert "max_grad_norm: 1.0" in text
    assert "name: dpo" in text


def test_values_never_change(here: Path):
    loaded = reader.load(written(GOOD))
    with pytest.raises(ValueError, match="frozen"):
        loaded.train.steps = 3  # type: ignore[misc]
