"""The arithmetic, pure JAX: (kernel, posterior, rows) -> draws."""

from aimz.forward.blocks import Cut
from aimz.forward.joint import CODES, TILE, WEIGHTS, Joint, World
from aimz.forward.predictive import Block, Pass, Program, over_draws
from aimz.forward.programs import Programs, Step

__all__ = [
    "CODES",
    "TILE",
    "WEIGHTS",
    "Block",
    "Cut",
    "Joint",
    "Pass",
    "Program",
    "Programs",
    "Step",
    "World",
    "over_draws",
]
