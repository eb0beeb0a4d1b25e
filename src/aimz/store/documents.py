"""Metadata of groups and arrays as JSON documents, which no reader opens in an unfinished result.

Until a result is complete, the metadata of its groups and streamed arrays have one more field, ``UNFINISHED``.  By the
Zarr specification, a reader that does not know it must not open the node, and no library does.  Since the file exists,
no library creates another.
"""

__all__ = ["UNFINISHED", "encode_document", "group_document", "unfinished"]

import json
from collections.abc import Mapping
from typing import Any

UNFINISHED = "aimz_unfinished"
"""Field of the metadata of a group or an array that is not complete."""


def group_document(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata of a group."""
    return {"zarr_format": 3, "node_type": "group", "attributes": dict(attributes)}


def unfinished(document: Mapping[str, Any], **more: str) -> dict[str, Any]:
    """Return the metadata of a group or an array with the field that keeps readers from opening it."""
    return {**document, UNFINISHED: {"name": UNFINISHED, "must_understand": True, **more}}


def encode_document(document: Mapping[str, Any]) -> bytes:
    """Return metadata as the content of a file."""
    return json.dumps(document, indent=2).encode()
