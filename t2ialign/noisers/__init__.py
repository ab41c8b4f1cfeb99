"""Noisers: how a noisy latent x_t is reached from a clean one."""
