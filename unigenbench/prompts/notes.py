"""What reading a prompt file finds wrong with it and mends."""

from __future__ import annotations

from pathlib import Path

from unigenbench.types import Problem, Repair, Severity


class Notes:
    """Collects the problems and the repairs of one file, so that reading and checking cannot disagree."""

    def __init__(self, path: Path):
        self.path = path
        self.problems: list[Problem] = []
        self.repairs: list[Repair] = []

    def error(self, line: int | None, what: str) -> None:
        """The file cannot be used; line is 1-based, None for the whole file."""
        self._add("error", line, what)

    def warning(self, line: int | None, what: str) -> None:
        """The file can be used, but somebody should look at it."""
        self._add("warning", line, what)

    def repair(self, line: int, what: str) -> None:
        """Something was mended; it is a warning too."""
        self.repairs.append(Repair(line, what))
        self.warning(line, what)

    def found(self, severity: Severity) -> list[Problem]:
        """The problems of one severity, in the order they were found."""
        return [problem for problem in self.problems if problem.severity == severity]

    def _add(self, severity: Severity, line: int | None, what: str) -> None:
        self.problems.append(Problem(severity, f"{self.path}:{line}" if line else str(self.path), what))
