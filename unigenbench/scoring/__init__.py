"""From verdicts to scores, intervals and comparisons."""
