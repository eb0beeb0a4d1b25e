"""Damage to every kind of stored file: each use raises a documented error or gives the answer of the intact files.

Run as ``python tests/campaigns/corruption.py --minutes 15 --seed 0``.
"""

import json
import re
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from _calls import STORED, Tally, X, chunks, differences, fit, load, options, posed_model, read

import aimz
from aimz.errors import CheckpointError, IncompleteResultError, SavedModelError


class Interrupted(Exception):
    """Error that ends a call in the middle."""


@dataclass(frozen=True)
class Subject:
    """Files, their use, and the errors that are documented for damaged ones."""

    name: str
    path: Path
    sibling: Path
    """Files of the same kind with other contents."""
    use: Callable[[Path], dict[str, Any]]
    expected: dict[str, Any]
    errors: dict[type[Exception], str]
    """Type of an error to the pattern of its message."""


# ------------------------------------------------------------------------------------------------ damage


def flip(rng: Random, content: bytes) -> bytes:
    """Flip one to four bits."""
    altered = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        altered[rng.randrange(len(altered))] ^= 1 << rng.randrange(8)
    return bytes(altered)


def zero(rng: Random, content: bytes) -> bytes:
    """Set a range of bytes to zero."""
    start = rng.randrange(len(content))
    stop = min(len(content), start + rng.choice([1, 8, 512, 4096]))
    return content[:start] + bytes(stop - start) + content[stop:]


def edit(rng: Random, content: bytes) -> bytes:
    """Change or delete a value of a JSON document, also within texts that are JSON."""
    lines = content.splitlines(keepends=True)
    try:
        documents = [json.loads(content)]
    except ValueError:
        documents = [json.loads(line) for line in lines]
    number = rng.randrange(len(documents))
    documents[number] = edited(rng, documents[number])
    indent = 2 if len(documents) == 1 else None
    return "\n".join(json.dumps(document, indent=indent) for document in documents).encode() + b"\n"


def edited(rng: Random, node: Any) -> Any:
    """Return a JSON value with a change somewhere."""
    if isinstance(node, str):
        with suppress(ValueError):
            inner = json.loads(node)
            if isinstance(inner, dict | list):
                return json.dumps(edited(rng, inner))
    if isinstance(node, dict | list) and node and rng.random() < 0.9:
        key = rng.choice(list(node)) if isinstance(node, dict) else rng.randrange(len(node))
        copy = node.copy()
        if rng.random() < 0.1:
            del copy[key]
        else:
            copy[key] = edited(rng, node[key])
        return copy
    return rng.choice([None, True, False, 0, 1, -1, 7, 2**70, 0.5, "", "x", "../x", [], {}, [[]]])


ALTER: dict[str, Callable[[Random, bytes], bytes]] = {
    "flip": flip,
    "zero": zero,
    "edit": edit,
    "truncate": lambda rng, content: content[: rng.randrange(len(content))],
    "shorten": lambda rng, content: content[: -rng.randint(1, 4)],
    "extend": lambda rng, content: content + bytes(rng.choice([1, 4, 4096])),
    "repeat": lambda _, content: content * 2,
    "empty": lambda *_: b"",
}


def files_of(path: Path) -> list[Path]:
    """Return all files below a directory."""
    return sorted(file for file in path.rglob("*") if file.is_file())


def damage(rng: Random, path: Path, sibling: Path) -> str:
    """Damage the files of a directory; return a description."""
    files = files_of(path)
    by_kind: dict[str, list[Path]] = {}
    for file in files:
        by_kind.setdefault(re.sub(r"\d+", "#", file.name if "/c/" not in str(file) else "chunk"), []).append(file)
    kind = rng.choice(sorted(by_kind))
    file = rng.choice(by_kind[kind])
    how = rng.choice([*ALTER, "edit", "flip", "delete", "swap", "copy", "of another"])
    if how in ALTER:
        with suppress(ValueError, RecursionError):  # not JSON
            file.write_bytes(ALTER[how](rng, file.read_bytes()))
    elif how == "delete":
        file.unlink()
    elif how == "of another":
        name = file.relative_to(path)
        others = [sibling / name] if (sibling / name).exists() else files_of(sibling)
        shutil.copy(rng.choice(others), file)
    else:
        other = rng.choice(by_kind[kind] if rng.random() < 0.8 else files)
        first, second = file.read_bytes(), other.read_bytes()
        file.write_bytes(second)
        if how == "swap":
            other.write_bytes(first)
        return f"{how} {file.relative_to(path)} and {other.relative_to(path)}"
    return f"{how} {file.relative_to(path)}"


# ------------------------------------------------------------------------------------------------ subjects


def interrupted(run: Callable[[], Any], top: Path) -> Path:
    """Run a call that fails and return its directory."""
    with suppress(Interrupted):
        run()
    (path,) = top.iterdir()
    return path


