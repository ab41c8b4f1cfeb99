"""What commands import, once, in the process that they are forked from; nothing is computed here."""

# ruff: noqa: F401
import gc

import diffusers.pipelines.stable_diffusion
import diffusers.pipelines.stable_diffusion_xl
import peft
import torch
import torch.distributed.fsdp
import transformers.models.clip

import t2ialign.backbones.stable_diffusion
import t2ialign.cli.main
import t2ialign.training.train
import unigenbench.cli.main

torch.set_num_threads(1)
gc.freeze()  # what the collector does not walk is not copied either
