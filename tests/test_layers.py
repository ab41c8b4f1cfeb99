"""Imports point downwards; the bridge between the packages is a folder of images."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = {
    "t2ialign": (
        "types rng errors statistics",
        "progress storage config.component",
        "schedules",
        "sampling",
        "objectives rewards.base backbones.base data.base noisers.base",
        "config runtime",
        "data backbones rewards shapes",
        "policy",
        "models",
        "noisers",
        "generation export.card export.licences",
        "rollouts",
        "feedback training",
        "report export",
        "demo",
        "cli",
        "__main__",
    ),
    "unigenbench": (
        "errors formatting statistics",
        "taxonomy types",
        "prompts",
        "protocol runs",
        "judges",
        "scoring",
        "judging report",
        "cli",
        "__main__",
    ),
}
"""Modules or rooms of each package, lowest first; a longer name wins, so that rewards.base lies below rewards."""
LAYER = {
    package: {name: layer for layer, names in enumerate(layers) for name in names.split()}
    for package, layers in LAYERS.items()
}
BRIDGE = (
    "unigenbench.errors",
    "unigenbench.formatting",
    "unigenbench.judges",
    "unigenbench.prompts",
    "unigenbench.statistics",
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


def owner(package: str, name: str) -> str | None:
    """The entry of LAYER that a dotted name below the package belongs to."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        if ".".join(parts[:length]) in LAYER[package]:
            return ".".join(parts[:length])
    return None


EVERY = [(package, name, path) for package in LAYERS for name, path in modules(package) if name]


@pytest.mark.parametrize(("package", "name", "path"), EVERY, ids=[f"{package}.{name}" for package, name, _ in EVERY])
def test_a_module_imports_lower_layers_and_its_own_room_only(package: str, name: str, path: Path):
    own = owner(package, name)
    assert own is not None, f"{path} has no layer; give it one in {Path(__file__).name}"
    layer = LAYER[package]
    wrong = []
    for what, line in imports(path):
        inner = what.removeprefix(f"{package}.")
        if inner == what:
            continue
        other = owner(package, inner)
        if other is None:
            continue  # the package itself: `from t2ialign import __version__`
        same_room = inner.split(".")[0] == name.split(".")[0] and (ROOT / package / name.split(".")[0]).is_dir()
        if layer[other] >= layer[own] and not same_room:
            wrong.append(f"{path.relative_to(ROOT)}:{line}: layer {layer[own]} imports {inner} of layer {layer[other]}")
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
        if name.split(".")[0] not in ("cli", "__main__")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if (isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "sys")
        and node.attr in ("argv", "exit")
    ]
    assert not wrong
