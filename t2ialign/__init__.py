"""Align text-to-image diffusion models with preferences, and measure that it worked."""

__version__ = "0.1.0"
