"""Compare, byte for byte, what two versions of the source write and compute.

``python tests/snapshots/compare_bytes.py OLD/src NEW/src`` runs ``recorder.py`` in one process for each version and
prints every file or array that differs.  Times are masked; nothing else may differ.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
ENVIRONMENT = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1"}


def recorded(source: Path, directory: Path) -> dict[str, bytes]:
    """Record with one version of the source, and return the content of every file and array by name."""
    from recorder import TIME

    paths = os.pathsep.join(map(str, (source, HERE.parent, HERE)))
    command = [sys.executable, str(HERE / "recorder.py"), str(directory)]
    subprocess.run(command, env=os.environ | ENVIRONMENT | {"PYTHONPATH": paths}, cwd=directory.parent, check=True)
    found = {}
    for path in sorted(path for path in directory.rglob("*") if path.is_file()):
        content = path.read_bytes()
        if path.suffix == ".json":
            content = TIME.sub("TIME", content.decode()).encode()
        found[TIME.sub("TIME", str(path.relative_to(directory)))] = content
    with np.load(directory.parent / f"{directory.name}.npz") as arrays:
        for name, array in arrays.items():
            found[f"array {name}"] = f"{array.dtype} {array.shape} ".encode() + array.tobytes()
    return found


def main(old: str, new: str) -> int:
    """Print what differs between two source directories, and return 1 if anything does."""
    found = []
    with tempfile.TemporaryDirectory() as temporary:
        for source in (old, new):
            directory = Path(temporary) / "recorded"
            found.append(recorded(Path(source).resolve(), directory))
            directory.rename(Path(temporary) / f"recorded {len(found)}")
    before, after = found
    differing = [name for name in before.keys() & after.keys() if before[name] != after[name]]
    for what, names in (
        ("only in the first", before.keys() - after.keys()),
        ("only in the second", after.keys() - before.keys()),
        ("different", differing),
    ):
        for name in sorted(names):
            print(f"{what}: {name}")
    same = before.keys() == after.keys() and not differing
    print(f"{len(before)} files and arrays, {'all equal' if same else 'NOT equal'}")
    return not same


if __name__ == "__main__":
    sys.path[:0] = [str(HERE.parent), str(HERE)]
    sys.exit(main(*sys.argv[1:3]))
