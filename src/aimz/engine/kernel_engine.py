"""From a checked call to draws: the steps every predictive method shares."""

__all__ = ["KernelEngine", "PreparedCall", "SharedResampling"]

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from aimz.data import (
    KernelArguments,
    KernelParameters,
    Posterior,
    RowReader,
    check_aligned,
    check_array,
    open_table,
    read_call,
)
from aimz.engine.warnings import refuse_data_in_control_flow, warn_about
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
    read_intervention,
    substitute,
)
from aimz.persistence import is_plain
from aimz.types import Intervention, Kernel


@dataclass(frozen=True)
class PreparedCall:
    """A call that was checked and decided; nothing has been computed yet."""

    spec: KernelSpec
    call: KernelArguments
    """The arguments the kernel gets, interventions on them included."""
    changed: frozenset[str]
    """Arguments known not to be those of the fit."""
    posterior: Posterior | None
    """The posterior the call is made with; None for the prior."""
    in_sample: bool
    """Whether the rows are the fitted observations."""
    substitution: Substitution
    plan: PassSpec
    draws: Mapping[str, jax.Array]
    """Posterior draws that are substituted."""
    values: Mapping[str, Any]
    """Fitted parameters and interventions on sites."""
    attrs: Mapping[str, Any]
    """What the group of the result says about how it was made."""
    columns: InputColumns | None = None
    """Columns of the input, and the axes of sites along them."""

    @property
    def needs_key(self) -> bool:
        """Whether a site other than the output, which may be scored, is drawn."""
        drawn = self.substitution.sites_from(
            ValueSource.RESAMPLED_NEW_ROWS,
            ValueSource.PRIOR_MISSING,
            ValueSource.RESAMPLED_DOWNSTREAM,
            ValueSource.DRAWN,
        )
        output = self.spec.param_output
        return bool(set(drawn) - {output, f"{output}_observed"})


@dataclass(frozen=True)
class SharedResampling:
    """Sites that scenarios to be compared must all draw anew, since one of them does."""

    downstream: frozenset[str] = frozenset()
    other_rows: frozenset[str] = frozenset()

    @staticmethod
    def of(substitutions: Iterable[Substitution], recorded: frozenset[str]) -> "SharedResampling":
        """Return what any of ``substitutions`` draws anew, and ``recorded``, which a result says was."""
        down = [s.sites_from(ValueSource.RESAMPLED_DOWNSTREAM) for s in substitutions]
        rows = [s.sites_from(ValueSource.RESAMPLED_NEW_ROWS) for s in substitutions]
        return SharedResampling(recorded.union(*down), frozenset().union(*rows))


