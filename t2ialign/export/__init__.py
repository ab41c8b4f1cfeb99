"""Models for plain diffusers: a folder with everything, this package not among it."""
