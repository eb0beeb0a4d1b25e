"""The arithmetic, pure JAX: (kernel, posterior, rows) -> draws."""

from aimz.forward.compilation import CompiledPrograms, TracedStep
from aimz.forward.joint_scenarios import CODES, TILE, WEIGHTS, JointPass, ScenarioGroup
from aimz.forward.predictive import CompiledProgram, PassSpec, RowBlock, over_draws
from aimz.forward.row_blocks import StreamAxis

__all__ = [
    "CODES",
    "TILE",
    "WEIGHTS",
    "CompiledProgram",
    "CompiledPrograms",
    "JointPass",
    "PassSpec",
    "RowBlock",
    "ScenarioGroup",
    "StreamAxis",
    "TracedStep",
    "over_draws",
]
