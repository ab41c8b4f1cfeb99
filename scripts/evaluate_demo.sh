#!/usr/bin/env bash
# The demo's two models on the Shapes suite of unigenbench: generate, judge, compare, report. What `make demo` ends with.
# A checkpoint of your own is evaluated the same way; see docs/unigenbench-judging.md.
#   scripts/evaluate_demo.sh [demo folder] [model] [guidance]
set -euo pipefail
demo=${1:-runs/demo} model=${2:-assets/shapes-sd} guidance=${3:-1.5}
out=$demo/unigenbench each=2 # images a prompt
export PATH="$(dirname "$0")/../.venv/bin:$PATH"

draw() { t2ialign generate --model "$model" --prompts shapes --seed 1 --guidance "$guidance" --steps 10 --batch 50 --images-per-prompt "$each" "$@"; }
draw --out "$out/images/base" &
draw --out "$out/images/aligned" --lora "$demo/training"
wait $!

for name in base aligned; do
  unigenbench judge --data shapes --images "$out/images/$name" --images-per-prompt "$each" --judge shapes --run "$out/$name"
done
unigenbench compare "$out/base" "$out/aligned"
unigenbench report "$out/base" "$out/aligned" --out "$out/report.html" --embed-images
