"""Evaluate text-to-image models test point by test point, with a multimodal judge."""
