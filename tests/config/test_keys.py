"""Every key can be found: by its name, its meaning, or what other trainers call it."""

from __future__ import annotations

import pytest
import yaml
from pydantic import TypeAdapter

from t2ialign.config.component import COMPONENTS, Slot, resolve
from t2ialign.config.keys import Key, find_keys, keys
from t2ialign.config.reader import _section_at
from t2ialign.config.synonyms import SYNONYMS, here_called
from t2ialign.errors import InputError

KEYS = keys()


def named(name: str) -> Key:
    return next(key for key in KEYS if key.name == name)


def test_every_key_is_documented():
    assert {"optim.lr", "objective.beta", "data.path", "backbone.pretrained", "train.steps", "rewards.weight"} <= {
        key.name for key in KEYS
    }
    for key in KEYS:
        assert key.meaning, f"{key.name} has no documentation"
        assert key.values, key.name
        assert (key.default and key.example) or key.values == "section", key.name
        assert set(key.components) <= set(COMPONENTS.get(key.slot, ())) | {"NAME"}


def test_a_key_says_whose_it_is_what_it_may_be_and_how_it_is_set():
    assert named("train.precision")[3:6] == (
        "fp32 | bf16 | fp16",
        "fp32",
        "Precision of frozen weights and of the forward pass; trained weights, schedule and losses stay fp32.",
    )
    assert named("train.precision").example == "train.precision=bf16"
    assert named("optim.ema_decay").values == "number, above 0, below 1, or empty"
    assert named("optim.lr").default == "required"
    assert named("data.path").owner == "every data"
    assert named("noiser.corrections").owner == "noiser inversion"
    assert any(key.owner.startswith("objective dpo") for key in KEYS if key.name == "objective.beta")


@pytest.mark.parametrize("key", [key for key in KEYS if key.example], ids=lambda key: f"{key.name} {key.components}")
def test_an_example_is_a_value_that_the_key_may_have(key: Key):
    name, _, text = key.example.partition("=")
    value = yaml.safe_load(text)
    if key.slot == "reward":
        resolve("reward", value[0]["name"]).model_validate(value[0])
        return
    assert name == key.name
    *sections, last = key.name.split(".")
    content = {key.slot: {"name": key.components[0]}} if key.slot else {"loop": "online"}
    model = _section_at(tuple(sections), content)
    assert model is not None
    field = next(f for n, f in model.model_fields.items() if last in (n, f.alias))
    slot = next((marker.slot for marker in field.metadata if isinstance(marker, Slot)), None)
    if slot is None:
        TypeAdapter(field.annotation).validate_python(value)
    else:
        resolve(slot, value["name"]).model_validate(value)


@pytest.mark.parametrize(
    ("words", "first"),
    [
        ("learning_rate", ["optim.lr"]),
        ("batch_size", ["train.effective_batch", "train.micro_batch"]),
        ("resolution", ["data.resolution"]),
        ("mixed-precision", ["train.precision"]),
        ("network_dim", ["lora.rank"]),
        ("micro_batch", ["train.micro_batch"]),
        ("moving average", ["optim.ema_decay"]),
    ],
)
def test_a_key_is_found_by_usual_names_and_by_its_meaning(words: str, first: list[str]):
    assert [key.name for key in find_keys(words.split())][: len(first)] == first


def test_all_words_have_to_fit_and_a_name_with_a_dot_is_of_names_only():
    assert {key.name for key in find_keys(["guidance", "rollout"])} >= {"rollout.guidance_scale"}
    assert all(key.name.startswith("train.") for key in find_keys(["train."]))


def test_what_nobody_calls_a_key_is_refused_with_the_nearest():
    with pytest.raises(InputError, match="no key and no meaning fits 'lerning_rate'; did you mean 'learning_rate'"):
        find_keys(["lerning_rate"])


def test_synonyms_lead_to_keys_that_exist():
    names = {key.name for key in KEYS}
    assert {key for found in SYNONYMS.values() for key in found} <= names
    assert here_called("trainBatchSize") == ("train.effective_batch", "train.micro_batch")
