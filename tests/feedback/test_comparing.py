"""Two folders of images side by side: matched by prompt and seed, and every number by hand or by scipy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.stats import permutation_test

from t2ialign.errors import DataError, InputError
from t2ialign.feedback.comparing import FolderComparison, compare_folders
from t2ialign.feedback.matching import match_folders
from t2ialign.report.folders import table_heads, table_rows, write_comparison
from t2ialign.rewards.base import GroupwiseReward, PairwiseReward, PointwiseReward, Reward


def folder(path: Path, greys: list[int], prompts: list[str] | None = None, seed: int = 7, **settings: object) -> Path:
    """A folder of flat images as `generate` leaves it, prompts `p0`, `p1`, … if not said."""
    path.mkdir()
    rows = []
    for place, grey in enumerate(greys):
        Image.new("RGB", (8, 8), (grey, grey, grey)).save(path / f"{place}_0.png")
        prompt = f"p{place}" if prompts is None else prompts[place]
        rows.append({"index": place, "k": 0, "prompt": prompt, "seed": seed + place, "file": f"{place}_0.png"})
    (path / "generation.json").write_text(json.dumps({"steps": 30, **settings, "images": rows}))
    return path


def grey(image: Image.Image) -> float:
    return float(np.asarray(image)[0, 0, 0])


def brightness(**options: float) -> PointwiseReward:
    return PointwiseReward(
        "grey", lambda images, prompts: [grey(image) for image in images], fingerprint="g", **options
    )


def compared(tmp_path: Path, a: list[int], b: list[int], *rewards: Reward, **options: float) -> FolderComparison:
    return compare_folders(folder(tmp_path / "a", a), folder(tmp_path / "b", b), rewards or (brightness(),), **options)


def test_means_wins_and_the_win_rate_by_hand(tmp_path: Path):
    # 4 wins, 1 tie, 1 loss: (4 + 1/2) / 6 = 0.75; the mean difference is (10 + 20 + 30 + 40 + 0 - 10) / 6 = 15
    one = compared(tmp_path, [50] * 6, [60, 70, 80, 90, 50, 40]).rewards[0]
    assert (one.wins, one.ties, one.losses, one.failed) == (4, 1, 1, 0)
    assert one.win_rate.mean == pytest.approx(0.75)
    assert one.means == pytest.approx((50, 65))
    assert one.difference is not None
    assert one.difference.mean == pytest.approx(15)
    assert one.difference.low < 15 < one.difference.high
    assert one.win_rate.low < 0.75 < one.win_rate.high <= 1


def test_p_values_are_those_of_an_exact_permutation_test(tmp_path: Path):
    b = [60, 70, 80, 90, 50, 40]
    one = compared(tmp_path, [50] * 6, b).rewards[0]
    expected = permutation_test(
        (np.array(b, float), np.full(6, 50.0)), lambda x, y: (x - y).mean(), permutation_type="samples", n_resamples=64
    )
    assert one.difference_p == pytest.approx(expected.pvalue)
    # of the 6 outcomes +, +, +, +, 0, - the sum is 3 of at most 5: |sum| >= 3 in 2 * (1 + 5) of 32 signs
    assert one.win_rate_p == pytest.approx(12 / 32)


def test_images_of_a_prompt_are_resampled_together(tmp_path: Path):
    prompts = ["x"] * 3 + ["y"] * 3
    a = folder(tmp_path / "a", [50] * 6, prompts)
    one = compare_folders(a, folder(tmp_path / "b", [60] * 3 + [50] * 3, prompts), [brightness()]).rewards[0]
    assert one.prompts == 2
    assert one.win_rate[:3] == pytest.approx((0.75, 0.5, 1.0))  # only x, only y, or both are drawn
    assert one.difference_p == 1.0  # x alone moved: either sign of its sum is as far from 0


def test_where_low_scores_are_preferred_the_lower_wins(tmp_path: Path):
    found = compared(tmp_path, [50] * 3, [40, 30, 60], brightness(weight=-2.0))
    assert (found.rewards[0].wins, found.rewards[0].losses) == (2, 1)
    assert table_rows(found)[0][0] == "grey (low is better)"


def test_a_reward_of_pairs_is_asked_in_both_orders_once(tmp_path: Path):
    calls: list[int] = []

    def leaning(firsts: list[Image.Image], seconds: list[Image.Image], prompts: list[str]) -> list[float]:
        """Prefers what is shown first, unless the other is clearly brighter."""
        calls.append(len(prompts))
        return [float(grey(a) + 15 > grey(b)) for a, b in zip(firsts, seconds, strict=True)]

    reward = PairwiseReward("leaning", leaning, fingerprint="l", batch_size=4)
    found = compared(tmp_path, [50] * 4, [90, 80, 55, 10], reward)
    one = found.rewards[0]
    assert (one.wins, one.ties, one.losses) == (2, 1, 1)  # 55 against 50: the first shown wins both times, a tie
    assert (one.means, one.difference, one.difference_p) == (None, None, None)
    assert calls == [4, 4]
    compare_folders(tmp_path / "a", tmp_path / "b", [reward])
    assert calls == [4, 4]
    assert table_rows(found)[0][1:6] == [""] * 5


def test_a_reward_of_groups_sees_the_images_of_both_folders(tmp_path: Path):
    def rank(images: list[Image.Image], prompt: str) -> list[float]:
        order = sorted(grey(image) for image in images)
        return [float(order.index(grey(image))) for image in images]

    prompts = ["x", "x", "y"]
    a, b = folder(tmp_path / "a", [10, 20, 30], prompts), folder(tmp_path / "b", [15, 25, 5], prompts)
    one = compare_folders(a, b, [GroupwiseReward("rank", rank, fingerprint="r")]).rewards[0]
    assert one.means == pytest.approx(((0 + 2 + 1) / 3, (1 + 3 + 0) / 3))
    assert (one.wins, one.losses) == (2, 1)


def test_several_rewards_have_adjusted_p_values(tmp_path: Path):
    dark = PointwiseReward("dark", lambda images, prompts: [-grey(i) for i in images], fingerprint="d")
    found = compared(tmp_path, [50] * 6, [60, 70, 80, 90, 50, 40], brightness(), dark)
    assert [one.difference_p_holm for one in found.rewards] == [
        min(1, 2 * (one.difference_p or 0)) for one in found.rewards
    ]
    assert table_heads(found).count("p (Holm)") == 2
    assert len(table_rows(found)[0]) == len(table_heads(found))


def test_failures_are_left_out_and_too_many_are_refused(tmp_path: Path):
    def some(images: list[Image.Image], prompts: list[str]) -> list[float | None]:
        return [None if prompt == "p0" else grey(image) for image, prompt in zip(images, prompts, strict=True)]

    reward = PointwiseReward("some", some, fingerprint="s")
    found = compared(tmp_path, [50] * 4, [60] * 4, reward, max_failed=0.25)
    assert (found.rewards[0].images, found.rewards[0].failed) == (3, 1)
    with pytest.raises(DataError, match=r"'some' could not score 1 of 4 pairs of images; at most 5% may fail"):
        compare_folders(tmp_path / "a", tmp_path / "b", [reward])


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            {"prompts": ["p0", "q"]},
            "their prompts differ (1 only in the first, first 'p1'; 1 only in the second, first 'q')",
        ),
        ({"seed": 8}, "prompt 'p0' was drawn with seed 7 in the first and 8 in the second"),
        (
            {"greys": [1, 2, 3], "prompts": ["p0", "p1", "p1"]},
            "prompt 'p1' has 1 images in the first and 2 in the second",
        ),
    ],
)
def test_folders_that_do_not_match_are_refused_in_words(other: dict, message: str, tmp_path: Path):
    folder(tmp_path / "a", [1, 2])
    folder(tmp_path / "b", **{"greys": [1, 2], **other})
    with pytest.raises(InputError) as refused:
        match_folders(tmp_path / "a", tmp_path / "b")
    assert message in str(refused.value)


def test_folders_without_seeds_are_matched_by_name_and_say_so(tmp_path: Path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for place in range(2):
            Image.new("RGB", (8, 8), "red").save(tmp_path / name / f"{place}.{'png' if name == 'a' else 'bmp'}")
            (tmp_path / name / f"{place}.txt").write_text(f"prompt {place}")
    found = compare_folders(tmp_path / "a", tmp_path / "b", [brightness()])
    assert found.as_mapping()["matched_by"] == "prompt and name"
    assert "their noise may differ" in found.warnings[0]
    assert found.rewards[0].win_rate[:3] == (0.5, 0.5, 0.5)
    assert any("gave 255 to all images, so it prefers none" in warning for warning in found.warnings)


def test_a_folder_is_not_compared_with_itself(tmp_path: Path):
    made = folder(tmp_path / "a", [1])
    with pytest.raises(InputError, match="is given twice"):
        match_folders(made, tmp_path / "." / "a")


def test_equal_prompts_from_equal_seeds_are_matched_in_their_order(tmp_path: Path):
    rows = [{"file": f"{place}_0.png", "prompt": "x", "seed": 1} for place in range(2)]
    for name in ("a", "b"):
        made = folder(tmp_path / name, [1, 2])
        (made / "generation.json").write_text(json.dumps({"images": rows}))
    twins = match_folders(tmp_path / "a", tmp_path / "b").twins
    assert [(twin.first.name, twin.second.name) for twin in twins] == [("0_0.png",) * 2, ("1_0.png",) * 2]


def test_the_page_shows_numbers_images_and_what_differs(tmp_path: Path):
    a = folder(tmp_path / "a", [50] * 3, loras={})
    b = folder(tmp_path / "b", [60, 70, 40], loras={"<run>": 1.0})
    page = write_comparison(compare_folders(a, b, [brightness()]), tmp_path / "page.html").read_text()
    assert page.count('<img src="data:image/png') == 2 * (3 + 2 + 1)
    for shown in (
        "b against a",
        "+6.7",
        "66.7",
        "seed 7",
        "grey 70",
        "&#39;&lt;run&gt;&#39;: 1.0",
        "3 prompts",
        "2 / 0 / 1",
    ):
        assert shown in page, shown
