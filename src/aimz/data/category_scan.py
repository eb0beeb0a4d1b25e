"""Categories of text columns of tables that are read in pieces, found before the rows are read."""

__all__ = ["with_categories"]

from dataclasses import replace
from itertools import chain
from typing import Any

from aimz.data.categories import EncodedColumn, encode, merge_labels
from aimz.data.chunked_tables import ChunkedTable
from aimz.data.tables import KernelParameters, open_table


def with_categories(batches: Any, parameters: KernelParameters) -> KernelParameters:
    """Return parameters with the categories in a chunked table or a list of tables, which is read once for each.

    Nothing is read if all categories must be known.
    """
    if isinstance(batches, list | tuple):
        tables: Any = batches
        first = None if not batches else open_table(batches[0], parameters.input)
    elif isinstance(batches, ChunkedTable) and not set(parameters.further).isdisjoint(batches.known):
        names = [name for name in parameters.further if name in batches.known]
        first = next((open_table(chunk, parameters.input) for chunk in batches.reader.read(names)), None)
    else:
        return parameters
    found = dict(parameters.categories)
    for name in parameters.further if first is not None else ():
        counted = parameters.is_counted(name)
        if first is None or name not in first.names or not (counted or first.categorical((name,))):
            continue
        if name in found and not (counted and parameters.grows):
            continue
        if isinstance(batches, ChunkedTable):
            tables = batches.reader.read((name,))
        opened = (open_table(chunk, parameters.input) for chunk in tables)
        columns = (table.labels(name) for table in opened if table is not None and name in table.names)
        read = [encode(column, name, None, counted=counted, grows=True) for column in columns]
        codes = {one.categories: None for one in read if isinstance(one, EncodedColumn)}
        if len(codes) == 1 and name not in found:
            found[name] = next(iter(codes))  # in the order that the type declares
        elif codes:
            found[name] = merge_labels(found.get(name, ()), chain(*codes))
    return replace(parameters, categories=found)
