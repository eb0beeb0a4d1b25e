"""Home of the public path :mod:`aimz.utils.data`, and the door for random keys, which every room goes through."""

from aimz.utils.keys import read_key

__all__ = ["read_key"]
