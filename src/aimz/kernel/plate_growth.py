"""Draws for the new entries of a plate, which the posterior does not have."""

__all__ = ["with_new_entries"]

from copy import copy
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import lax, random
from numpyro.distributions.transforms import AffineTransform

from aimz.samplers import draw


def with_new_entries(name: str, fn: Any, value: jax.Array, key: jax.Array) -> jax.Array:
    """Return a draw of a site in the shape of its distribution: ``value``, then new entries drawn from ``fn``.

    The key of an entry is derived from ``key`` and the numbers of the entry, so that its draw does not depend on how
    many others there are.
    """
    n_batch = len(fn.batch_shape)
    axes = [i for i in range(n_batch) if value.shape[i] != fn.batch_shape[i]]
    # If several plates grow, all entries are drawn, and the known ones are overwritten.
    first = [value.shape[axes[0]]] if len(axes) == 1 else [0] * len(axes)
    ranges = [jnp.arange(start, fn.batch_shape[axis]) for start, axis in zip(first, axes, strict=True)]
    entries = jnp.stack([grid.ravel() for grid in jnp.meshgrid(*ranges, indexing="ij")], axis=-1)
    single = tuple(1 if i in axes else size for i, size in enumerate(fn.shape()))

    def draw_entry(entry: jax.Array) -> jax.Array:
        own, own_key = fn, key
        for place, axis in enumerate(axes):
            own, own_key = _entry(own, axis - n_batch, entry[place]), random.fold_in(own_key, entry[place])
        return jnp.squeeze(draw(own, own_key).reshape(single), tuple(axes))

    try:
        drawn = jax.vmap(draw_entry)(entries)
    except (TypeError, ValueError) as error:
        msg = (
            f"New entries of site `{name}` cannot be drawn one by one from its distribution {type(fn).__name__}. Use a "
            "plain distribution with arrays as parameters, such as `Normal(mu, tau)`."
        )
        raise ValueError(msg) from error
    assert prod(drawn.shape[1:]) == prod(single)
    drawn = jnp.moveaxis(drawn.reshape(*map(len, ranges), *drawn.shape[1:]), range(len(axes)), axes)
    if len(axes) == 1:
        return jnp.concatenate([value, drawn.astype(value.dtype)], axis=axes[0])
    return lax.dynamic_update_slice(drawn.astype(value.dtype), value, (0,) * value.ndim)


def _entry(fn: Any, dim: int, index: jax.Array) -> Any:
    """Return a distribution of one entry along the batch axis ``dim``, counted from the last, which keeps length 1."""
    if -dim > len(fn.batch_shape) or fn.batch_shape[dim] == 1:
        return fn
    shape = list(fn.batch_shape)
    shape[dim] = 1
    if isinstance(fn, dist.MaskedDistribution):
        return _entry(fn.base_dist, dim, index)
    if isinstance(fn, dist.ExpandedDistribution):
        return _entry(fn.base_dist, dim, index).expand(tuple(shape))
    if isinstance(fn, dist.Independent):
        n_event = fn.reinterpreted_batch_ndims
        return dist.Independent(_entry(fn.base_dist, dim - n_event, index), n_event)
    children, aux = fn.tree_flatten()
    names, aux_names = type(fn).gather_pytree_data_fields(), type(fn).gather_pytree_aux_fields()
    children = [_part(fn, field, child, dim, index) for field, child in zip(names, children, strict=True)]
    aux = [tuple(shape) if field == "_batch_shape" else value for field, value in zip(aux_names, aux, strict=True)]
    return type(fn).tree_unflatten(aux, children)


def _part(fn: Any, field: str, value: Any, dim: int, index: jax.Array) -> Any:
    """Return a parameter of a distribution for one entry."""
    if isinstance(value, dist.Distribution):
        within = len(value.batch_shape) - len(fn.batch_shape)  # components of a mixture have an axis of their own
        return _entry(value, dim - max(0, within), index)
    if isinstance(value, list) and all(isinstance(one, dist.transforms.Transform) for one in value):
        return [_transform(one, dim - fn.event_dim, index) for one in value]
    if not hasattr(value, "shape"):
        return value
    constraint = fn.arg_constraints.get(field)
    n_event = max(0, value.ndim - len(fn.batch_shape)) if constraint is None else constraint.event_dim
    return _slice(value, dim - n_event, index)


def _transform(transform: Any, dim: int, index: jax.Array) -> Any:
    """Return a transform for one entry."""
    if isinstance(transform, AffineTransform):
        one = copy(transform)
        one.loc, one.scale = (_slice(jnp.asarray(part), dim, index) for part in (transform.loc, transform.scale))
        return one
    if any(jnp.ndim(leaf) for leaf in jax.tree.leaves(transform)):
        msg = f"The parameters of {type(transform).__name__} cannot be split into entries."
        raise TypeError(msg)
    return transform


def _slice(value: Any, dim: int, index: jax.Array) -> Any:
    """Return one entry of an array along the axis ``dim``, counted from the last, unless it is broadcast along it."""
    if -dim > value.ndim or value.shape[dim] == 1:
        return value
    return lax.dynamic_slice_in_dim(value, index, 1, value.ndim + dim)
