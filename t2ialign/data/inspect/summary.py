"""What a data set holds, in numbers that add up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from io import StringIO
from typing import TypeVar

from rich.console import Console
from rich.table import Table as Grid

from t2ialign.data.account import TIE, DataAccount, by_reason, reason_lines
from t2ialign.data.base import Example
from t2ialign.data.buckets import Buckets, describe_buckets, find_buckets
from t2ialign.data.inspect.label_bias import AUC_WARNING, LabelBias, label_biases
from t2ialign.data.kinds.pairs import PairData
from t2ialign.data.tables.source import Reading, TableData
from t2ialign.data.tables.table import Row

Size = tuple[int, int]
Key = TypeVar("Key")
RESOLUTIONS = (512, 1024)
"""Of SD1.5 and SDXL, in px."""
SHOWN = 5
"""Problems and image sizes listed one by one."""


@dataclass(frozen=True)
class DataSummary:
    """What a data set holds, whatever `on_bad` and `ties` say."""

    account: DataAccount
    views: int
    prompts: int
    """Distinct prompts of usable rows."""
    rows_per_prompt: dict[int, int]
    """Rows of a prompt -> prompts that have so many."""
    prompt_words: tuple[int, ...]
    """Words of each distinct prompt, ascending."""
    sizes: dict[Size, int]
    """(width, height) -> images of usable rows, most frequent first."""
    first_better: tuple[int, int] | None
    """Of rows with a label, how many prefer the first image, and how many rows have one."""
    label_biases: tuple[LabelBias, ...] = ()
    """Of pairs, how far the label follows what should not matter."""
    resolution: int | None = None
    """Side in px to which images are brought, where the config says."""
    buckets: tuple[tuple[int, Buckets], ...] = ()
    """With `data.crop` 'bucket' those of usable rows, by resolution."""


def summarise(data: TableData) -> DataSummary:
    """Reads all rows and decodes all images, whatever `on_bad` and `ties` say.

    Raises:
        InputError: the path does not exist or is no kind of table.
        DataError: the table as a whole cannot be read, or columns are missing.
    """
    reading = data.read(decode=True)
    examples = [reading.source[index] for index in range(len(reading.source))]
    per_prompt = Counter(prompt for example in examples for prompt in example.prompts)
    return DataSummary(
        account=reading.source.account,
        views=data.views,
        prompts=len(per_prompt),
        rows_per_prompt=dict(sorted(Counter(per_prompt.values()).items())),
        prompt_words=tuple(sorted(len(prompt.split()) for prompt in per_prompt)),
        sizes=dict(Counter(reading.sizes).most_common()),
        first_better=_first_better(reading),
        label_biases=tuple(_label_biases(reading, examples)) if isinstance(data, PairData) else (),
        resolution=data.resolution,
        buckets=tuple(_buckets(data, reading)),
    )


def _buckets(data: TableData, reading: Reading) -> Iterator[tuple[int, Buckets]]:
    if data.crop != "bucket" or not reading.sizes:
        return
    for side in [data.resolution] if data.resolution else RESOLUTIONS:
        yield side, find_buckets(reading.source, side, data.bucket_step)


def _first_better(reading: Reading) -> tuple[int, int] | None:
    better = reading.layout.better
    if better is None:
        return None
    labels = [label for label in map(better, reading.table.rows) if isinstance(label, int)]
    return labels.count(0), len(labels)


def _label_biases(reading: Reading, examples: list[Example]) -> list[LabelBias]:
    rows = {row.origin: row for row in reading.table.rows}
    better = reading.layout.better

    def first(row: Row) -> int:
        found = better(row) if better is not None else 0
        assert isinstance(found, int)  # of a usable row
        return found

    return label_biases(examples, rows, None if better is None else first)


def render(summary: DataSummary, warn: float = AUC_WARNING) -> str:
    """The summary as plain text, with a warning of each AUC above `warn` or below 1 - `warn`."""
    grid = Grid(box=None, show_header=False, pad_edge=False)
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for name, words in [*_lines(summary), *_bias_lines(summary, warn)]:
        grid.add_row(name, words)
    text = StringIO()
    Console(file=text, width=110, color_system=None, markup=False, emoji=False).print(grid)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())


def _lines(summary: DataSummary) -> list[tuple[str, str]]:
    account = summary.account
    lost = [
        f"{len(some):,} {reason}"
        for reason, some in by_reason(sorted(account.left_out, key=lambda problem: problem.reason != TIE)).items()
    ]
    lines = [
        ("read as", account.format),
        ("understood", account.layout),
        ("rows", f"{account.rows:,} = {' + '.join([f'{account.used:,} usable', *lost])}"),
    ]
    lines += [("not read" if place == 0 else "", line) for place, line in enumerate(reason_lines(account.unused))]
    if summary.prompts:
        words, counts = summary.prompt_words, summary.rows_per_prompt
        per_prompt = ", ".join(f"{prompts:,} with {rows}" for rows, prompts in list(counts.items())[:SHOWN])
        lines += [
            ("prompts", f"{summary.prompts:,} distinct; rows per prompt: {per_prompt}{_more(counts)}"),
            ("words per prompt", f"{words[0]} to {words[-1]}, median {words[len(words) // 2]}"),
        ]
    if summary.sizes:
        lines.append(("image sizes", _sizes_words(summary.sizes)))
        lines.append(("enlarged", _enlarged_words(summary)))
    lines += [("buckets", f"of {side} px: {describe_buckets(buckets)}") for side, buckets in summary.buckets]
    lines += [("remark" if place == 0 else "", line) for place, line in enumerate(account.remark_lines())]
    if summary.first_better is not None:
        first, labelled = summary.first_better
        share = f" ({first / labelled:.0%})" if labelled else ""
        lines.append(("label balance", f"the first image is better in {first:,} of {labelled:,} labelled rows{share}"))
    lines += [("problem", str(problem)) for problem in account.problems[:SHOWN]]
    if len(account.problems) > SHOWN:
        lines.append(("", f"and {len(account.problems) - SHOWN:,} more"))
    if account.problems and account.used:
        lines.append(("advice", f"data.on_bad=drop goes on with the {account.used:,} usable rows"))
    return lines


def _bias_lines(summary: DataSummary, warn: float) -> list[tuple[str, str]]:
    lines = []
    for place, bias in enumerate(summary.label_biases):
        name = "label follows" if place == 0 else ""
        lines.append((name, f"{bias.name}: AUC {bias.auc:.3f} ± {bias.chance:.3f} by chance, {bias.pairs:,}"))
    for bias in summary.label_biases:
        if bias.is_strong(warn):
            more = "more" if bias.auc > 0.5 else "less"
            lines.append(
                (
                    "warning",
                    f"the label follows {bias.name} (chosen has {more}, AUC {bias.auc:.2f}): a model may learn "
                    "that instead of the preference; balance the pairs, or report it beside the result",
                )
            )
    return lines


def _sizes_words(sizes: dict[Size, int]) -> str:
    shown = ", ".join(f"{width} x {height} px: {count:,}" for (width, height), count in list(sizes.items())[:SHOWN])
    return shown + _more(sizes)


def _enlarged_words(summary: DataSummary) -> str:
    """How many images are smaller than what models are trained on."""
    total = sum(summary.sizes.values())
    words = []
    for side in [summary.resolution] if summary.resolution else RESOLUTIONS:
        smaller = sum(count for size, count in summary.sizes.items() if min(size) < side)
        words.append(f"{smaller:,} of {total:,} at {side} px")
    return ", ".join(words)


def _more(counts: dict[Key, int]) -> str:
    return f", and {len(counts) - SHOWN} more kinds" if len(counts) > SHOWN else ""
