"""The arithmetic, pure JAX: (kernel, posterior, rows) -> draws."""

from aimz.forward.compilation import CompiledPrograms, TracedStep
from aimz.forward.joint_scenarios import TILE, InputKey, JointPass, ScenarioGroup
from aimz.forward.predictive import CompiledProgram, PassSpec, RowBlock, RowGroups, over_draws
from aimz.forward.row_blocks import StreamAxis

__all__ = [
    "TILE",
    "CompiledProgram",
    "CompiledPrograms",
    "InputKey",
    "JointPass",
    "PassSpec",
    "RowBlock",
    "RowGroups",
    "ScenarioGroup",
    "StreamAxis",
    "TracedStep",
    "over_draws",
]
