"""Samplers for the families of distributions that JAX draws slowly, and quantiles of discrete families."""

from aimz.samplers.families import draw
from aimz.samplers.quantiles import has_quantile, quantile
from aimz.samplers.uniforms import Uniform

__all__ = ["Uniform", "draw", "has_quantile", "quantile"]
