"""Models as files that hold no code: arrays as safetensors, all else as JSON."""

from aimz.persistence.bundle import check_target, damaged, put_file, read_bundle, write_bundle
from aimz.persistence.kernel_spec import read_columns, read_example, read_spec, write_example, write_spec
from aimz.persistence.pandas_index import read_labels, write_labels
from aimz.persistence.plain import is_plain, read_plain, write_plain
from aimz.persistence.pytrees import NOTHING, Unlike, needs_like, read_tree, unlike_leaves, write_tree

__all__ = [
    "NOTHING",
    "Unlike",
    "check_target",
    "damaged",
    "is_plain",
    "needs_like",
    "put_file",
    "read_bundle",
    "read_columns",
    "read_example",
    "read_labels",
    "read_plain",
    "read_spec",
    "read_tree",
    "unlike_leaves",
    "write_bundle",
    "write_example",
    "write_labels",
    "write_plain",
    "write_spec",
    "write_tree",
]
