"""Objectives: pure functions from a prediction to per-example losses."""
