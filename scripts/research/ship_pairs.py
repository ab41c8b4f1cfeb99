"""Rebuilds a pair set that is shipped, so that the demo spends its minutes on training and measuring.

python scripts/research/ship_pairs.py --model shapes-sd
python scripts/research/ship_pairs.py --model shapes-sdxl --pair-prompts 400

Makes the demo's own pairs with its own settings and packs them, images inside, into assets/pairs/MODEL/. The demo takes
them as long as weights and settings are the same, and makes its own otherwise.
"""

import argparse
from pathlib import Path

from t2ialign.demo.pair_set import make_pairs, pack_pairs
from t2ialign.demo.settings import Settings, pair_settings
from t2ialign.generation.worker import WorkerProcess
from t2ialign.storage.resources import shipped

LARGEST = 8_000_000
"""Bytes that a shipped set may have."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="shapes-sd", help="folder in assets/")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pair-prompts", type=int, default=Settings.pair_prompts)
    parser.add_argument("--runs", type=Path, default=Path("runs/pairs"))
    parser.add_argument("--assets", type=Path, default=Path("assets"))
    options = parser.parse_args()
    settings = Settings(seed=options.seed, pair_prompts=options.pair_prompts)
    model = shipped(f"assets/{options.model}")
    with WorkerProcess() as worker:
        built = make_pairs(options.runs / options.model / "pairs", settings, model, worker, threads=1)
    table = pack_pairs(built, options.assets / "pairs" / options.model, model, pair_settings(settings))
    size = table.stat().st_size
    print(f"{built.totals['pairs']} pairs, {size:,} bytes, in {table}")
    if size > LARGEST:
        raise SystemExit(f"{table}: {size:,} bytes; at most {LARGEST:,} are shipped. Lower Settings.pair_prompts")


if __name__ == "__main__":
    main()
