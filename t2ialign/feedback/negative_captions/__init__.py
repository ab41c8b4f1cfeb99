"""Prompts that do not fit an image: for TDPO and TKTO (TPO, arXiv:2509.25771), by rules or by a language model."""
