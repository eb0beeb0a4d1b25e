"""Averages over rows under several scenarios, computed in one pass and summed as rows are streamed."""

__all__ = ["sum_over_rows"]

import aimz
from aimz.data import fingerprint
from aimz.distributed import check_same_call, choose_executor, process_group
from aimz.engine import KernelEngine, OutputSpec, PredictionRequest, RunOptions, StepRunner, fingerprint_of
from aimz.forward import IMPOSSIBLE, JointPass
from aimz.methods.execution import progress_title
from aimz.methods.results import ScenarioSums


def sum_over_rows(engine: KernelEngine, request: PredictionRequest, runner: StepRunner) -> ScenarioSums:
    """Compute the sums of each site over the rows of each group, under each scenario, draw by draw."""
    plan, joint, groups = runner.plan, runner.spec.passes, request.groups
    assert groups is not None
    assert isinstance(joint, JointPass)
    assert joint.width is not None
    sites = [name for name in joint.return_sites if name != IMPOSSIBLE]
    store = aimz.store.SumAccumulator(
        n_draws=plan.n_draws,
        n_scenarios=joint.n_scenarios,
        n_cells=groups.n_cells,
        tile=joint.tile,
        codes=groups.codes,
        width=joint.width,
        by_draws=plan.axis == "draw",
        same=set(sites) - joint.row_axes.keys(),
    )
    output = OutputSpec({name: name for name in sites}, dict.fromkeys(sites, 0))
    if not process_group.is_single_process:
        check_same_call(_identity(request, runner), request)
    options = RunOptions(progress=progress_title(request))
    length = choose_executor(engine, request, runner, output).run(store, options)
    return ScenarioSums(
        sums={name: store.read(name) for name in sites},
        with_rows=frozenset(joint.row_axes) - {IMPOSSIBLE},
        n_obs=length if plan.axis == "obs" else request.first.call.n_obs,
        row_block=plan.block or 0,
    )


def _identity(request: PredictionRequest, runner: StepRunner) -> dict[str, str]:
    """Return what several processes compare before they compute a comparison together."""
    groups = request.groups
    found = fingerprint_of(
        [(f" ({name})", prepared) for name, prepared in request.scenarios.items()],
        runner.plan,
        runner.step,
        method=request.method,
        group="",
        key=request.key_text,
    )
    found["derivative"] = repr(request.derivative)
    found["names of scenarios"] = ", ".join(map(str, request.scenarios))
    if groups is not None:
        found["`by` and `weights`"] = fingerprint(a for a in (groups.codes, groups.weights) if a is not None)
    return found
