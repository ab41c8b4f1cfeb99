"""Preference data from rewards: scores, pairs, labels anew, prompts that do not fit."""
