"""Backbones: one pretrained model family each, nothing else."""
