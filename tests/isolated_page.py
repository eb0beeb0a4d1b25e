"""Run the blocks of a page in a process in which only some distributions can be imported."""

import importlib.machinery
import importlib.metadata
import re
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def closure(requirements: list[str]) -> set[str]:
    """Return the distributions that an installation of these requirements contains."""
    found, todo = {}, [Requirement(text) for text in requirements]
    while todo:
        requirement = todo.pop()
        name, extras = normalized(requirement.name), {"", *requirement.extras}
        if extras <= found.get(name, set()):
            continue
        found[name] = found.get(name, set()) | extras
        try:
            lines = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        parsed = map(Requirement, lines)
        todo += [r for r in parsed if r.marker is None or any(r.marker.evaluate({"extra": e}) for e in extras)]
    return set(found)


def required(extras: list[str], others: list[str]) -> set[str]:
    """Return the distributions of an environment with this package, some of its extras, and other distributions."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines, todo = [*project["dependencies"], *others], list(extras)
    while todo:
        for line in project["optional-dependencies"][todo.pop()]:
            requirement = Requirement(line)
            if normalized(requirement.name) == normalized(project["name"]):
                todo += requirement.extras
            else:
                lines.append(line)
    return closure(lines)


def hide(allowed: set[str]) -> None:
    """Make the modules of all other distributions invisible to the import system."""
    ours = {"aimz", "test_documents"}
    # These are part of the test, not of the page.
    allowed = allowed | {"pytest", "pluggy", "iniconfig", "packaging", "pygments"}
    modules = importlib.metadata.packages_distributions().items()
    hidden = {m for m, names in modules if m not in ours and not {normalized(name) for name in names} & allowed}

    class Finder(importlib.machinery.PathFinder):
        @classmethod
        def find_spec(cls, fullname, path=None, target=None):
            return None if fullname.partition(".")[0] in hidden else super().find_spec(fullname, path, target)

    sys.meta_path[:] = [Finder if finder is importlib.machinery.PathFinder else finder for finder in sys.meta_path]


def stated(text: str) -> tuple[list[str], list[str]]:
    """Return the extras and the other distributions that a page states in a paragraph that begins with `Requires`."""
    paragraphs = [part for part in text.split("\n\n") if part.startswith("Requires ")]
    extras, others = [], []
    for part in paragraphs:
        extras += re.findall(r"\[`(\w+)`\]\([./]*install\.md#extras\)", part)
        others += re.findall(r"(?<!\[)`([\w-]+)`", part)
    return extras, others


if __name__ == "__main__":
    page = ROOT / sys.argv[1]
    hide(required(*stated(page.read_text(encoding="utf-8"))))
    import test_documents

    test_documents.test_blocks_run_and_print_what_the_page_shows(page)
