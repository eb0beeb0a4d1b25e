"""Marks cases of a parametrized test as slow."""

from collections.abc import Iterable
from typing import Any

import pytest


def slow_except(values: Iterable[Any], *fast: Any) -> list[Any]:
    """Return the values of a parameter; `make test` takes those in `fast`, and `make test-all` takes all."""
    return [value if value in fast else pytest.param(value, marks=pytest.mark.slow) for value in values]
