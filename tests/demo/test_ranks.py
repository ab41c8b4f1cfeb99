"""Two processes of one machine train what one process trains, and end together."""

from pathlib import Path

import pytest
import torch
from online_runs import config_of
from safetensors.torch import load_file

from t2ialign.config.reader import parse
from t2ialign.demo.ranks import train_together
from t2ialign.errors import UserError
from t2ialign.training.run_folder import result_path
from t2ialign.training.train import train

pytestmark = pytest.mark.slow

RAISES = """
import os

def scores(images, prompts):
    if os.environ["RANK"] in {ranks}:
        raise RuntimeError("no scores today")
    return [0.0] * len(images)
"""


def content(folder: Path, model: Path, name: str, *overrides: str) -> dict:
    micro = "train.micro_batch=2"
    return config_of(folder, model, micro, *overrides, name=name).model_dump(mode="json", by_alias=True)


def test_two_processes_learn_what_one_learns(sd15_folder, tmp_path):
    alone, together = (content(tmp_path, sd15_folder, name) for name in ("alone", "together"))
    train(parse(alone))
    train_together(together, 1)
    one, other = (
        load_file(result_path(parse(made)) / "pytorch_lora_weights.safetensors") for made in (alone, together)
    )
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(other[name], tensor, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("ranks", [("0", "1"), ("1",)])
def test_what_fails_in_one_of_two_processes_is_said_and_ends_both(sd15_folder, tmp_path, ranks: tuple[str, ...]):
    reward = tmp_path / "raises.py"
    reward.write_text(RAISES.format(ranks=ranks))
    with pytest.raises(UserError, match="no scores today"):
        train_together(content(tmp_path, sd15_folder, "raises", f"rewards=[{reward}:scores]"), 1)
