"""The arithmetic, pure JAX: (kernel, posterior, rows) -> draws."""

from aimz.forward.blocks import Cut
from aimz.forward.predictive import Block, Pass, Program
from aimz.forward.programs import Programs, Step

__all__ = ["Block", "Cut", "Pass", "Program", "Programs", "Step"]
