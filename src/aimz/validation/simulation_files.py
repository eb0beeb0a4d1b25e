"""Directory with the records of completed simulations, from which a rehearsal continues."""

__all__ = ["SimulationFiles"]

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from aimz.data import differences
from aimz.errors import CheckpointError
from aimz.persistence import locked_directory, name_path, put_file
from aimz.validation.simulation import OBSERVED, Record

_INDEX = "rehearsal.json"
_FORMAT = 1


@dataclass(frozen=True)
class SimulationFiles:
    """Directory with one small file for each completed simulation, and one with the fingerprint of the call."""

    directory: Path
    fingerprint: Mapping[str, str]

    @contextmanager
    def opened(self) -> Iterator[dict[int, Record]]:
        """Lock the directory, created if necessary, and yield the completed records by number.

        Raises
        ------
        CheckpointError
            If the directory belongs to another call, is damaged, or is in use.
        """
        taken = CheckpointError(
            f"`checkpoint_dir` must be a directory that no other call uses; another one writes to {self.directory}. "
            "Wait until it ends, or pass another directory."
        )
        self.directory.mkdir(parents=True, exist_ok=True)
        with locked_directory(self.directory, taken):
            index = self.directory / _INDEX
            if index.is_file():
                self._check(index)
            else:
                content = {"format": _FORMAT, "fingerprint": dict(self.fingerprint)}
                self._put(index, content)
            yield {number: self._read(path) for number, path in self._paths()}

    def write(self, number: int, record: Record) -> None:
        """Write the record of a completed simulation atomically."""
        self._put(self.directory / _file_name(number), record)

    def _paths(self) -> Iterator[tuple[int, Path]]:
        for path in sorted(self.directory.glob("simulation-*.json")):
            name = path.stem.removeprefix("simulation-")
            yield OBSERVED if name == "observed" else int(name), path

    def _put(self, path: Path, content: Mapping[str, object]) -> None:
        text = json.dumps({**content, "checksum": _checksum(content)})
        with name_path(path, "Free some space and repeat the call, which continues from the completed simulations"):
            put_file(path, text.encode())

    def _read(self, path: Path) -> Record:
        try:
            content: Record = json.loads(path.read_bytes())
            valid = content.pop("checksum", None) == _checksum(content)
        except (ValueError, AttributeError):
            valid = False
        if not valid:
            msg = (
                f"The file {path} is damaged: it has changed since it was written. Remove it, and its simulation is "
                "computed again."
            )
            raise CheckpointError(msg)
        return content

    def _check(self, index: Path) -> None:
        """Raise if the directory belongs to another call."""
        different = differences(self.fingerprint, self._read(index)["fingerprint"])
        if different:
            msg = (
                f"The simulations in {self.directory} are of another call: {', '.join(different)} differ(s). Pass "
                "another `checkpoint_dir`, or repeat the call that was interrupted; only `num_simulations` may change."
            )
            raise CheckpointError(msg)


def _file_name(number: int) -> str:
    """Return the name of the file of a simulation."""
    return f"simulation-{'observed' if number == OBSERVED else f'{number:06d}'}.json"


def _checksum(content: Mapping[str, object]) -> str:
    """Return the digest of a content without its checksum."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
