"""Rewards: numbers that say how good an image is for its prompt."""
