"""Samplers for the families of distributions that JAX draws by rejection."""

from aimz.samplers.families import draw

__all__ = ["draw"]
