"""How fast `unigenbench judge` goes, what it holds in memory, and how many calls a server sees at once.

    python scripts/bench_judge.py [--out assets/benchmarks/judge.md]

A stub server in a process of its own answers each call after 400 ms. 600 prompts with four images of 100 KB are 2,400
judgements; 64 at once would take 2400 / 64 * 0.4 s = 15 s if nothing but the server took time.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

LATENCY_SECONDS = 0.4
AT_ONCE = 64
PROMPTS, PER_PROMPT = 600, 4
SIDE = 183
"""pixels of a square image of noise whose PNG has 100 KB"""
LIMIT = 1.2
"""times the floor"""


def serve() -> None:
    """The server: says its port, answers until standard input ends, then says what it saw."""
    from made_runs import POINTS  # pyright: ignore[reportMissingImports]
    from stub import Stub, scores  # pyright: ignore[reportMissingImports]

    stub = Stub(lambda _: scores([1] * len(POINTS)), latency=LATENCY_SECONDS)
    print(stub.port, flush=True)
    sys.stdin.read()
    print(json.dumps({"most": stub.most_in_flight, "calls": len(stub.judged)}), flush=True)
    os._exit(0)  # threads that still hold a connection are of no interest


def resident_megabytes() -> float:
    """The most that this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(folder: Path, url: str) -> dict[str, float]:
    """Judges everything once, then again."""
    from unigenbench.judges.base import JudgeOptions
    from unigenbench.judging.plan import Settings
    from unigenbench.judging.progress import Progress
    from unigenbench.judging.run import JudgeConfig, judge_folder

    config = JudgeConfig(
        data=str(folder / "prompts.csv"),
        images=folder / "images",
        judge="openai:stub",
        run=folder / "run",
        options=JudgeOptions(base_url=url),
        settings=Settings(concurrency=AT_ONCE),
        images_per_prompt=PER_PROMPT,
    )
    held: dict[int, float] = {}

    def watch(now: Progress) -> None:
        for percent in (25, 100):
            if 100 * now.done >= percent * now.total and percent not in held:
                held[percent] = resident_megabytes()

    begun, cpu = time.monotonic(), time.process_time()
    outcome = judge_folder(config, watch)
    whole, cpu = time.monotonic() - begun, time.process_time() - cpu
    again = judge_folder(config)
    assert outcome.statuses == {"ok": PROMPTS * PER_PROMPT}, outcome
    return {
        "judging": outcome.seconds,
        "whole": whole,
        "cpu": cpu,
        "rss_25": held[25],
        "rss_100": held[100],
        "requests_again": again.requests,
        "seconds_again": again.seconds,
    }


def table(found: dict[str, float], seen: dict[str, int], load: float, note: str) -> str:
    """Markdown."""
    floor = PROMPTS * PER_PROMPT / AT_ONCE * LATENCY_SECONDS
    rows = {
        f"wall time of judging (floor {floor:.0f} s, wanted {LIMIT * floor:.0f} s)": f"{found['judging']:.1f} s",
        "times the floor": f"{found['judging'] / floor:.2f}",
        "with reading prompts and images": f"{found['whole']:.1f} s",
        "processor time of the judging process": f"{found['cpu']:.1f} s",
        f"calls at once that the server saw (limit {AT_ONCE})": str(seen["most"]),
        "calls that the server saw": str(seen["calls"]),
        "most memory held after 25 % of the judgements": f"{found['rss_25']:.0f} MiB",
        "most memory held after 100 %": f"{found['rss_100']:.0f} MiB",
        "requests of a second run": f"{found['requests_again']:.0f}",
    }
    lines = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    return f"""# Speed of `unigenbench judge`

`python scripts/bench_judge.py`: {PROMPTS * PER_PROMPT:,} judgements of images of 100 KB, {AT_ONCE} at once, against a
stub server in a process of its own that answers after {1000 * LATENCY_SECONDS:.0f} ms. The floor is what the server's
waiting alone takes.

| | |
|---|---|
{lines}

Measured on {datetime.now(timezone.utc):%Y-%m-%d} on two shared CPU cores, Python {platform.python_version()}; load
average before it began: {load:.1f}. {note}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="markdown file to write")
    parser.add_argument("--note", default="", help="a sentence on what else ran")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve()
    from made_runs import prompt_set, write_csv, write_images  # pyright: ignore[reportMissingImports]

    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_csv(folder / "prompts.csv", prompt_set(PROMPTS, folder))
        write_images(folder / "images", PROMPTS, PER_PROMPT, SIDE)
        server = subprocess.Popen(
            [sys.executable, __file__, "--serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert server.stdin is not None
        assert server.stdout is not None
        try:
            found = measure(folder, f"http://127.0.0.1:{int(server.stdout.readline())}")
            server.stdin.close()
            seen = json.loads(server.stdout.readline())
        finally:
            server.kill()
            server.wait()
    text = table(found, seen, load, arguments.note)
    print(text)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