class KernelEngine:
    """A kernel, what is known of it, and its compiled programs."""

    def __init__(self, kernel: Kernel, signature: KernelSignature) -> None:
        self.kernel = kernel
        self.signature = signature
        self.reader = KernelReader(kernel, signature)
        self.programs = CompiledPrograms(kernel)
        self.tables: Mapping[str, tuple[str, ...]] = {}
        """Columns of arguments as the last fit saw them; those of later tables are matched with them by name."""
        self.columns: InputColumns | None = None
        """Those of the input, and what runs along them."""
        self.example: AbstractCall | None = None
        """The last fit's call of the kernel, or the first there was: what it is known by when it is loaded."""

    def __getstate__(self) -> dict[str, Any]:
        """Leave compiled programs out of a pickle; what was read of the kernel stays."""
        return {key: value for key, value in self.__dict__.items() if key != "programs"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Start with no compiled programs."""
        self.__dict__ |= state
        self.programs = CompiledPrograms(self.kernel)

    def read_call(
        self, X: Any, extra: Mapping[str, Any], *, in_parts: bool = False, index: Any = None, **output: Any
    ) -> KernelArguments:
        """Pass the arguments of a call through the doors; ``output=y`` where the method takes the output.

        What is not passed may be a column of ``X``; ``index`` labels its rows, if it does not do so itself.
        """
        names = self.signature.param_input, self.signature.param_output
        given = {name for name, value in output.items() if value is not None}
        table = open_table(X, names[0])
        fields = {names[0]: X}
        if table is not None:
            leave = {*extra, *(() if output and not given else names[1:])}
            fields, index = self.parameters.fields(table, leave=frozenset(leave)), table.index
        extra = {**{name: array for name, array in fields.items() if name not in names}, **extra}
        self.signature.check_call(extra)
        required = {names[0]: fields[names[0]]}
        if output:
            required[names[1]] = output["output"] if given else fields.get(names[1])
        return read_call(required, extra, in_parts=in_parts, known=self.tables, index=index)

    @property
    def parameters(self) -> KernelParameters:
        """The kernel's parameters, as columns of a table are matched with them."""
        signature = self.signature
        return KernelParameters(signature.param_input, signature.param_output, signature.extra, self.tables)

    @contextmanager
    def reading_fit(self, *, anew: bool) -> Iterator[None]:
        """Read the data of a fit: one that starts anew may have other columns than the last."""
        before = self.tables, self.columns
        if anew:
            self.tables, self.columns = {}, None
        try:
            yield
        except BaseException:
            self.tables, self.columns = before
            raise

    def learn(self, call: KernelArguments) -> None:
        """Remember what a fit was called with, its columns among it."""
        self.example = AbstractCall.of(call.arrays, call.static, self.read_spec(call), is_plain)
        self.tables = {**call.tables, **self.tables}
        self.columns = self.read_columns(call)

    def read_columns(self, call: KernelArguments) -> InputColumns | None:
        """Return the columns of the input and what runs along them: those of the call, else those of the fit."""
        return self.reader.columns(call.columns, call.arrays, call.static) if call.columns else self.columns

    def read_spec(self, call: KernelArguments) -> KernelSpec:
        """Return the structure of the kernel in this call."""
        spec = self.reader.read(call.arrays, call.static)
        if self.example is None:
            self.example = AbstractCall.of(call.arrays, call.static, spec, is_plain)
        return spec

    def read_fit(self, call: KernelArguments) -> KernelSpec:
        """Return the structure of the kernel with data, and refuse one that cannot be fitted.

        Raises
        ------
        KernelValidationError
            If the data of the output reach nothing in the joint density, or a site of another name.
        """
        spec = self.read_spec(call)
        output = spec.param_output
        if spec.output_observed:
            return spec
        elsewhere = [site.name for site in spec.sites if output in site.data]
        if elsewhere:
            msg = (
                f"The data of `{output}` are observed at site `{elsewhere[0]}`. Name that site `{output}`, or name "
                f"the parameter `{elsewhere[0]}` and set `param_output` to it."
            )
            raise KernelValidationError(msg)
        if spec.output_scored:
            return spec
        msg = (
            f"Kernel `{self.signature.kernel}` does not observe `{output}`: its data change nothing, so there is "
            f"nothing to fit. Write `numpyro.sample('{output}', ..., obs={output})`."
        )
        raise KernelValidationError(msg)

    def read_scored(self, call: KernelArguments, *, one_by_one: bool = False) -> str:
        """Return the site whose density is that of the output's data; ``one_by_one``, that of each observation.

        Raises
        ------
        KernelValidationError
            If the output is not an observed ``sample`` site, or all observations have one density together.
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
            return name
        msg = (
            f"Kernel `{self.signature.kernel}` scores `{output}` by a factor, which has no density for each "
            f"observation. Write `numpyro.sample('{output}', ..., obs={output})`."
        )
        raise KernelValidationError(msg)

    def read_latents(self, spec: KernelSpec | None, return_sites: str | Iterable[str] | None) -> tuple[str, ...] | None:
        """Return the names of latent sites to return and refuse others; None is all that there are."""
        known = () if spec is None else spec.latent_sites
        if return_sites is None:
            return known or None
        names = (return_sites,) if isinstance(return_sites, str) else tuple(return_sites)
        _refuse_unknown(names, known, "latent sites")
        return tuple(dict.fromkeys(names))

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
        names = (return_sites,) if isinstance(return_sites, str) else tuple(return_sites)
        known = spec.sample_sites + spec.deterministic_sites
        _refuse_unknown(names, known, "sites")
        return tuple(dict.fromkeys(names))

    def prepare(
        self,
        call: KernelArguments,
        *,
        posterior: Posterior | None,
        params: Mapping[str, Any],
        n_draws: int,
        return_sites: str | Iterable[str] | None = None,
        intervention: Intervention | None = None,
        in_sample: bool = True,
        changed: frozenset[str] = frozenset(),
        has_other_index: bool = False,
        alike: SharedResampling | None = None,
        quiet: bool = False,
        scored: Scored | None = None,
    ) -> PreparedCall:
        """Check a call and decide where the value of each site comes from; warn of what is not as fitted.

        ``changed`` are arguments that are not those of the fit, so that local latents which descend from them are
        not the fitted ones, as none are where rows are ``relabelled``; ``alike`` are sites that a scenario to compare
        with draws anew.
        """
        alike = alike or SharedResampling()
        spec = self.read_spec(call)
        return_sites = self.read_return_sites(spec, return_sites)
        acts = self._read_intervention(intervention, spec, call)
        call = replace(call, arrays={**call.arrays, **acts.arrays}, static={**call.static, **acts.static})
        spec = self.read_spec(call) if acts.static else spec  # a plain number may change what the sites are
        known = self.reader.spec
        substitution = substitute(
            spec,
            posterior=None if posterior is None else posterior.shapes,
            fitted=params,
            observed=known.observed_sites if known is not None else (),
            fitted_rows=in_sample,
            other_rows=_other_rows(spec, known or spec, None if has_other_index else changed, alike),
            intervened=frozenset(acts.values),
            downstream=(acts.downstream | alike.downstream) - frozenset(acts.values),
            scored=scored,
        )
        refuse_data_in_control_flow(spec, substitution)
        warn_about(None if quiet else posterior, substitution, spec, known, {*acts.arrays, *acts.static})
        return PreparedCall(
            spec=spec,
            call=call,
            changed=changed,
            posterior=posterior,
            in_sample=in_sample,
            substitution=substitution,
            plan=PassSpec(
                n_obs=call.n_obs,
                n_draws=n_draws,
                static=call.static,
                return_sites=return_sites,
                transforms=acts.transforms,
                unobserve=frozenset(substitution.sites_from(ValueSource.RESAMPLED_DOWNSTREAM)),
                row_plates=spec.row_plates,
                summed={name: spec[name].n_values or 0 for name in substitution.sites_from(ValueSource.SUMMED)},
                row_axes={site.name: site.row_axes[0] for site in spec.sites if site.row_axes},
            ),
            draws={} if posterior is None else {n: posterior.draws[n] for n in substitution.from_posterior},
            values={name: params[name] for name in substitution.sites_from(ValueSource.FITTED)} | acts.values,
            attrs=_attrs(substitution, intervention),
            columns=self.read_columns(call),
        )

    def run(self, kind: str, prepared: PreparedCall, key: jax.Array) -> dict[str, jax.Array]:
        """Compute a prepared call: ``kind`` is "predictive" or "log_density"."""
        return self.programs.run(kind, prepared.plan, key, prepared.draws, prepared.values, prepared.call.arrays)

    def _read_intervention(
        self, intervention: Intervention | None, spec: KernelSpec, call: KernelArguments
    ) -> ResolvedIntervention:
        if isinstance(intervention, Mapping):
            intervention = {name: self._read_act(name, value, call) for name, value in intervention.items()}
        return read_intervention(
            intervention,
            kernel=self.kernel,
            signature=self.signature,
            spec=spec,
            arrays=call.arrays,
            static=call.static,
            columns=call.columns,
        )

    def _read_act(self, name: str, value: Any, call: KernelArguments) -> Any:
        """Return one value of an intervention, checked; a function of rows that come in parts is put off."""
        if callable(value):
            rows = call.arrays.get(name)
            if name in call.columns and rows is None:
                return lambda column: check_array(value(column), f"intervention[{name!r}]")
            return rows.apply(value) if isinstance(rows, RowReader) else value
        if name in call.static:
            return value
        check_aligned({f"intervention[{name!r}]": value}, {self.signature.param_input: call.index})
        value = self.parameters.matched(name, value)
        return check_array(np.asarray(value) if hasattr(value, "columns") else value, f"intervention[{name!r}]")


def _other_rows(
    spec: KernelSpec, known: KernelSpec, changed: frozenset[str] | None, alike: SharedResampling
) -> frozenset[str]:
    """Return the local latents that are not those of the fit; all of them where nothing is as in the fit."""
    local = frozenset(site.name for site in spec.sites if site.maybe_rows or site.name in spec.local_sites)
    if changed is None:
        return local
    # An argument of the fit that this call leaves out is known to earlier calls only.
    return local & (spec.descendants(changed) | known.descendants(changed) | alike.other_rows)


def _refuse_unknown(names: Iterable[str], known: Iterable[str], what: str) -> None:
    known = tuple(known)
    unknown = [name for name in names if name not in known]
    if unknown:
        msg = (
            f"`return_sites` must name {what} of the kernel; got {', '.join(map(repr, unknown))}. "
            f"Known: {', '.join(known) or 'none'}."
        )
        raise ValueError(msg)


def _attrs(substitution: Substitution, intervention: Intervention | None) -> dict[str, Any]:
    """Return what a group records of the decision; texts and lists of texts, which every format can store."""
    attrs: dict[str, Any] = {"intervention": json.dumps({k: _plain(v) for k, v in (intervention or {}).items()})}
    if substitution.resampled:
        attrs["drawn_anew"] = list(substitution.resampled)
    ways = {ValueSource.POSTERIOR_ROWS: "posterior", ValueSource.RESAMPLED_NEW_ROWS: "drawn anew"}
    found = [way for source, way in ways.items() if substitution.sites_from(source)]
    if found:
        attrs["local_latents"] = " and ".join(found)
    return attrs


def _plain(value: Any) -> Any:
    """Return a value of an intervention as JSON can hold it."""
    if callable(value):
        return f"callable {getattr(value, '__name__', type(value).__name__)}"
    if isinstance(value, str) or value is None:
        return value
    array = np.asarray(value)
    return array.item() if array.ndim == 0 else f"array of shape {array.shape}"
