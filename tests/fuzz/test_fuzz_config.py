"""Config files and overrides from FUZZ_SEED on, for FUZZ_SECONDS; a failure names its seed."""

from __future__ import annotations

import random
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from fuzzing import TIMEOUT, fuzz

from t2ialign.config.reader import dump, load, parse
from t2ialign.errors import InputError

pytestmark = [pytest.mark.slow, pytest.mark.timeout(TIMEOUT)]
CONFIGS = [path.read_text() for path in sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))]
PIECES = [
    *("{", "}", "[", "]", ":", ",", "&a", "*a", "|", ">", "'", '"', "%", "@", "#", "- ", "? ", "\n", "\t", "  "),
    *(
        "1e400",
        ".nan",
        "-1",
        "0x7f",
        "true",
        "~",
        "null",
        "\x00",
        "é",
        "\ud83d",
        "\ufeff",
        "<<: ",
        "9" * 5000,
        "[" * 300,
    ),
    *(
        "9" * 5000,
        "[" * 300,
        "!!python/object:os.system",
        "name: dpo",
        "file.py:X",
        "os:system",
        "t2ialign.errors:InputError",
    ),
]


def odd_text(draw: random.Random) -> str:
    """A shipped config with a few pieces cut, repeated, moved or put in."""
    text = draw.choice(CONFIGS)
    for _ in range(draw.randint(1, 4)):
        start = draw.randrange(len(text) + 1)
        end = min(len(text), start + draw.choice((0, 1, 5, 40)))
        text = text[:start] + draw.choice((draw.choice(PIECES), text[start:end] * 2, "")) + text[end:]
    return text


def odd_override(draw: random.Random) -> str:
    keys = [
        "train.steps",
        "optim.lr",
        "objective",
        "objective.beta",
        "data.path",
        "validate.rewards",
        "lora",
        "x.y",
        "",
    ]
    return draw.choice(keys) + draw.choice(("=", "", ".=", "..a=")) + draw.choice([*PIECES, "1", "{}", "[a, b]"])


def check(folder: Path, draw: random.Random) -> None:
    """A config is read, and then written and read back equal, or refused in a message."""
    path = folder / "x.yaml"
    path.write_bytes(odd_text(draw).encode("utf-8", "surrogatepass"))
    with suppress(InputError):
        config = load(path, [odd_override(draw) for _ in range(draw.randint(0, 2))])
        assert parse(yaml.safe_load(dump(config))) == config


def test_any_config_is_read_or_refused_in_a_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    fuzz(lambda draw: check(tmp_path, draw))
