"""A kernel with its structure and its compiled programs: checks and prepares every call."""

__all__ = ["KernelEngine"]

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import numpy as np

from aimz.data import (
    Categories,
    KernelArguments,
    KernelParameters,
    axis_labels,
    categories_of,
    check_axes,
    check_input,
    check_row_shape,
    is_array,
    open_table,
    read_call,
)
from aimz.engine.category_arguments import check_used, encode_lists, read_groups, with_counts
from aimz.engine.index_checks import check_call_indices, check_indices
from aimz.engine.known_steps import KnownSteps, read_known_steps
from aimz.engine.options import METHOD_PARAMETERS, RESERVED_PARAMETERS
from aimz.engine.output_checks import as_integers, check_observed, check_values
from aimz.engine.prepared_call import PredictionSettings, PreparedCall, call_attrs
from aimz.engine.site_checks import check_factors, read_names
from aimz.engine.value_reader import ValueReader
from aimz.engine.warnings import check_control_flow
from aimz.errors import KernelValidationError
from aimz.forward import CompiledPrograms, PassSpec
from aimz.kernel import (
    AbstractCall,
    InputColumns,
    KernelReader,
    KernelSignature,
    KernelSpec,
    ResolvedIntervention,
    Scored,
    Substitution,
    ValueSource,
    check_conditioned,
    read_kernel,
    read_signature,
    substitute,
)
from aimz.persistence import is_plain
from aimz.statistics import has_missing, with_nan
from aimz.types import Kernel


