"""Functions of zarr and xarray that open a location; none of them may open an unfinished result."""

from collections.abc import Callable
from typing import Any

import xarray as xr
import zarr

OPENERS: dict[str, Callable[[Any], Any]] = {
    "zarr.open": zarr.open,
    "zarr.open to read": lambda place: zarr.open(place, mode="r"),
    "zarr.open_group": zarr.open_group,
    "zarr.open_group to change": lambda place: zarr.open_group(place, mode="r+"),
    "zarr.open_group, new": lambda place: zarr.open_group(place, mode="w-"),
    "zarr.group": zarr.group,
    "zarr.create_group": zarr.create_group,
    "zarr.open_consolidated": zarr.open_consolidated,
    "zarr.open_array": zarr.open_array,
    "zarr.consolidate_metadata": zarr.consolidate_metadata,
    "xarray.open_zarr": xr.open_zarr,
    "xarray.open_zarr, not consolidated": lambda place: xr.open_zarr(place, consolidated=False),
    "xarray.open_dataset": lambda place: xr.open_dataset(place, engine="zarr"),
    "xarray.open_datatree": lambda place: xr.open_datatree(place, engine="zarr"),
    "xarray.open_groups": lambda place: xr.open_groups(place, engine="zarr"),
    "to_zarr": lambda place: xr.Dataset({"q": ("x", [1])}).to_zarr(place),
    "to_zarr, append": lambda place: xr.Dataset({"q": ("x", [1])}).to_zarr(place, mode="a"),
}
