"""Shapes: a small world whose pictures and captions can be checked exactly; see docs/shapes.md."""
