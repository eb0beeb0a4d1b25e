"""Executes a planned call: opens the store, computes missing ranges, completes the result, and returns its tree."""

__all__ = ["Execution", "output_of"]

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

import aimz
from aimz.distributed import check_same_call, process_group, share_location
from aimz.engine import (
    CallLocation,
    Executor,
    OutputSpec,
    PredictionRequest,
    PreparedCall,
    ResultDirectory,
    RunOptions,
    StepRunner,
    fingerprint_of,
    known_digests,
    output_shapes,
    output_variables,
    record_support,
)
from aimz.forward import EFFECT
from aimz.methods.results import ResultBuilder
from aimz.statistics import Reduction, with_nan

if TYPE_CHECKING:
    import xarray as xr

    from aimz.output import GroupTemplate
    from aimz.store import ResultStore, TemporaryDirectory, Variable

_SPILLED_BYTES = 2**25
"""Bytes of draws that are reduced to statistics together."""


@dataclass(frozen=True)
class Execution:
    """A planned call and its executor."""

    results: ResultBuilder
    request: PredictionRequest
    runner: StepRunner
    executor: Executor

    @cached_property
    def prepared(self) -> PreparedCall:
        """The prediction that the result describes; of an effect, the intervention."""
        prepared = self.request.last
        if len(self.request.scenarios) == 1:
            return prepared
        about = {"contrast": "intervention - baseline", "baseline": self.request.first.attrs["intervention"]}
        return replace(prepared, attrs={**prepared.attrs, **about})

    def run(self, auxiliary: "Mapping[str, xr.Dataset]", home: "TemporaryDirectory | None") -> "xr.DataTree":
        """Compute the missing ranges, complete the result and return its tree.

        ``auxiliary`` are the groups next to the streamed one; ``home`` is the temporary directory, for a call without
        ``output_dir``.
        """
        request, options, plan = self.request, self.request.options, self.runner.plan
        began, several = {}, not process_group.is_single_process
        if several:
            began["created_at"] = check_same_call(self._identity(), request)
        frames = self._frames(self.prepared, **began)
        prefixes = {group: EFFECT if group == EFFECT[:-1] else "" for group in frames}
        dims = {prefixes[group] + name: axes for group, frame in frames.items() for name, axes in frame.dims.items()}
        variables = self._variables(dims, options.statistics)
        directory: ResultDirectory | None = None
        where: CallLocation | None = None
        store: ResultStore | None = None
        if options.store == "memory":
            store = aimz.store.InMemoryStore()
        else:
            if not several or process_group.is_coordinator:
                directory = self._directory(home)
                where, store = directory.where, directory.store
            if several:
                where = share_location(where)
            if where is not None and options.output_dir is not None:
                request.resumable.append(str(where.location))
        if options.resume is None or not options.resume.complete:
            self._fill(store, directory, where, variables, frames, auxiliary)
            if several:
                process_group.allgather("completeness of the result")  # which each process waits for
        elif self.runner.feed.digests is not None and (request.source.reader is not None or options.resume.rows):
            record = None if directory is None else directory.restore
            self.executor.run(store, RunOptions(record=record, verify_only=True))
            if directory is not None:
                directory.check_same_rows(options.resume.rows)
        stored: Any = store
        if store is None:
            assert where is not None
            stored = aimz.store.ChunkWriter(where.location, request.group, variables)
        arrays = {name: stored.read(name) for name in variables}
        if plan.length is None:
            name, axis = next((n, v.axis or 0) for n, v in variables.items() if v.axis is not None)
            call = replace(self.prepared.call, n_obs=arrays[name].shape[axis])
            created_at = frames[request.group].attrs["created_at"]
            frames = self._frames(replace(self.prepared, call=call), created_at=created_at)
        attrs = {} if where is None else where.attrs
        groups = {name: dataset.assign_attrs(attrs) if attrs else dataset for name, dataset in auxiliary.items()}
        for group, frame in frames.items():
            groups[group] = frame.filled({name: arrays[prefixes[group] + name] for name in frame.dims}, **attrs)
        return aimz.output.make_tree(groups, **({} if where is None else where.root_attrs))

    def _frames(self, prepared: PreparedCall, **attrs: Any) -> "dict[str, GroupTemplate]":
        """Return the groups of the result without their arrays: its own, and the effects of a counterfactual."""
        plan, request = self.runner.plan, self.request
        shapes: dict[str, dict[str, tuple[int, ...]]] = {request.group: {}}
        for site, (shape, _) in output_shapes(self.runner.step, prepared, prepared.call.n_obs).items():
            is_effect = site.startswith(EFFECT)
            group, name = (EFFECT[:-1], site[len(EFFECT) :]) if is_effect else (request.group, request.names[site])
            shapes.setdefault(group, {})[name] = (plan.n_draws, *shape)
        return {
            group: self.results.frame(
                prepared,
                own,
                key=request.key_text,
                row_block=plan.block or 0,
                statistics=request.options.statistics,
                **attrs,
            )
            for group, own in shapes.items()
        }

    def _variables(self, dims: Mapping[str, tuple[str, ...]], statistics: Reduction | None) -> "dict[str, Variable]":
        """Return shape, dtype and chunks of the arrays of the result."""
        runner = self.runner
        return output_variables(self.prepared, self.request.names, runner.plan, runner.step, dims, statistics)

    def _fingerprint(self, device: str | None, before: Mapping[str, str]) -> dict[str, str]:
        """Return the identity of the call; ``before`` is that of the call to resume."""
        request, statistics = self.request, self.request.options.statistics
        scenarios = [("", self.prepared)]
        if len(request.scenarios) > 1:
            scenarios.append((" (baseline)", request.first))
        return fingerprint_of(
            scenarios,
            self.runner.plan,
            self.runner.step,
            method=request.method,
            group=request.group,
            key=request.key_text,
            statistics=() if statistics is None else statistics.labels,
            before=before,
            device=device,
        )

    def _identity(self) -> dict[str, str]:
        """Return what several processes compare before they compute a call together."""
        options = self.request.options
        resumed = None if options.resume is None else (str(options.resume.location), options.resume.complete)
        stored = {"store": options.store, "output_dir": str(options.output_dir), "resume": str(resumed)}
        return {**self._fingerprint(None, {}), **stored}

    def _directory(self, home: "TemporaryDirectory | None") -> ResultDirectory:
        """Return the directory of the call, created now or resumed."""
        options, request = self.request.options, self.request
        before = {} if options.resume is None else options.resume.journal.fingerprint
        fingerprint = {} if options.output_dir is None else self._fingerprint(self.executor.device, before)
        return ResultDirectory(options, request.method, request.group, fingerprint, home)

    def _fill(
        self,
        store: "ResultStore | None",
        directory: ResultDirectory | None,
        where: CallLocation | None,
        variables: "Mapping[str, Variable]",
        frames: "Mapping[str, GroupTemplate]",
        auxiliary: "Mapping[str, xr.Dataset]",
    ) -> None:
        """Compute the missing ranges and complete the result; ``store`` is None if another process writes it."""
        row_dim = self.results.row_dim(self.prepared) if self.runner.plan.length is None else None
        frame, attrs = frames[self.request.group], {} if where is None else where.attrs
        coords = {name: coord for name, coord in frame.packed_coords().items() if name != row_dim}
        labels = {
            name: other.filled({}).drop_vars(row_dim or (), errors="ignore")
            for name, other in frames.items()
            if name != self.request.group
        }
        try:
            if store is not None:
                store.open(aimz.store.Group(variables, coords, {**frame.attrs, **attrs}))
            if directory is not None:
                for name, dataset in {**auxiliary, **labels}.items():
                    directory.store.write_group(name, *aimz.output.as_group(dataset.assign_attrs(attrs)))
            if self.request.options.statistics is not None and self.runner.plan.axis == "draw":
                length = self._fill_from_draws(store, self.request.options.statistics)
            else:
                resume = self.request.options.resume
                options = RunOptions(
                    record=None if directory is None else directory.record,
                    resumed=None if resume is None else variables,
                    known=known_digests(None if resume is None else resume.journal, self.runner.feed.digests),
                    progress=progress_title(self.request),
                )
                length = self.executor.run(store, options)
                if directory is not None:
                    directory.check_end(length)
            self._record_support(store, frames)
            if store is not None:
                store.finish(length)
        except BaseException as error:
            if store is None:
                if where is not None:
                    error.add_note(where.location.resume_advice)
                raise
            better = store.fail(error)
            if directory is not None:
                directory.discard()
            if better is error:
                raise
            raise better from error

    def _record_support(self, store: "ResultStore | None", frames: "Mapping[str, GroupTemplate]") -> None:
        """Record the verdict on rows that were checked while they were computed."""
        if self.runner.support:
            record_support(self.request, self.runner.support)
            text = {"support": self.request.last.attrs["support"]}
            for attrs in (self.prepared.attrs, *(frame.attrs for frame in frames.values())):
                attrs.update(text)
            if store is not None:
                store.update_attrs(text)

    def _fill_from_draws(self, store: "ResultStore | None", statistics: Reduction) -> int:
        """Compute all draws into a temporary file, if draws are split, and write the statistics over them."""
        plan = self.runner.plan
        drawn = self._variables(dict.fromkeys(self.request.names.values(), ()), None)
        with aimz.store.TemporaryFileStore() as spill:
            spill.open(aimz.store.Group(drawn))
            length = self.executor.run(spill, RunOptions(progress=progress_title(self.request)))
            for name in drawn:
                draws = spill.read(name)
                flat, read = draws.reshape(plan.n_draws, -1), with_nan if drawn[name].may_be_missing else np.asarray
                # All draws of as many columns as fit in memory.
                wide = max(1, _SPILLED_BYTES // (plan.n_draws * draws.dtype.itemsize))
                parts = [
                    statistics(read(np.ascontiguousarray(flat[:, start : start + wide])))
                    for start in range(0, flat.shape[1], wide)
                ]
                if store is not None:
                    store.write(name, np.concatenate(parts, axis=1).reshape(-1, *draws.shape[2:]), 0)
        return length


def progress_title(request: PredictionRequest) -> str | None:
    """Return the title of the progress bar; None for no bar."""
    return request.method if request.options.progress and process_group.is_coordinator else None


def output_of(request: PredictionRequest, runner: StepRunner) -> OutputSpec:
    """Return how step outputs are named, joined and reduced."""
    names, row_axes, by_draws = request.names, request.last.plan.row_axes, runner.plan.axis == "draw"
    axes = {name: 0 if by_draws else 1 + row_axes.get(site, 0) for site, name in names.items()}
    missing = frozenset(request.last.plan.discrete_sources)
    return OutputSpec(names, axes, None if by_draws else request.options.statistics, missing)
