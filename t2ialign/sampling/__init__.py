"""Sampling: guidance, and steps between noise and images."""
