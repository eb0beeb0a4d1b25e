"""Batches of a data set: shuffled, padded and placed on devices."""

__all__ = ["ArrayLoader"]

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import random
from jax.sharding import NamedSharding, PartitionSpec, Sharding

from aimz.data import check_array, check_count, check_key
from aimz.utils.data.array_dataset import ArrayDataset


class ArrayLoader:
    """Batches of an :class:`ArrayDataset`, as pairs ``(batch, n_pad)``.

    Each iteration is an epoch, which yields every row once.  ``batch`` maps each field to an array of
    ``batch_size + n_pad`` rows (the last batch may have fewer).  Its last ``n_pad`` rows are padding and repeat the
    row before them.

    Parameters
    ----------
    dataset : ArrayDataset
        Data set to load batches from.
    rng_key : jax.Array
        PRNG key of the order of the rows; used if ``shuffle`` is true.
    batch_size : int, default 32
        Number of rows of a batch before padding.  With a ``device``, a multiple of the number of devices avoids
        padding.
    shuffle : bool, default False
        Whether each epoch has a different random order.
    device : jax.Device or jax.sharding.Sharding, optional
        Device or sharding of the batches.  They are padded to a multiple of the number of devices: of the sharding,
        or of all local devices (:func:`jax.local_device_count`) if a single device is given.  Without ``device``,
        batches are neither padded nor moved.

    Attributes
    ----------
    dataset : ArrayDataset
    rng_key : jax.Array
        A typed key.
    batch_size : int
    shuffle : bool
    device : jax.Device, jax.sharding.Sharding or None

    Raises
    ------
    TypeError
        If ``dataset``, ``rng_key`` or ``device`` has another type.
    ValueError
        If ``batch_size`` is not a positive integer.

    Notes
    -----
    The order of epoch ``e``, counted from 0 by the iterators made, is a permutation drawn with
    ``jax.random.fold_in(rng_key, e)``.  Two loaders with equal arguments therefore give the same epochs, and an
    interrupted iteration counts as an epoch.  Iterators are independent of one another.

    A batch of a NumPy array without ``shuffle`` and ``device`` is a view; copy it before you write to it.

    A sharding that names more axes than a field has is applied to the axes it has.

    Examples
    --------
    >>> import numpy as np
    >>> from jax import random
    >>> from aimz.utils.data import ArrayDataset, ArrayLoader
    >>> loader = ArrayLoader(ArrayDataset(X=np.arange(5)), random.key(0), batch_size=2)
    >>> len(loader)
    3
    >>> [(batch["X"].tolist(), n_pad) for batch, n_pad in loader]
    [([0, 1], 0), ([2, 3], 0), ([4], 0)]
    """

    def __init__(
        self,
        dataset: ArrayDataset,
        rng_key: jax.Array,
        *,
        batch_size: int = 32,
        shuffle: bool = False,
        device: jax.Device | Sharding | None = None,
    ) -> None:
        if not isinstance(dataset, ArrayDataset):
            msg = (
                f"`dataset` must be an ArrayDataset; got {type(dataset).__name__}. Wrap the arrays: "
                "`ArrayLoader(ArrayDataset(X=X, y=y), rng_key)`."
            )
            raise TypeError(msg)
        self.dataset = dataset
        self.batch_size = check_count(batch_size, "batch_size")
        self._multiple = _rows_divide_by(device)
        self.shuffle = bool(shuffle)
        self.device = device
        self.rng_key = check_key(rng_key)
        self._epoch = 0

    def __len__(self) -> int:
        """Return the number of batches of an epoch."""
        return -(-len(self.dataset) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[dict[str, Any], int]]:
        # The epoch is counted here and not at the first batch, so that iterators are numbered in the order of their
        # creation.
        return self._batches(self.begin())

    def begin(self, epochs: int = 1) -> int:
        """Count the next ``epochs`` epochs as iterated, and return the number of the first."""
        first, self._epoch = self._epoch, self._epoch + epochs
        return first

    @property
    def epoch(self) -> int:
        """Number of the next epoch."""
        return self._epoch

    def order(self, epoch: int) -> np.ndarray | None:
        """Return the order of the rows in an epoch; None without shuffling."""
        if not self.shuffle:
            return None
        return np.asarray(random.permutation(random.fold_in(self.rng_key, epoch), len(self.dataset)))

    def __repr__(self) -> str:
        options = f"batch_size={self.batch_size}, shuffle={self.shuffle}, device={self.device}"
        return f"ArrayLoader({self.dataset!r}, {options})"

    def _batches(self, epoch: int) -> Iterator[tuple[dict[str, Any], int]]:
        """Yield the batches of one epoch."""
        n_obs, batch_size, order = len(self.dataset), self.batch_size, self.order(epoch)
        for start in range(0, n_obs, batch_size):
            rows = slice(start, min(start + batch_size, n_obs))
            batch = self.dataset[rows if order is None else order[rows]]
            yield (batch, 0) if self.device is None else self._place(batch, rows.stop - start)

    def _place(self, batch: dict[str, Any], n_rows: int) -> tuple[dict[str, Any], int]:
        """Return a batch on its device, and the number of padded rows."""
        n_pad = -n_rows % self._multiple
        placed = {
            # Checked batch by batch, since JAX wraps 64-bit integers silently.
            name: jax.device_put(_pad(check_array(array, name), n_pad), _placement(self.device, array.ndim))
            for name, array in batch.items()
        }
        return placed, n_pad


def _rows_divide_by(device: object) -> int:
    """Return the number of devices, of which the rows of a batch on ``device`` are a multiple."""
    if device is None:
        return 1
    if isinstance(device, Sharding):
        return len(device.device_set)
    if isinstance(device, jax.Device):
        return jax.local_device_count()
    msg = (
        f"`device` must be a jax.Device, a jax.sharding.Sharding or None; got {device!r}. Pick one of `jax.devices()`."
    )
    raise TypeError(msg)


def _pad(array: np.ndarray | jax.Array, n_pad: int) -> np.ndarray | jax.Array:
    """Pad ``array`` with ``n_pad`` copies of its last row; a NumPy array stays on the host."""
    if n_pad == 0:
        return array
    width = [(0, n_pad)] + [(0, 0)] * (array.ndim - 1)
    return jnp.pad(array, width, mode="edge") if isinstance(array, jax.Array) else np.pad(array, width, mode="edge")


def _placement(device: Any, ndim: int) -> Any:
    """Return ``device``, or a sharding restricted to the ``ndim`` axes of an array."""
    if isinstance(device, NamedSharding) and len(device.spec) > ndim:
        return NamedSharding(device.mesh, PartitionSpec(*device.spec[:ndim]), memory_kind=device.memory_kind)
    return device
