"""Compiled passes of a kernel: (posterior draws, rows) -> predictive draws or log densities."""

from aimz.forward.causality import changed_by_later_steps
from aimz.forward.compilation import CompiledPrograms, TracedStep
from aimz.forward.derivatives import Derivative, Lever
from aimz.forward.history import FITTED, History
from aimz.forward.joint_scenarios import InputKey, JointPass, ScenarioGroup, tile_rows
from aimz.forward.pass_spec import DENSITY, EFFECT, IMPOSSIBLE, OBSERVED_VALUE, PassSpec, World
from aimz.forward.predictive import CompiledProgram, RowBlock, RowGroups, map_over_draws
from aimz.forward.row_blocks import StreamAxis

__all__ = [
    "DENSITY",
    "EFFECT",
    "FITTED",
    "IMPOSSIBLE",
    "OBSERVED_VALUE",
    "CompiledProgram",
    "CompiledPrograms",
    "Derivative",
    "History",
    "InputKey",
    "JointPass",
    "Lever",
    "PassSpec",
    "RowBlock",
    "RowGroups",
    "ScenarioGroup",
    "StreamAxis",
    "TracedStep",
    "World",
    "changed_by_later_steps",
    "map_over_draws",
    "tile_rows",
]
