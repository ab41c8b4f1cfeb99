#!/usr/bin/env bash
# Fine-tune SDXL on preference pairs of your own with Diffusion-DPO. Copy this file and change the three lines below.
#
#   PAIRS  a CSV (prompt,chosen,rejected: image paths relative to it), JSONL or Parquet file,
#          or a folder with w/ (winners), l/ (losers) and prompts.csv
#   MODEL  a diffusers folder, a single .safetensors file, or a hub id
#   RUN    folder of everything the run makes; the same command goes on after a stop
#
# Anything else is a key of the config: scripts/train_sdxl_dpo.sh train.steps=500 optim.lr=5e-6
# Several GPUs: LAUNCH="accelerate launch --multi_gpu -m t2ialign" scripts/train_sdxl_dpo.sh
set -euo pipefail

PAIRS=${PAIRS:-data/pairs}
MODEL=${MODEL:-stabilityai/stable-diffusion-xl-base-1.0}
RUN=${RUN:-runs/sdxl_dpo}
CONFIG=${CONFIG:-configs/dpo_sdxl.yaml}
LAUNCH=${LAUNCH:-t2ialign}

t2ialign data inspect "$PAIRS"
$LAUNCH train "$CONFIG" "backbone.pretrained=$MODEL" "data.path=$PAIRS" "run_dir=$RUN" "$@"
echo "LoRA: $RUN/lora/pytorch_lora_weights.safetensors"
echo "try it: t2ialign generate --model $MODEL --lora $RUN --prompt 'a red fox in snow' --out $RUN/try"
