"""What a judge is asked in the official wording, read from the user's own checkout of the official repository."""

from __future__ import annotations

import ast
from pathlib import Path
from string import Formatter
from typing import Any, Literal

from unigenbench.errors import InputError
from unigenbench.protocol.native import digest
from unigenbench.types import Language, Prompt

OFFICIAL_FILE = Path("eval/src/eval_common.py")
"""Where a checkout of the official repository keeps its wording."""


class OfficialRubric:
    """The official wording, read from the user's own checkout of CodeGoat24/UniGenBench (© Tencent, CC BY 4.0).

    The file's syntax tree is read for five constants; nothing of it is imported or executed.

    Args:
        checkout: folder of the checkout.
        language: which of its two wordings.
        backend: "gemini" sends text, then image, bytes unchanged; "vllm" sends image, then text, as JPEG.

    Raises:
        InputError: the checkout has no such file, or the file does not hold the constants as literals.
    """

    def __init__(self, checkout: Path, language: Language, backend: Literal["gemini", "vllm"] = "gemini"):
        self.id = f"official-{backend}"
        self.language: Language = language
        self.image_first = backend == "vllm"
        self.encoding: Literal["raw", "jpeg95"] = "raw" if backend == "gemini" else "jpeg95"
        self._path = checkout / OFFICIAL_FILE
        constants = _Constants(self._path)
        upper = language.upper()
        self._template = constants.text(f"SYSTEM_PROMPT_{upper}_TEMPLATE")
        self._explanations = constants.texts(f"EXPLANATION_DICT_{upper}")
        self._headings = constants.headings("LANG_CONFIGS", language, ("checkpoint_header", "checkpoint_desc_header"))
        _check_fields(self._path, self._template)
        self.sha256 = digest(
            {"template": self._template, "explanations": self._explanations, "headings": self._headings}
        )

    def render(self, prompt: Prompt) -> str:
        """The text for one prompt, byte for byte as the official script writes it.

        Raises:
            InputError: a test point's label is none of the checkout's.
        """
        labels = [point.label for point in prompt.points]
        unknown = next((label for label in labels if label not in self._explanations), None)
        if unknown is not None:
            raise InputError(
                f"{self._path}: prompt {prompt.index}: label {unknown!r} has no explanation there; "
                f"use --rubric native-v1, or prompts with the official labels"
            )
        meanings = [self._explanations[label] for label in labels]
        return self._template.format(
            prompt=prompt.text,
            testpoint=repr(labels),
            explanation=_block(self._headings[0], labels, meanings),
            test_explanation=_block(self._headings[1], labels, [point.description for point in prompt.points]),
        )


def _block(heading: str, labels: list[str], texts: list[str]) -> str:
    """A heading and one line a label, in corner brackets."""
    lines = "".join(f"\n{label}: {text}" for label, text in zip(labels, texts, strict=True))
    return f"{heading}:「{lines}\n」"


def _check_fields(path: Path, template: str) -> None:
    """Only the four plain fields may be filled, so that a template cannot reach into objects."""
    known = {"prompt", "testpoint", "explanation", "test_explanation"}
    try:
        fields = {field for _, field, _, _ in Formatter().parse(template) if field is not None}
    except ValueError as error:
        raise InputError(f"{path}: the template is no format string ({error}); check the checkout") from error
    if not fields <= known:
        raise InputError(
            f"{path}: the template has fields {', '.join(sorted(fields - known))}; known are {', '.join(sorted(known))}"
        )


class _Constants:
    """Module-level literals of a Python file, through its syntax tree."""

    def __init__(self, path: Path):
        self._path = path
        if not path.is_file():
            raise InputError(f"{path}: not there; give the folder of a checkout of CodeGoat24/UniGenBench")
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: no Python file ({error}); check the checkout") from error
        self._found: dict[str, ast.expr] = {}
        for node in tree.body:
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            value = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
            if value is not None:
                self._found |= {target.id: value for target in targets if isinstance(target, ast.Name)}

    def text(self, name: str) -> str:
        """A string constant."""
        value = self._literal(self._node(name), name)
        if not isinstance(value, str):
            raise self._wrong(name, f"a {type(value).__name__}", "a string")
        return value

    def texts(self, name: str) -> dict[str, str]:
        """A dictionary of strings."""
        value = self._literal(self._node(name), name)
        if not isinstance(value, dict) or not all(isinstance(item, str) for pair in value.items() for item in pair):
            raise self._wrong(name, f"a {type(value).__name__}", "a dictionary of strings")
        return value

    def headings(self, name: str, language: str, keys: tuple[str, str]) -> tuple[str, str]:
        """Two strings of a nested dictionary; what stands beside them need not be literal."""
        inner = self._entry(self._node(name), language, name)
        first, second = (self._literal(self._entry(inner, key, f"{name}[{language!r}]"), key) for key in keys)
        return str(first), str(second)

    def _node(self, name: str) -> ast.expr:
        if name not in self._found:
            raise InputError(f"{self._path}: {name}: not there; the official wording of June 2026 and before has it")
        return self._found[name]

    def _entry(self, node: ast.expr, key: str, name: str) -> ast.expr:
        if isinstance(node, ast.Dict):
            for at, value in zip(node.keys, node.values, strict=True):
                if isinstance(at, ast.Constant) and at.value == key:
                    return value
        raise self._wrong(name, "something else", f"a dictionary with the key {key!r}", node.lineno)

    def _literal(self, node: ast.expr, name: str) -> Any:
        try:
            return ast.literal_eval(node)
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
            raise self._wrong(name, "an expression", "a literal, as nothing is executed", node.lineno) from error

    def _wrong(self, name: str, seen: str, wanted: str, line: int | None = None) -> InputError:
        place = f"{self._path}:{line}" if line else f"{self._path}"
        return InputError(f"{place}: {name}: {seen}; it must be {wanted}")