def results(top: Path) -> list[Subject]:
    """Return complete and interrupted results of all methods."""
    model, found = posed_model(), []
    for name, method in STORED.items():
        complete, partial = [], []
        for key in (5, 6):
            directory = top / name / str(key)
            tree = method(model, 0, key, output_dir=directory / "complete")
            complete.append(Path(tree.attrs["artifact_path"]))
            partial.append(interrupt(model, method, key, directory / "partial"))

        def resume(path: Path, method: Callable[..., Any] = method) -> dict[str, Any]:
            method(model, 0, 5, resume=path)
            return {**read(path), **chunks(path)}

        incomplete = {IncompleteResultError: r"\. .*[.`]$"}
        found.append(Subject(name, *complete, read, read(complete[0]), incomplete))
        intact = {**read(complete[0]), **chunks(complete[0])}
        errors = {**incomplete, ValueError: "cannot be resumed|no journal"}
        found.append(Subject(f"resume of {name}", *partial, resume, intact, errors))
    return found


def interrupt(model: Any, method: Callable[..., Any], key: int, top: Path) -> Path:
    """Return the directory of a call that failed after some chunks."""
    from aimz.store import ZarrStore

    write, count = ZarrStore.write, 0

    def failing(store: Any, name: str, array: Any, start: int) -> None:
        nonlocal count
        count += 1
        if count > 5 or start is None:
            raise Interrupted
        write(store, name, array, start)

    ZarrStore.write = failing  # type: ignore[method-assign]
    try:
        return interrupted(lambda: method(model, 0, key, output_dir=top), top)
    finally:
        ZarrStore.write = write  # type: ignore[method-assign]


def saved_models(top: Path) -> list[Subject]:
    """Return saved models."""
    paths = []
    for scale in (1, 2):
        path = top / "saved" / str(scale)
        model = posed_model()
        model.set_posterior_sample({"b": model.posterior["b"] * scale})
        model.predict_on_batch(X[:20])
        model.save(path)
        paths.append(path)
    errors = {SavedModelError: r"\. .*[.`]$", FileNotFoundError: r"has no model\.json"}
    return [Subject("saved model", *paths, load, load(paths[0]), errors)]


def checkpoints(top: Path) -> list[Subject]:
    """Return the checkpoint of an interrupted fit."""

    def stop(epoch: int, _: Any) -> None:
        if epoch == 3:
            raise Interrupted

    paths = []
    for key in (5, 6):
        path = top / "checkpoints" / str(key)
        with suppress(Interrupted):
            fit(path, 0, key, stop)
        paths.append(path)
    expected = fit(top / "checkpoints" / "whole", 0, 5)
    return [Subject("checkpoint", *paths, lambda path: fit(path, 0, 5), expected, {CheckpointError: r"\. .*\.$"})]


# ------------------------------------------------------------------------------------------------ campaign


def judge(tally: Tally, subject: Subject, use: Callable[[], dict[str, Any]], what: str) -> None:
    """Use damaged files; count a documented error, and report a loss for another error or another answer."""
    tally.tried += 1
    try:
        found = use()
    except Exception as error:
        pattern = next((text for kind, text in subject.errors.items() if isinstance(error, kind)), None)
        if pattern is None or not re.search(pattern, str(error), re.DOTALL):
            tally.lose(f"{subject.name}, {what}: {type(error).__name__}: {error}")
        else:
            tally.detected += 1
        return
    names = found if what.startswith("opened") else subject.expected
    unlike = differences(found, {name: subject.expected[name] for name in names})
    if unlike:
        tally.lose(f"{subject.name}, {what}: other values of {unlike[:3]}")


def main() -> int:
    """Damage files until the time is over."""
    given = options(__doc__)
    rng, end, tally = Random(given.seed), time.monotonic() + 60 * given.minutes, Tally()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as directory:
        top = Path(directory)
        subjects = [*results(top), *saved_models(top), *checkpoints(top)]
        while not tally.tried or time.monotonic() < end:
            subject, copy = rng.choice(subjects), top / "copy"
            shutil.copytree(subject.path, copy)
            if subject.use is read and rng.random() < 0.3:  # a tree that was opened before the damage
                tree = aimz.open_result(copy)
                what = f"opened, {damage(rng, copy, subject.sibling)}"

                def values(tree: Any = tree) -> dict[str, Any]:
                    return {f"{n.path}/{name}": a.values for n in tree.subtree for name, a in n.data_vars.items()}

                judge(tally, subject, values, what)
            else:
                what = damage(rng, copy, subject.sibling)
                judge(tally, subject, lambda: subject.use(copy), what)  # noqa: B023
            shutil.rmtree(copy)
    return tally.end()


if __name__ == "__main__":
    sys.exit(main())
