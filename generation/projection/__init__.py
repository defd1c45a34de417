"""Projection: find the latents with which a generator reproduces given pictures."""
