"""Arguments of users, checked and converted: arrays, tables, batches, keys, paths, and readers of their rows."""

from aimz.data.arrays import check_array, check_count, check_flag, differences, fill_masked, fingerprint, is_array
from aimz.data.axis_labels import AxisLabels, axis_labels, check_axes, with_axis_labels
from aimz.data.categories import (
    Categories,
    categories_of,
    is_text,
    label_codes,
    plain_labels,
)
from aimz.data.category_scan import with_categories
from aimz.data.chunked_tables import ChunkedTable, column_names, open_chunked_table
from aimz.data.dataframes import index_of, is_plain_range, open_frame
from aimz.data.grids import grid
from aimz.data.kernel_arguments import (
    KernelArguments,
    check_aligned,
    check_input,
    check_row_shape,
    read_call,
    read_rows,
)
from aimz.data.keys import GENERATOR, check_key, key_from_text, key_to_text
from aimz.data.lazy_arrays import LazyArray
from aimz.data.minibatches import ArrayBatches, Batches, IterableBatches, count_rows
from aimz.data.paths import read_input_dir, read_output_dir
from aimz.data.posterior import Posterior, read_draws
from aimz.data.rebatching import BatchReader, is_batches, is_shuffled
from aimz.data.row_findings import NanCounts, RoundedValues, RowFindings, has_nan, warn_if_rounded
from aimz.data.row_readers import BatchField, RowReader, RowSlice, StackedArrays, open_rows
from aimz.data.tables import KernelParameters, Table, named_columns, open_table, with_missing_chunks

__all__ = [
    "GENERATOR",
    "ArrayBatches",
    "AxisLabels",
    "BatchField",
    "BatchReader",
    "Batches",
    "Categories",
    "ChunkedTable",
    "IterableBatches",
    "KernelArguments",
    "KernelParameters",
    "LazyArray",
    "NanCounts",
    "Posterior",
    "RoundedValues",
    "RowFindings",
    "RowReader",
    "RowSlice",
    "StackedArrays",
    "Table",
    "axis_labels",
    "categories_of",
    "check_aligned",
    "check_array",
    "check_axes",
    "check_count",
    "check_flag",
    "check_input",
    "check_key",
    "check_row_shape",
    "column_names",
    "count_rows",
    "differences",
    "fill_masked",
    "fingerprint",
    "grid",
    "has_nan",
    "index_of",
    "is_array",
    "is_batches",
    "is_plain_range",
    "is_shuffled",
    "is_text",
    "key_from_text",
    "key_to_text",
    "label_codes",
    "named_columns",
    "open_chunked_table",
    "open_frame",
    "open_rows",
    "open_table",
    "plain_labels",
    "read_call",
    "read_draws",
    "read_input_dir",
    "read_output_dir",
    "read_rows",
    "warn_if_rounded",
    "with_axis_labels",
    "with_categories",
    "with_missing_chunks",
]
