"""Ranked lists of images, ragged and not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from own_data import PlainBackbone, write_image

from t2ialign.data.encoding.cache import encode
from t2ialign.data.kinds.lists import ListData
from t2ialign.data.loading.loader import Batches
from t2ialign.errors import DataError


def table(folder: Path, lists: dict[str, list[float]], reward: str = "sharp") -> Path:
    """scores.jsonl with an image a score, as `t2ialign score` writes it."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for prompt, scores in lists.items():
        for place, score in enumerate(scores):
            name = f"{prompt}_{place}.png"
            write_image(folder / name, seed=place)
            lines.append(json.dumps({"image": name, "prompt": prompt, "reward": reward, "score": score}))
    path = folder / "scores.jsonl"
    with path.open("a") as file:
        file.write("".join(line + "\n" for line in lines))
    return path


def ranked(data: ListData) -> dict[str, tuple[list[str], tuple[float, ...], int | None]]:
    source = data.open()
    rows = [source[row] for row in range(len(source))]
    return {
        row.prompts[0]: ([Path(str(image)).stem for image in row.images], row.scores or (), row.present) for row in rows
    }


def test_images_of_a_prompt_are_ranked_by_score(tmp_path: Path):
    data = ListData(path=table(tmp_path, {"p": [0.2, 0.9, 0.5]}), views=3)
    assert ranked(data) == {"p": (["p_1", "p_2", "p_0"], (0.9, 0.5, 0.2), 3)}


def test_a_folder_of_scored_images_is_read_by_itself(tmp_path: Path):
    table(tmp_path, {"p": [1, 2]})
    assert len(ListData(path=tmp_path, views=2).open()) == 1


def test_shorter_lists_are_filled_up_and_say_so(tmp_path: Path):
    data = ListData(path=table(tmp_path, {"p": [3, 2, 1, 0], "q": [1, 5]}), views=4)
    found = ranked(data)
    assert found["p"][2] == 4
    assert found["q"] == (["q_1", "q_0", "q_0", "q_0"], (5, 1, 1, 1), 2)


def test_of_longer_lists_the_best_the_worst_and_evenly_spaced_ranks_are_kept(tmp_path: Path):
    data = ListData(path=table(tmp_path, {"p": [6, 5, 4, 3, 2, 1, 0]}), views=3)
    assert ranked(data)["p"][1] == (6, 3, 0)
    assert ranked(ListData(path=data.path, views=2))["p"][1] == (6, 0)


def test_ties_and_single_images_are_left_out_and_counted(tmp_path: Path):
    path = table(tmp_path, {"p": [0.9, 0.9, 0.1], "q": [1.0, 1.0], "r": [1.0]})
    data = ListData(path=path, views=4)
    assert {prompt: scores[:present] for prompt, (_, scores, present) in ranked(data).items()} == {"p": (0.9, 0.1)}
    ties = data.read(decode=False).source.account.ties
    # one of p, one of q, and then the single ones left of q and r
    assert [str(tie).split("jsonl:")[1] for tie in ties] == [
        "2: score 0.9 after 0.9",
        "5: score 1 after 1",
        "4: the only image left of 'q'",
        "6: the only image left of 'r'",
    ]
    assert ranked(ListData(path=path, views=4, margin=0.5))["p"][2] == 2
    with pytest.raises(DataError, match="nothing to learn from"):
        ListData(path=path, views=4, margin=0.85).open()


def test_of_several_rewards_one_must_be_named(tmp_path: Path):
    table(tmp_path, {"p": [1, 2]}, reward="sharp")
    path = table(tmp_path, {"p": [5, 4]}, reward="bright")
    with pytest.raises(DataError, match=r"holds scores of bright, sharp; set data\.reward"):
        ListData(path=path, views=2).open()
    assert ranked(ListData(path=path, views=2, reward="bright"))["p"][1] == (5, 4)
    with pytest.raises(DataError, match="'dull'; it holds scores of bright, sharp"):
        ListData(path=path, views=2, reward="dull").open()


@pytest.mark.parametrize("cached", [True, False])
def test_a_batch_says_which_views_there_are_and_is_no_wider_than_its_longest_list(cached: bool, tmp_path: Path):
    data = ListData(path=table(tmp_path, {"p": [3, 2, 1], "q": [1, 5], "r": [2, 1]}), views=4)
    backbone = PlainBackbone()
    section = {"latents": cached, "text": cached}
    encoded = encode(
        data.open(),
        backbone,  # type: ignore[arg-type]
        resolution=16,
        folder=tmp_path / "cache",
        device=torch.device("cpu"),
        cache=data.cache.model_copy(update=section),
    )
    batch = next(iter(Batches(encoded, seed=0, micro_batch=3)))
    assert batch.mask is not None
    assert batch.scores is not None
    assert batch.geometry is not None
    assert batch.latents.shape[:2] == batch.geometry.shape[:2] == batch.mask.shape == batch.scores.shape == (3, 3)
    assert sorted(batch.mask.sum(1).tolist()) == [2, 2, 3]
    for scores, mask in zip(batch.scores, batch.mask, strict=True):
        assert scores[mask].tolist() == sorted(scores[mask].tolist(), reverse=True)
    narrow = next(iter(Batches(encoded, seed=0, micro_batch=1, epoch_indices=[1])))
    assert narrow.views == 2


def test_the_noise_of_a_list_does_not_depend_on_its_company(tmp_path: Path):
    data = ListData(path=table(tmp_path, {"p": [3, 2, 1], "q": [1, 5]}), views=4)
    encoded = encode(data.open(), PlainBackbone(), resolution=16, folder=tmp_path / "c", device=torch.device("cpu"))  # type: ignore[arg-type]
    both = next(iter(Batches(encoded, seed=0, micro_batch=2)))
    alone = Batches(encoded, seed=0, micro_batch=1)
    for row, batch in zip(range(2), alone, strict=False):
        torch.testing.assert_close(both.latents[row : row + 1, : batch.views], batch.latents)
