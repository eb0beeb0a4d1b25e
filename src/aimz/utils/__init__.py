"""Small things several rooms share; home of the public path :mod:`aimz.utils.data`."""

from aimz.utils.ahead import await_imports, begin_imports
from aimz.utils.keys import read_key

__all__ = ["await_imports", "begin_imports", "read_key"]
