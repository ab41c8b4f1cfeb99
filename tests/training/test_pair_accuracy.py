"""Held-out pair accuracy: the same questions for every checkpoint, and an honest interval."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from rich.console import Console
from toys import lora_policy, pair_folder, write_config

from t2ialign.config.reader import load
from t2ialign.data.encoding.cache import encode
from t2ialign.data.kinds.pairs import PairData
from t2ialign.errors import DataError
from t2ialign.policy import Policy
from t2ialign.training.pair_accuracy import HeldOutPairs, describe, measure_pairs
from t2ialign.training.trackers import read_metrics
from t2ialign.training.train import train

QUIET = Console(quiet=True)


def held_out(policy: Policy, folder: Path, **how: int) -> HeldOutPairs:
    source = PairData(path=pair_folder(folder / "pairs", 6)).open()
    encoded = encode(source, policy.backbone, resolution=64, folder=folder / "cache", device=torch.device("cpu"))
    return HeldOutPairs(source, encoded, **{"max_pairs": 6, "draws": 2, "seed": 0, "batch": 2, **how})


def test_accuracy_by_hand(sd15_folder: Path, tmp_path: Path):
    questions = held_out(lora_policy(sd15_folder), tmp_path)
    reference = torch.full((6, 2), 0.5)
    # chosen minus rejected change: -1, -1, -1, +1, a tie, -1
    policy = reference + torch.tensor([[-1, 0], [0, 1], [1, 2], [1, 0], [3, 3], [-2, -1.0]])
    found = questions.accuracy(policy, reference)
    assert found.mean == pytest.approx((4 + 0.5) / 6)
    assert found.chosen_change == pytest.approx(2 / 6)
    assert found.rejected_change == pytest.approx(5 / 6)
    assert found.pairs == 6
    assert 0 <= found.low < found.mean < found.high <= 1


def test_errors_that_are_not_finite_are_left_out_and_counted_never_wrong_answers(sd15_folder: Path, tmp_path: Path):
    questions = held_out(lora_policy(sd15_folder), tmp_path)
    policy = torch.tensor([[0.0, 1], [0, 1], [1, 0], [0, 1], [torch.nan, 1], [0, torch.inf]])
    found = questions.accuracy(policy, torch.zeros(6, 2))
    assert (found.mean, found.pairs, found.failed) == (0.75, 4, 2)
    assert (found.chosen_change, found.rejected_change) == (0.25, 0.75)
    assert "2 of 6 held-out pairs are left out: their errors are NaN or infinite" in describe(found)
    with pytest.raises(DataError, match="none of 6 held-out pairs can be measured"):
        questions.accuracy(policy, torch.full((6, 2), torch.nan))


def test_the_interval_resamples_prompts_and_not_pairs(sd15_folder: Path, tmp_path: Path):
    # the six pairs have prompts of two words' difference; given one prompt, nothing is left to resample
    questions = held_out(lora_policy(sd15_folder), tmp_path)
    questions.prompts = ["one"] * 6
    change = torch.tensor([[-1.0, 0]] * 3 + [[1.0, 0]] * 3)
    found = questions.accuracy(change, torch.zeros(6, 2))
    assert (found.mean, found.low, found.high) == (0.5, 0.5, 0.5)


def test_an_untouched_policy_is_undecided_and_a_moved_one_is_not(sd15_folder: Path, tmp_path: Path):
    policy = lora_policy(sd15_folder)
    questions = held_out(policy, tmp_path)
    own, reference = questions.errors(policy, ["policy", "reference"])
    assert torch.equal(own, reference)
    found = questions.accuracy(own, reference)
    assert (found.mean, found.chosen_change) == (0.5, 0)
    moved = lora_policy(sd15_folder, moved=0.1)
    (errors,) = held_out(moved, tmp_path).errors(moved, ["policy"])
    assert (errors != reference).all()


def test_answers_depend_on_nothing_but_seed_and_pair(sd15_folder: Path, tmp_path: Path):
    policy = lora_policy(sd15_folder, moved=0.1)
    (expected,) = held_out(policy, tmp_path).errors(policy, ["policy"])
    torch.manual_seed(5)
    (cut,) = held_out(policy, tmp_path, batch=4).errors(policy, ["policy"])
    torch.testing.assert_close(cut, expected, atol=1e-6, rtol=1e-5)
    few = held_out(policy, tmp_path, max_pairs=3)
    (some,) = few.errors(policy, ["policy"])
    torch.testing.assert_close(some, expected[few.rows], atol=1e-6, rtol=1e-5)
    (other,) = held_out(policy, tmp_path, seed=1).errors(policy, ["policy"])
    assert not torch.allclose(other, expected)


def test_draws_cover_the_whole_schedule_each_with_noise_of_its_own(sd15_folder: Path, tmp_path: Path):
    policy = lora_policy(sd15_folder)
    seen, noises = [], []
    predict, x_0 = policy.predict, held_out(policy, tmp_path, draws=1, batch=6).encoded[list(range(6))].posterior.mean

    def watching(x_t, timesteps, *rest):
        seen.append(timesteps[:, 0].tolist())
        alpha, sigma = policy.schedule.alpha_sigma(timesteps.flatten())
        noises.append((x_t.flatten(0, 1) - alpha.view(-1, 1, 1, 1) * x_0.flatten(0, 1)) / sigma.view(-1, 1, 1, 1))
        return predict(x_t, timesteps, *rest)

    policy.predict = watching  # type: ignore[method-assign]
    held_out(policy, tmp_path, draws=4, batch=6).errors(policy, ["policy"])
    assert len(seen) == 4
    for draw, timesteps in enumerate(seen):
        assert all(250 * draw <= timestep < 250 * (draw + 1) for timestep in timesteps)
        assert len(set(timesteps)) > 1
    for one in range(4):
        for other in range(one):  # uncorrelated: each draw has noise of its own
            assert abs(torch.corrcoef(torch.stack([noises[one].flatten(), noises[other].flatten()]))[0, 1]) < 0.2


def test_what_are_no_pairs_is_refused(sd15_folder: Path, tmp_path: Path):
    policy = lora_policy(sd15_folder)
    questions = held_out(policy, tmp_path)

    class Singles:
        views = 1

    with pytest.raises(DataError, match="2 views"):
        HeldOutPairs(Singles(), questions.encoded, max_pairs=2, draws=1, seed=0, batch=1)  # type: ignore[arg-type]


@pytest.mark.parametrize("lora", ["{rank: 2, alpha: 4}", "null"])
def test_a_run_measures_it_before_during_and_after_and_again_after_a_restart(
    lora: str, sd15_folder: Path, tmp_path: Path
):
    """mapo has no reference: a full fine-tuning keeps one for validation alone."""
    pairs = pair_folder(tmp_path / "pairs", 6)
    extra = f"validate: {{every_steps: 2, pairs: {{name: pairs, path: {pairs}}}, max_pairs: 4, draws: 2}}\n"
    path = write_config(tmp_path / "c.yaml", model=sd15_folder, pairs=pairs, run_dir=tmp_path / "run", extra=extra)
    text = path.read_text().replace("{name: dpo, beta: 100}", "{name: mapo, beta: 0.1}")
    path.write_text(text.replace("lora: {rank: 2, alpha: 4}\n", f"lora: {lora}\n"))
    train(load(path), console=QUIET)
    train(load(path, ["train.steps=4"]), console=QUIET)
    rows = [row for row in read_metrics(tmp_path / "run" / "metrics.jsonl") if "validation/pair_accuracy/mean" in row]
    assert [row["step"] for row in rows] == [0, 2, 3, 4]
    assert rows[0]["validation/pair_accuracy/mean"] == 0.5
    assert rows[0]["validation/held_out_change/chosen"] == 0
    assert all(row["validation/held_out_change/chosen"] != 0 for row in rows[1:])


def test_any_lora_can_be_asked(sd15_folder: Path, tmp_path: Path):
    policy = lora_policy(sd15_folder, moved=0.1)
    data = PairData(path=pair_folder(tmp_path / "pairs", 6))
    found = measure_pairs(policy, {"learner": 1.0}, data, max_pairs=4, draws=2, seed=0, batch=2)
    assert found.pairs == 4
    assert f"held-out pair accuracy {found.mean:.1%}" in describe(found)
    base = measure_pairs(policy, {}, data, max_pairs=4, draws=2, seed=0, batch=2)
    assert (base.mean, base.chosen_change) == (0.5, 0)
