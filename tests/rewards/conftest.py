"""What tests of reward models look at."""

from __future__ import annotations

import pytest
import torch
from PIL import Image


@pytest.fixture(scope="session")
def images() -> list[Image.Image]:
    """Two images of noise, taller than wide."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(0, 256, (2, 48, 40, 3), generator=generator, dtype=torch.uint8)
    return [Image.fromarray(row.numpy()) for row in rows]
