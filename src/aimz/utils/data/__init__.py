"""Data sets and loaders of arrays in memory."""

from aimz.data import with_missing_chunks
from aimz.utils.data.array_dataset import ArrayDataset
from aimz.utils.data.array_loader import ArrayLoader

__all__ = ["ArrayDataset", "ArrayLoader", "with_missing_chunks"]
