"""Prompts as segments of a CLIP text encoder's length, each encoded by itself."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def segment_tokens(tokenizer: Any, prompts: list[str], segments: int) -> Tensor:
    """Token ids of prompts that are cut into `segments` segments of the encoder's length less its two marks.

    Each segment has a start and an end of its own; what a prompt does not fill is empty segments, and what exceeds them
    is cut. One segment is what the tokenizer itself makes of a prompt.

    Returns:
        [B, segments, L] int64
    """
    length = tokenizer.model_max_length
    if segments == 1:
        rows = tokenizer(prompts, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        return rows.input_ids[:, None]
    words = length - 2
    plain = tokenizer(prompts, add_special_tokens=False, truncation=False, verbose=False).input_ids
    rows = torch.full((len(prompts), segments, length), tokenizer.pad_token_id)
    for row, ids in enumerate(plain):
        for place in range(segments):
            part = ids[place * words : (place + 1) * words]
            marked = [tokenizer.bos_token_id, *part, tokenizer.eos_token_id]
            rows[row, place, : len(marked)] = torch.tensor(marked)
    return rows
