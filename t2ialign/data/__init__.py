"""Data: what an example is, where it comes from, in which order it is seen, and its cached encoding."""
