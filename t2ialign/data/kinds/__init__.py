"""Kinds of data: what a row is."""
