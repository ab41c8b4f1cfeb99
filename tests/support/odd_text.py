"""Prompt files and judge replies that somebody or something spoilt, and what must hold of reading them."""

from __future__ import annotations

import csv
import io
import json
import random
import re
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Any

from prompt_files import CHINESE, ENGLISH, FIVE

from unigenbench.errors import BenchError
from unigenbench.prompts import examine_prompts, parse_indices, prompt_sha256, read_prompts, select, to_json
from unigenbench.protocol.parsing import Parsed, parse

ODD = [
    "",
    "\0",
    "\ud83d",
    "😀",
    "٣",
    "１",
    "\ufeff",
    "[bold]",
    ":smile:",
    '"',
    "'",
    ",",
    "\n",
    "\r",
    "\\",
    "{",
    "}",
    "[",
    "]",
]
TAGS = [
    "<score>",
    "</score>",
    "<analysis>",
    "</analysis>",
    "<think>",
    "</think>",
    "```",
    "```json\n",
    "<SCORE>",
    "</Score>",
]
VALUES = [
    "0",
    "1",
    "[1, 0]",
    "[1]",
    "(0, 1)",
    "yes",
    "No",
    "2",
    "0.5",
    "1.0",
    "null",
    "true",
    "【1，0】",
    "1e-400",
    "-0",
    "NaN",
]
KEYS = ["checks", "score", "analysis", "id", "pass", "evidence", "caption"]


def odd_word(draw: random.Random) -> str:
    return draw.choice([*ODD, "a", "the caption says ", "word", str(draw.randrange(10 ** draw.randrange(1, 40)))])


def odd_value(draw: random.Random, depth: int = 0) -> Any:
    """Any JSON value, often one that looks like an answer."""
    kind = draw.randrange(7 if depth < 4 else 4)
    if kind < 4:
        return [odd_word(draw), draw.choice([0, 1, 2, 0.5, 1.0, -1, 10**30]), draw.choice([True, False, None]), "yes"][
            kind
        ]
    if kind == 4:
        return [odd_value(draw, depth + 1) for _ in range(draw.randrange(4))]
    return {draw.choice([*KEYS, odd_word(draw)]): odd_value(draw, depth + 1) for _ in range(draw.randrange(4))}


def odd_reply(draw: random.Random) -> str:
    """Parts of answers in any order."""
    parts = []
    for _ in range(draw.randrange(1, 12)):
        pick = draw.randrange(5)
        pool = (TAGS, VALUES, [odd_word(draw)], [json.dumps(odd_value(draw))], [repr(odd_value(draw))])[pick]
        parts.append(draw.choice(pool))
        parts.append(draw.choice(["", "", " ", "\n"]))
    return "".join(parts)


NAMES = {1: {"true", "yes", "是"}, 0: {"false", "no", "否"}}
ESCAPED = re.compile(r"\\u([0-9a-f]{4})")
NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?")


def states(reply: str, verdict: int) -> bool:
    """Whether a word or a number of the reply says the verdict exactly, however it is spelt: "1.00", "\\uff11"."""
    text = ESCAPED.sub(lambda escape: chr(int(escape[1], 16)), reply.lower())
    numbers = (Decimal(number) for number in NUMBER.findall(text))
    return bool(NAMES[verdict] & set(re.findall(r"\w+", text))) or verdict in numbers


def check_reply(draw: random.Random) -> None:
    """A reply is read or refused; every verdict is written in it, and what is kept of it can be stored."""
    reply, n = odd_reply(draw), draw.randrange(1, 4)
    for mode in ("robust", "official"):
        found = parse(reply, n, mode)
        if not isinstance(found, Parsed):
            assert len(found.detail) < 1000
            continue
        assert len(found.verdicts) == n
        assert set(found.verdicts) <= {0, 1}
        json.dumps(found.analyses, ensure_ascii=False).encode()
        if mode == "robust":
            assert all(states(reply, verdict) for verdict in found.verdicts), reply


def odd_row(draw: random.Random) -> list[str]:
    content: Any = dict(draw.choice([ENGLISH, CHINESE, FIVE]))
    for _ in range(draw.randrange(3)):
        content[draw.choice([*content, odd_word(draw)])] = odd_value(draw)
    cell = draw.choice([json.dumps(content), json.dumps(content, ensure_ascii=False), odd_word(draw), odd_reply(draw)])
    index = draw.choice([str(draw.randrange(5)), str(draw.randrange(10 ** draw.randrange(1, 25))), odd_word(draw)])
    return [index, f"{odd_word(draw)} prompt {odd_word(draw)}", cell]


def odd_prompt_file(draw: random.Random) -> bytes:
    """A prompt file with odd cells, then perhaps with bytes changed, cut or doubled."""
    suffix = draw.choice(["_en", "_zh", "_en_long", ""])
    text = io.StringIO(newline="")
    rows = csv.writer(text, lineterminator=draw.choice(["\n", "\r\n"]))
    rows.writerow(["index", f"prompt{suffix}", f"sub_dims{suffix}"])
    for _ in range(draw.randrange(4)):
        row = odd_row(draw)
        rows.writerow(row if draw.random() < 0.9 else row[: draw.randrange(4)])
    content = bytearray(text.getvalue().encode("utf-8", "surrogatepass"))
    for _ in range(draw.choice([0, 0, 1, 3])):
        place = draw.randrange(len(content))
        if draw.random() < 0.5:
            content[place] = draw.randrange(256)
        else:
            content[place : place + draw.randrange(8)] = content[: draw.randrange(8)]
    return bytes(content)


def check_prompts(folder: Path, draw: random.Random) -> None:
    """A prompt file is read, or its problems are sentences with the file's name; what was read can be kept."""
    path = folder / "prompts.csv"
    path.write_bytes(odd_prompt_file(draw))
    prompts, problems = examine_prompts(path, strict=draw.random() < 0.2)
    assert all(str(problem).startswith(str(path)) and len(str(problem)) < 2000 for problem in problems)
    if prompts is None:
        assert any(problem.severity == "error" for problem in problems)
        try:
            read_prompts(path)
        except BenchError:
            return
    if prompts is None:  # strict refused what can be mended
        return
    json.dumps(to_json(prompts), ensure_ascii=False).encode()
    assert all(len(prompt_sha256(prompt)) == 64 and prompt.points for prompt in prompts.prompts)
    with suppress(BenchError):
        chosen = select(prompts, indices=parse_indices(f"0-{draw.randrange(10**18)}"))
        assert len(chosen.prompts) <= len(prompts.prompts)
