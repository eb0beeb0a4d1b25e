"""See Also and examples of the pages in the reference, for docstrings that lack them."""

import re
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "reference"


def related() -> dict[str, list[str]]:
    """Return the related objects of each public object, from the groups in `related.txt`."""
    found: dict[str, list[str]] = {}
    for line in (FOLDER / "related.txt").read_text(encoding="utf-8").splitlines():
        names = line.partition("#")[0].split()
        for name in names:
            others = found.setdefault(name, [])
            others += [other for other in names if other != name and other not in others]
    return found


def examples() -> dict[str, str]:
    """Return the examples of the reference, which continue the example of `ImpactModel`."""
    text = (FOLDER / "examples.txt").read_text(encoding="utf-8")
    parts = re.split(r"^\[(\S+)\]\n", text, flags=re.MULTILINE)[1:]
    return {name: body.strip("\n") for name, body in zip(parts[::2], parts[1::2], strict=True)}
