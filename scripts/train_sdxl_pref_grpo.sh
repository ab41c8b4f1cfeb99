#!/usr/bin/env bash
# Train SDXL online by Pref-GRPO: it draws your prompts, a judge compares its images, and it learns from the win rates.
# Copy this file and change the four lines below.
#
#   PROMPTS  a text file, one prompt a line
#   REWARD   what judges: any name of `t2ialign reward list`, or your own, as my_rewards.py:judge (docs/rewards.md).
#            The default asks a vision-language model on a server that you start beforehand, for example by
#            vllm serve CodeGoat24/UnifiedReward-Think-qwen3vl-8b --limit-mm-per-prompt '{"image": 2}' --port 8000
#   MODEL    a diffusers folder, a single .safetensors file, or a hub id
#   RUN      folder of everything the run makes; the same command goes on after a stop
#
# Anything else is a key of the config: scripts/train_sdxl_pref_grpo.sh train.steps=200 rollout.prompts=16
# Several GPUs: LAUNCH="accelerate launch --multi_gpu -m t2ialign" scripts/train_sdxl_pref_grpo.sh
set -euo pipefail

PROMPTS=${PROMPTS:-data/prompts.txt}
REWARD=${REWARD:-"vlm.prefers,model=CodeGoat24/UnifiedReward-Think-qwen3vl-8b,url=http://127.0.0.1:8000,format=think"}
MODEL=${MODEL:-stabilityai/stable-diffusion-xl-base-1.0}
RUN=${RUN:-runs/sdxl_pref_grpo}
CONFIG=${CONFIG:-configs/pref_grpo_sdxl.yaml}
LAUNCH=${LAUNCH:-t2ialign}

$LAUNCH train "$CONFIG" "backbone.pretrained=$MODEL" "data.path=$PROMPTS" "rewards=['$REWARD']" "run_dir=$RUN" "$@"
t2ialign report "$RUN"
echo "LoRA: $RUN/lora/pytorch_lora_weights.safetensors"
echo "try it: t2ialign generate --model $MODEL --lora $RUN --prompt 'a red fox in snow' --out $RUN/try"
