"""What identifies a reward: its name and options, the code that computes it, and the files that both name.

The code is the file that defines the reward and every project file that it imports, at whatever depth. A file belongs
to the project if it is neither part of the standard library nor of an installed package; t2ialign and the package that
defines the reward count as well. Weights and settings count by content, whether an option names them or a literal in
the code does.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib
import inspect
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from t2ialign.storage.digest import file_digest

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".pkl", ".onnx", ".npy", ".npz", ".json", ".yaml", ".toml")
"""Files of weights or settings, which count where a literal names them; of a folder also .txt, as vocabularies are."""
FOLDER_DEPTH = 2
"""Levels of a folder named by an option at which files count."""
_T2IALIGN = Path(__file__).resolve().parents[1]
_STANDARD_LIBRARY = tuple(Path(sysconfig.get_path(kind)).resolve() for kind in ("stdlib", "platstdlib"))


def fingerprint(name: str, target: Any, options: Mapping[str, Any], files: Iterable[Path] = ()) -> str:
    """32 hex digits that change with the name, the options, the code and the files that they name.

    Args:
        name: as the reward was asked for.
        target: the function, class or instance.
        options: of its constructor or its call; the path of a file or folder counts by content.
        files: source files to start from besides the one that defines `target`.
    """
    digest = hashlib.blake2b(_bytes(name), digest_size=16)
    for key, value in sorted(options.items()):
        digest.update(_bytes(f"\0{key}={_identity(value)}"))
    defined = source_file(target)
    for content in sorted(file_digest(path) for path in project_files([*files, *([defined] if defined else [])])):
        digest.update(content.encode())
    return digest.hexdigest()


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _identity(value: Any) -> str:
    """The content of a file or folder, and anything else as it is written."""
    if isinstance(value, Mapping):
        return repr({key: _identity(inner) for key, inner in value.items()})
    if isinstance(value, (list, tuple)):
        return repr([_identity(inner) for inner in value])
    path = _existing(value) if isinstance(value, (str, Path)) else None
    if path is None:
        return repr(value)
    return file_digest(path) if path.is_file() else _folder_digest(path)


def _existing(name: str | Path) -> Path | None:
    try:
        path = Path(name)
        return path if str(name) and path.exists() else None
    except (OSError, ValueError):  # too long, or not a path at all
        return None


def _folder_digest(folder: Path) -> str:
    levels = ("/".join("*" * depth) for depth in range(1, FOLDER_DEPTH + 1))
    found = (path for level in levels for path in folder.glob(level) if path.suffix.lower() in (*SUFFIXES, ".txt"))
    names = sorted((path.relative_to(folder).as_posix(), path) for path in found if path.is_file())
    return hashlib.sha256("".join(f"{name}={file_digest(path)}\0" for name, path in names).encode()).hexdigest()


def underlying(target: Any) -> Any:
    """The function or class behind a callable: inside a partial, under decorators, of an instance."""
    while isinstance(target, functools.partial):
        target = target.func
    return inspect.unwrap(target) if inspect.isroutine(target) or inspect.isclass(target) else type(target)


def source_file(target: Any) -> Path | None:
    """The file that defines a function, a class or the class of an instance; None where there is none."""
    try:
        file = inspect.getsourcefile(underlying(target))
    except TypeError:  # written in C
        return None
    return Path(file) if file and Path(file).is_file() else None


def project_files(start: Iterable[Path]) -> set[Path]:
    """The files given, the project files that they import, and the weights and settings that any of them names."""
    importlib.invalidate_caches()
    waiting = [path.resolve() for path in start]
    packages = {_T2IALIGN, *map(_package, waiting)}
    found: set[Path] = set()
    while waiting:
        path = waiting.pop()
        if path not in found and path != _T2IALIGN / "__init__.py":  # which computes nothing
            found.add(path)
            files = (file.resolve() for file in _referenced(path))
            waiting += [file for file in files if not _is_installed(file) or _package(file) in packages]
    return found


def _is_installed(file: Path) -> bool:
    """Whether it comes with Python or with an installed package."""
    return bool({"site-packages", "dist-packages"} & set(file.parts)) or any(
        file.is_relative_to(folder) for folder in _STANDARD_LIBRARY
    )


def _package(file: Path) -> Path:
    """The folder of the outermost package that a file belongs to, or the file if it is a module of its own."""
    outermost = file
    while (outermost.parent / "__init__.py").is_file():
        outermost = outermost.parent
    return outermost


def _referenced(path: Path) -> Iterator[Path]:
    """The files that a source file imports or names."""
    if path.suffix != ".py":
        return
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError):  # importing it says what is wrong
        return
    package = _package(path)
    folders = [str(package.parent), str(Path.cwd()), *sys.path]
    named_from = [path.parent] if package == _T2IALIGN or _is_installed(path) else [path.parent, Path.cwd()]
    for node in _executed(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _module_files(alias.name.split("."), folders)
        elif isinstance(node, ast.ImportFrom):
            origin = folders if node.level == 0 else list(map(str, path.parents[node.level - 1 : node.level]))
            module = node.module.split(".") if node.module else []
            for alias in node.names:
                yield from _module_files([*module, alias.name], origin)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from _named_files(node.value, named_from)


def _executed(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those under `if TYPE_CHECKING`."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            waiting += node.orelse
        else:
            waiting += ast.iter_child_nodes(node)


def _module_files(parts: Sequence[str], folders: Sequence[str]) -> Iterator[Path]:
    """The files that importing a dotted name executes, without executing any: packages from the outside in."""
    where: Sequence[str] | None = folders
    for part in parts:
        spec = PathFinder.find_spec(part, where)
        if spec is None:  # built in, missing, or a name inside the module before
            return
        if spec.has_location and spec.origin:
            yield Path(spec.origin)
        where = spec.submodule_search_locations
        if where is None:
            return


def _named_files(text: str, folders: Sequence[Path]) -> Iterator[Path]:
    if not text.endswith(SUFFIXES) or "\n" in text:
        return
    for folder in folders:
        path = _existing(folder / text)
        if path is not None and path.is_file():
            yield path
