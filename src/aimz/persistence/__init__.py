"""Saved models without code: arrays as safetensors, everything else as JSON."""

from aimz.persistence.bundle import check_target, damaged, read_bundle, write_bundle
from aimz.persistence.files import locked_directory, name_path, put_file, sync
from aimz.persistence.kernel_spec import (
    is_plain,
    read_columns,
    read_example,
    read_plain,
    read_spec,
    write_example,
    write_plain,
    write_spec,
)
from aimz.persistence.pandas_index import read_labels, write_labels
from aimz.persistence.pytrees import (
    NO_TEMPLATE,
    TreeMismatchError,
    check_leaves,
    fill_leaves,
    leaf_arrays,
    needs_template,
    read_tree,
    write_tree,
)

__all__ = [
    "NO_TEMPLATE",
    "TreeMismatchError",
    "check_leaves",
    "check_target",
    "damaged",
    "fill_leaves",
    "is_plain",
    "leaf_arrays",
    "locked_directory",
    "name_path",
    "needs_template",
    "put_file",
    "read_bundle",
    "read_columns",
    "read_example",
    "read_labels",
    "read_plain",
    "read_spec",
    "read_tree",
    "sync",
    "write_bundle",
    "write_example",
    "write_labels",
    "write_plain",
    "write_spec",
    "write_tree",
]
