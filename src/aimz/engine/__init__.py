"""Plans and executes one call."""

from aimz.engine.fingerprint import fingerprint_of, versions
from aimz.engine.inputs import Given, check_order, read_given
from aimz.engine.joint_request import ScenarioRequest, group_by_structure, joint_of
from aimz.engine.kernel_engine import KernelEngine, PreparedCall, SharedResampling
from aimz.engine.options import StreamingOptions, read_streaming
from aimz.engine.outputs import OutputSpec, missing_steps
from aimz.engine.planning import (
    block_of,
    blocks_per_device,
    check_row_split,
    local_mesh,
    n_chains,
    n_devices,
    plan_by_draws,
    plan_by_rows,
    plan_step_by_draws,
    probe_first_step,
    shapes_of,
)
from aimz.engine.request import Asked, Order
from aimz.engine.result_directory import ResultDirectory, noted_before
from aimz.engine.row_digests import RowDigests, digests_for
from aimz.engine.row_groups import read_groups_of
from aimz.engine.runner import InputLayout, RowFeed, StepRunner, StepSpec
from aimz.engine.scenarios import (
    Scenario,
    check_alike,
    check_columns,
    check_inputs,
    check_same_sites,
    check_sites,
    open_sources,
    read_pair,
    read_requests,
    read_scenario,
    share_labels,
    share_rows,
)

__all__ = [
    "Asked",
    "Given",
    "InputLayout",
    "KernelEngine",
    "Order",
    "OutputSpec",
    "PreparedCall",
    "ResultDirectory",
    "RowDigests",
    "RowFeed",
    "Scenario",
    "ScenarioRequest",
    "SharedResampling",
    "StepRunner",
    "StepSpec",
    "StreamingOptions",
    "block_of",
    "blocks_per_device",
    "check_alike",
    "check_columns",
    "check_inputs",
    "check_order",
    "check_row_split",
    "check_same_sites",
    "check_sites",
    "digests_for",
    "fingerprint_of",
    "group_by_structure",
    "joint_of",
    "local_mesh",
    "missing_steps",
    "n_chains",
    "n_devices",
    "noted_before",
    "open_sources",
    "plan_by_draws",
    "plan_by_rows",
    "plan_step_by_draws",
    "probe_first_step",
    "read_given",
    "read_groups_of",
    "read_pair",
    "read_requests",
    "read_scenario",
    "read_streaming",
    "shapes_of",
    "share_labels",
    "share_rows",
    "versions",
]