class KernelEngine:
    """A kernel with its structure, its compiled programs and the columns of the last fit."""

    def __init__(self, kernel: Kernel, signature: KernelSignature) -> None:
        self.kernel = kernel
        self.signature = signature
        self.reader = KernelReader(kernel, signature)
        self.programs = CompiledPrograms(kernel)
        self.parameters = KernelParameters(
            signature.param_input, signature.param_output, signature.extra, leaves_text=True
        )
        """Parameters of the kernel, with the columns, axes and categories of the last fit."""
        self.columns: InputColumns | None = None
        """Columns of the input of the last fit, and the axes of sites along them."""
        self.example: AbstractCall | None = None
        """Abstract arguments of the last fit, or of the first call; a loaded kernel is traced with them."""
        self.row_shape: tuple[int, ...] | None = None
        """Shape of one row of the input of the last fit; None before a fit."""
        self.whole: frozenset[str] = frozenset()
        """Arguments that are arrays without a row axis."""
        self.declared: Mapping[str, Categories] = {}
        """Categories of arguments that ``coords`` of the model declares."""
        self.groups: Mapping[str, InputColumns] = {}
        """Categories of the last fit, and the axes of sites along them, by argument."""

    @staticmethod
    def of(kernel: Kernel, param_input: str, param_output: str) -> "KernelEngine":
        """Return the engine of a kernel whose signature has been checked."""
        signature = read_signature(kernel, param_input, param_output, RESERVED_PARAMETERS, METHOD_PARAMETERS)
        return KernelEngine(kernel, signature)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state to pickle, without compiled programs."""
        return {key: value for key, value in self.__dict__.items() if key != "programs"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Start without compiled programs."""
        KernelEngine.__init__(self, state["kernel"], state["signature"])
        self.__dict__ |= state

    def read_call(
        self, X: Any, extra: Mapping[str, Any], *, in_parts: bool = False, index: Any = None, **output: Any
    ) -> KernelArguments:
        """Check the arguments of a call; ``output=y`` if the method takes the output.

        Arguments that are not passed may be columns of ``X``.  ``index`` labels the rows of an ``X`` without an index.
        """
        names, matched = (self.signature.param_input, self.signature.param_output), self.parameters.aligned
        self.signature.check_names(extra)
        check_input(X, names[0])
        X, extra = matched(names[0], X), {name: matched(name, value) for name, value in extra.items()}
        output = {name: matched(names[1], value) for name, value in output.items()}
        given = {name for name, value in output.items() if value is not None}
        table = open_table(X, names[0])
        fields = {names[0]: X}
        if table is not None:
            leave = {*extra, *(() if output and not given else names[1:])}
            fields, index = self.parameters.fields(table, leave=frozenset(leave)), table.index
        extra = {**{name: array for name, array in fields.items() if name not in names}, **extra}
        n_obs = np.shape(fields[names[0]])[:1] if is_array(fields[names[0]]) else ()
        static = self.example.static if self.example else ()
        extra = encode_lists(extra, self.parameters, n_obs, static)
        extra = with_counts(extra, categories_of(extra), self.signature)
        self.signature.check_call(extra)
        required = {names[0]: fields[names[0]]}
        if output:
            required[names[1]] = output["output"] if given else fields.get(names[1])
        as_given = {**required, **extra, **({names[0]: X} if table is not None and axis_labels(X) else {})}
        axes = check_axes(as_given, self.whole)
        read = partial(
            read_call,
            required,
            extra,
            in_parts=in_parts,
            known=self.parameters.known,
            index=index,
            by_row=self.reader.spec.arguments_by_row if self.reader.spec else (),
            unchanged=static,
        )
        lengths = {name: np.shape(value)[0] for name, value in extra.items() if is_array(value) and np.ndim(value)}
        misfits = {name for name, length in lengths.items() if name not in self.whole and n_obs not in ((), (length,))}
        if misfits and self._accepts_whole(misfits, read(whole=self.whole | misfits)):
            self.whole |= misfits
            axes = check_axes(as_given, self.whole)
        call = replace(read(whole=self.whole), axes=axes)
        check_row_shape(names[0], call.arrays[names[0]].shape[1:], self.row_shape)
        check_used(call, self.reader)
        return as_integers(call, names[1], self.read_spec) if output else call

    def _accepts_whole(self, names: set[str], call: KernelArguments) -> bool:
        """Return whether the kernel accepts these arguments unchanged at two numbers of rows.

        An argument that had rows in another call keeps this meaning, since its length is then a mistake.
        """
        if self.reader.spec is not None and names & self.reader.spec.arguments_by_row:
            return False
        try:
            return not read_kernel(self.kernel, self.signature, call.arrays, call.static).fixed_size
        except Exception:  # noqa: BLE001, RUF100 (a kernel may raise anything)
            return False

    def copy(self) -> "KernelEngine":
        """Return a copy that shares the structure of the kernel and the compiled programs."""
        engine = object.__new__(KernelEngine)
        vars(engine).update(vars(self))
        return engine

    def for_fit(self, *, restart: bool) -> "KernelEngine":
        """Return a copy for a further fit; only a fit that restarts may have other columns than the last one."""
        engine = self.copy()
        if restart:
            engine.columns, engine.groups, engine.row_shape, engine.whole = None, {}, None, frozenset()
            engine.parameters = replace(
                self.parameters, known={}, axes={}, outcome=None, categories=self.declared, leaves_text=True
            )
        engine.parameters = replace(engine.parameters, grows=False)
        return engine

    def remember_fit_data(self, call: KernelArguments) -> None:
        """Record the abstract arguments and the columns of a fit."""
        self.example = AbstractCall.of(call.arrays, call.static, self.read_spec(call), is_plain)
        self.row_shape = tuple(call.arrays[self.signature.param_input].shape[1:])
        fitted = self.parameters
        self.parameters = replace(
            fitted,
            known={**call.tables, **fitted.known},
            axes={**call.axes, **fitted.axes},
            categories={**fitted.categories, **call.categories},
            grows=True,
        )
        self.columns = self.read_columns(call)
        self.groups = {**self.groups, **read_groups(call, self.reader)}

    def read_columns(self, call: KernelArguments) -> InputColumns | None:
        """Return the columns of the input and the axes of sites along them, from the call or else from the fit."""
        return self.reader.columns(call.columns, call.arrays, call.static) if call.columns else self.columns

    def read_spec(self, call: KernelArguments) -> KernelSpec:
        """Return the structure of the kernel for these arguments."""
        spec = self.reader.read(call.arrays, call.static)
        if self.example is None:
            self.example = AbstractCall.of(call.arrays, call.static, spec, is_plain)
        return spec

    def read_fit(self, call: KernelArguments) -> KernelSpec:
        """Return the structure of the kernel with data, checked to be one that can be fitted.

        Raises
        ------
        KernelValidationError
            If the output's data do not enter the joint density, or are observed at a site of another name.
        """
        spec = self.read_spec(call)
        check_observed(spec, self.signature.kernel)
        return spec

    def check_data(self, call: KernelArguments, spec: KernelSpec, first_row: int | None = None) -> None:
        """Check the data of a fit, or a batch from row ``first_row`` on, also arguments that are read lazily.

        Raises
        ------
        ValueError
            If an index is outside of its table, or a value of the output is outside of its support.
        """
        plan = PassSpec(
            n_obs=call.n_obs, n_draws=1, static=call.static, row_plates=spec.row_plates, row_axes=spec.row_axes
        )
        check_indices(self.programs, plan, call, first_row=first_row, read_lazy=True)
        self.check_output(call, spec, first_row)

    def check_output(
        self, call: KernelArguments, spec: KernelSpec, first_row: int | None = None, *, allow_nan: bool = False
    ) -> None:
        """Raise if a value of the output is outside of the support of its distribution."""
        plan = PassSpec(n_obs=call.n_obs, n_draws=1, static=call.static, row_plates=spec.row_plates)

        def valid(site: str) -> np.ndarray:
            return self.programs.within_support(
                site, plan, {name: np.asarray(rows) for name, rows in call.arrays.items()}
            )

        check_values(call, spec, valid, first_row, allow_nan=allow_nan)

    def read_scored(self, call: KernelArguments, *, one_by_one: bool = False) -> str:
        """Return the site that scores the output's data; ``one_by_one`` if each observation needs a density.

        Raises
        ------
        KernelValidationError
            If the output is not an observed ``sample`` site, or all observations have one joint density.
        """
        spec = self.read_fit(call)
        output = spec.param_output
        for name in (output, f"{output}_observed"):
            if name not in spec or output not in spec[name].data:
                continue
            if one_by_one and spec[name].event_dim == len(spec[name].traced_shape):
                msg = (
                    "`loo` needs a density for each observation; this kernel has one for all of them together. Write "
                    "the output as independent observations, given latent ones if need be."
                )
                raise KernelValidationError(msg)
            check_factors(spec, spec[name], one_by_one=one_by_one)
            return name
        msg = (
            f"Kernel `{self.signature.kernel}` scores `{output}` by a factor, which has no density for each "
            f"observation. Write `numpyro.sample('{output}', ..., obs={output})`."
        )
        raise KernelValidationError(msg)

    def read_latents(self, spec: KernelSpec | None, return_sites: str | Iterable[str] | None) -> tuple[str, ...] | None:
        """Return the names of the latent sites to return; None for all."""
        known = () if spec is None else spec.latent_sites
        return read_names(return_sites, known, "latent sites") if return_sites is not None else known or None

    def read_return_sites(self, spec: KernelSpec, return_sites: str | Iterable[str] | None) -> tuple[str, ...]:
        """Return the names of the sites to return.

        Raises
        ------
        ValueError
            If a name is unknown; the known ones are listed.
        """
        if return_sites is None:
            if not spec.return_sites:
                msg = (
                    f"Kernel `{self.signature.kernel}` has no site `{spec.param_output}` and no deterministic "
                    "site, so there is nothing to return. Add one, or name latent sites in `return_sites`."
                )
                raise KernelValidationError(msg)
            return spec.return_sites
        return read_names(return_sites, spec.sample_sites + spec.deterministic_sites, "sites")

    def prepare(self, call: KernelArguments, settings: PredictionSettings) -> PreparedCall:
        """Check a call and decide where the value of each site comes from."""
        spec = self.read_spec(call)
        return_sites = self.read_return_sites(spec, settings.return_sites)
        categories = {**self.parameters.categories, **call.categories}
        parameters = replace(self.parameters, categories=categories, grows=False)  # a call cannot extend them
        reader = ValueReader(self.kernel, self.signature, parameters)
        acts = reader.intervention(settings, spec, call)
        call = replace(call, arrays={**call.arrays, **acts.arrays}, static={**call.static, **acts.static})
        spec = self.read_spec(call) if acts.static else spec  # a plain number may change the sites
        posterior = settings.posterior
        conditioned, first = reader.condition(settings, spec, call, acts)
        draws = {} if posterior is None else posterior.draws
        known_steps = read_known_steps(self.reader, spec, call, settings.fitted_steps, draws, first, acts)
        substitution = self._sources(spec, settings, acts, known_steps, frozenset(conditioned))
        check_control_flow(spec, substitution)
        check_conditioned(spec, substitution, {**conditioned, **first})
        outcomes = substitution.outcomes(spec, return_sites)
        known = {name for name, site in outcomes.items() if site.has_mean and settings.kind == "expected"}
        expected = frozenset(known.difference(settings.shared.transformed, acts.transforms))
        drawn = [name for name in outcomes if name not in expected]
        by_source = substitution.by_source
        grown = {} if posterior is None else substitution.new_entries(spec, posterior.shapes)
        plan = PassSpec(
            n_obs=call.n_obs,
            n_draws=settings.n_draws,
            static=call.static,
            return_sites=return_sites,
            transforms=acts.transforms,
            unobserve=frozenset((*by_source[ValueSource.RESAMPLED_DOWNSTREAM], *by_source[ValueSource.ABDUCTED])),
            row_plates=spec.row_plates,
            factors=spec.row_factors if settings.scored else (),
            marks_unseen=settings.scored is Scored.ALL,
            expected=expected,
            summed={name: spec[name].n_values or 0 for name in by_source[ValueSource.SUMMED]},
            row_axes={**spec.row_axes, **acts.row_axes, **known_steps.row_axes},
            drawn=tuple(acts.drawn),
            grown=frozenset(grown),
            discrete_sources=substitution.discrete_sources(spec, return_sites),
            history=known_steps.history,
        )
        values = {name: settings.params[name] for name in by_source[ValueSource.FITTED]}
        values |= {**acts.values, **conditioned}
        check_call_indices(self.programs, plan, call, values, acts)
        return PreparedCall(
            settings=replace(settings, return_sites=return_sites),
            spec=spec,
            call=call,
            substitution=substitution,
            plan=plan,
            draws={**{n: draws[n] for n in substitution.from_posterior}, **acts.draws, **known_steps.draws},
            values={**{n: value for n, value in values.items() if n not in acts.draws}, **known_steps.values},
            attrs=call_attrs(substitution, settings, grown, drawn),
            columns=self.read_columns(call),
            groups={**self.groups, **read_groups(call, self.reader)},
            new_entries=grown,
            acts=acts,
        )

    def _sources(
        self,
        spec: KernelSpec,
        settings: PredictionSettings,
        acts: ResolvedIntervention,
        steps: KnownSteps,
        conditioned: frozenset[str],
    ) -> Substitution:
        """Return the source of the value of each site."""
        known, posterior = self.reader.spec or spec, settings.posterior
        return substitute(
            spec,
            posterior=None if posterior is None else posterior.shapes,
            fitted=settings.params,
            observed=known.observed_sites,
            fitted_rows=settings.in_sample,
            other_rows=settings.resampled_latents(spec, known),
            intervened=acts.set_sites,
            conditioned=conditioned,
            continued=steps.continued - acts.set_sites,
            downstream=(acts.downstream | settings.shared.downstream) - acts.set_sites,
            scored=settings.scored,
            with_output=settings.with_output,
        )

    def run(self, kind: str, prepared: PreparedCall, key: jax.Array) -> dict[str, Any]:
        """Compute a prepared call in one pass; ``kind`` is "predictive" or "log_density"."""
        found: dict[str, Any] = self.programs.run(
            kind, prepared.plan, key, prepared.draws, prepared.values, prepared.call.arrays
        )
        for name in prepared.plan.discrete_sources.keys() & found.keys():
            if has_missing(np.asarray(found[name])):
                found[name] = with_nan(np.asarray(found[name]))
        return found
