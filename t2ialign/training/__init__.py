"""Training: preflight, core, loops."""
