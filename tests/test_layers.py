"""Imports point downwards; the bridge between the packages is a folder of images."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = (
    "types draws errors statistics",
    "files progress companion",
    "schedules config records",
    "objectives rewards.base backbones.base",
    "noisers data backbones rewards shapes charts",
    "policy rollout checkpoint trackers",
    "engine generate",
    "offline hooks held_out export feedback mismatch plan report doctor",
    "evaluation pair_set relabel",
    "run sheet",
    "image_jobs",
    "demo cli_data",
    "cli",
    "__main__",
)
"""Modules or packages of t2ialign, lowest first; a longer name wins, so that rewards.base lies below rewards."""
LAYER = {name: layer for layer, names in enumerate(LAYERS) for name in names.split()}
BRIDGE = (
    "unigenbench.errors",
    "unigenbench.judges",
    "unigenbench.prompts",
    "unigenbench.taxonomy",
    "unigenbench.types",
)
"""What t2ialign may know of unigenbench."""


def modules(package: str) -> list[tuple[str, Path]]:
    """(dotted name within the package, file) of every module."""
    folder = ROOT / package
    found = []
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder).with_suffix("").parts
        found.append((".".join(parts[:-1] if parts[-1] == "__init__" else parts), path))
    return found


def imports(path: Path) -> list[tuple[str, int]]:
    """(dotted name, line) of everything a file imports while it runs; `if TYPE_CHECKING` is for the type checker."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found = []
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            found += [(f"{node.module}.{alias.name}", node.lineno) for alias in node.names]
    return found


def owner(name: str) -> str | None:
    """The entry of LAYER that a dotted name below t2ialign belongs to."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        if ".".join(parts[:length]) in LAYER:
            return ".".join(parts[:length])
    return None


@pytest.mark.parametrize(("name", "path"), modules("t2ialign"), ids=str)
def test_a_module_imports_lower_layers_and_its_own_package_only(name: str, path: Path):
    if not name:  # t2ialign/__init__.py
        assert not [what for what, _ in imports(path) if what.startswith("t2ialign")]
        return
    own = owner(name)
    assert own is not None, f"{path} has no layer; give it one in {Path(__file__).name}"
    wrong = []
    for what, line in imports(path):
        inner = what.removeprefix("t2ialign.")
        if inner == what:
            continue
        other = owner(inner)
        if other is None:
            continue  # the package itself: `from t2ialign import __version__`
        same_package = inner.split(".")[0] == name.split(".")[0] and (ROOT / "t2ialign" / name.split(".")[0]).is_dir()
        if LAYER[other] >= LAYER[own] and not same_package:
            wrong.append(f"{path.relative_to(ROOT)}:{line}: layer {LAYER[own]} imports {inner} of layer {LAYER[other]}")
    assert not wrong, "\n".join(wrong)


def test_unigenbench_imports_nothing_of_t2ialign():
    wrong = [
        f"{path}:{line}" for _, path in modules("unigenbench") for what, line in imports(path) if "t2ialign" in what
    ]
    assert not wrong


def test_t2ialign_knows_only_the_bridge_of_unigenbench():
    wrong = [
        f"{path}:{line}: {what}"
        for _, path in modules("t2ialign")
        for what, line in imports(path)
        if what.startswith("unigenbench") and not what.startswith(BRIDGE)
    ]
    assert not wrong


def test_only_the_command_reads_arguments_and_leaves_the_process():
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for name, path in modules("t2ialign")
        if name not in ("cli", "__main__")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if (isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "sys")
        and node.attr in ("argv", "exit")
    ]
    assert not wrong
