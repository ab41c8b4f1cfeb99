"""Fixtures of the whole suite: tiny random models, written once a session."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest
import standins
from hypothesis import settings

settings.register_profile("suite", deadline=None)  # the timeout below says when a property test is too slow
settings.load_profile("suite")


@pytest.fixture(scope="session")
def sd15_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random model of SD1.5's architecture; read only."""
    return standins.tiny_sd15(tmp_path_factory.mktemp("models") / "tiny-sd15")


@pytest.fixture(scope="session")
def sdxl_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random model of SDXL's architecture; read only."""
    return standins.tiny_sdxl(tmp_path_factory.mktemp("models") / "tiny-sdxl")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What the program remembers between runs lies in a folder of the session."""
    os.environ["T2IALIGN_CACHE"] = str(tmp_path_factory.mktemp("cache"))


def pytest_sessionstart() -> None:
    gc.disable()


def pytest_collection_finish() -> None:
    """What the libraries and the tests' modules made stays: the collector need not walk it again and again."""
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Property tests have 30 s: one that meets an input of quadratic cost must not look like a slow machine."""
    for item in items:
        if getattr(getattr(item, "obj", None), "is_hypothesis_test", False) and not item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.timeout(30))
