"""Prompt files: reading, choosing, writing."""
