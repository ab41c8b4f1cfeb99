"""Evaluate text-to-image models test point by test point, with a multimodal judge.

The names below are the public API; everything else may move between minor versions. Each is imported when it is first
used, so that `import unigenbench` is quick.

Prompts: `read_prompts`, `select_prompts`; what they return, `PromptSet`, holds `Prompt` with test points, `Point`.

Judges: implement `Judge`, which answers a `JudgeRequest` with a `JudgeReply`; `open_judge` opens the built-in ones, and
`parse_reply` reads the verdicts in a reply. `judge_folder` judges a folder of images as a `JudgeConfig` says.

Runs: `open_log` reads a run folder into a `RunLog` of `Judgement`; `summarise` scores it, `compare` compares two
models, `agree` two judges, and `write_report` writes the HTML page. Errors that a user can act on are `BenchError`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unigenbench.errors import BenchError
    from unigenbench.judges.base import Judge, open_judge
    from unigenbench.judging.run import JudgeConfig, judge_folder
    from unigenbench.prompts import read_prompts
    from unigenbench.prompts import select as select_prompts
    from unigenbench.protocol.parsing import parse as parse_reply
    from unigenbench.report import write_report
    from unigenbench.runs.store import open_log
    from unigenbench.scoring.agree import agree
    from unigenbench.scoring.compare import compare
    from unigenbench.scoring.scores import summarise
    from unigenbench.types import Judgement, JudgeReply, JudgeRequest, Point, Prompt, PromptSet, RunLog

__all__ = [
    "BenchError",
    "Judge",
    "JudgeConfig",
    "JudgeReply",
    "JudgeRequest",
    "Judgement",
    "Point",
    "Prompt",
    "PromptSet",
    "RunLog",
    "__version__",
    "agree",
    "compare",
    "judge_folder",
    "open_judge",
    "open_log",
    "parse_reply",
    "read_prompts",
    "select_prompts",
    "summarise",
    "write_report",
]

__version__: str
"""Version of the installed package, t2ialign, that unigenbench is a part of."""

_MODULES = {
    "errors": ("BenchError",),
    "judges.base": ("Judge", "open_judge"),
    "judging.run": ("JudgeConfig", "judge_folder"),
    "prompts": ("read_prompts",),
    "report": ("write_report",),
    "runs.store": ("open_log",),
    "scoring.agree": ("agree",),
    "scoring.compare": ("compare",),
    "scoring.scores": ("summarise",),
    "types": ("JudgeReply", "JudgeRequest", "Judgement", "Point", "Prompt", "PromptSet", "RunLog"),
}
_RENAMED = {"parse_reply": ("protocol.parsing", "parse"), "select_prompts": ("prompts", "select")}
_PUBLIC = {name: (module, name) for module, names in _MODULES.items() for name in names} | _RENAMED
"""public name -> (module, name in it)"""


def __getattr__(name: str) -> object:
    """A public name, imported on first use."""
    import importlib
    import importlib.metadata

    if name == "__version__":
        return importlib.metadata.version("t2ialign")
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, inner = _PUBLIC[name]
    found = globals()[name] = getattr(importlib.import_module(f"unigenbench.{module}"), inner)
    return found


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
