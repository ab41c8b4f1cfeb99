"""What ships with the package: models, pairs, configs, in a checkout and in an installation."""

from __future__ import annotations

from pathlib import Path

from t2ialign.errors import EnvironmentProblem


def shipped(path: str) -> Path:
    """A file or folder that comes with the package: beside its modules, or in the repository's root.

    Raises:
        EnvironmentProblem: it is not there.
    """
    found = find_shipped(path)
    if found is None:
        raise EnvironmentProblem(
            f"{path} is not part of this installation; install t2ialign again, or from its repository"
        )
    return found


def find_shipped(path: str) -> Path | None:
    """The same, or None where it is not there."""
    package = Path(__file__).resolve().parents[1]
    return next((_short(root / path) for root in (package, package.parent) if (root / path).exists()), None)


def _short(path: Path) -> Path:
    """The path as a user would type it here."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
