"""Whatever the documents show, runs and prints what they say it prints."""

import contextlib
import doctest
import importlib
import io
import pkgutil
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import aimz

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted(p for p in (ROOT / "docs").rglob("*.md") if "_build" not in p.parts)]
FENCE = re.compile(r"^```([\w{}-]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"-?\d+(?:\.\d*)?")


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    language: str
    line: int
    text: str


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [Block(m[1], text.count("\n", 0, m.start(2)), m[2]) for m in FENCE.finditer(text)]


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def run_block(block: Block, page: Path, namespace: dict) -> str:
    """Run a block as if it stood at its line of the page, and return what it prints."""
    code = compile("\n" * block.line + block.text, str(page), "exec")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, namespace)
    return printed.getvalue()


def agree(shown: str, printed: str) -> bool:
    """Whether two outputs say the same: equal words, and numbers that differ by one in the last digit at most.

    Rounding differs from processor to processor, and an optimisation carries it on.
    """
    if NUMBER.sub("#", shown).split() != NUMBER.sub("#", printed).split():
        return False
    for left, right in zip(NUMBER.findall(shown), NUMBER.findall(printed), strict=True):
        last_digit = 10.0 ** -len(left.partition(".")[2])
        if abs(float(left) - float(right)) > last_digit * 1.001:
            return False
    return True


@pytest.mark.parametrize("page", [p for p in PAGES if any(b.language == "python" for b in blocks_of(p))], ids=name_of)
def test_blocks_run_and_print_what_the_page_shows(page):
    namespace = {"__name__": "page"}
    printed = ""
    for block in blocks_of(page):
        if block.language == "text":
            assert agree(block.text, printed), f"line {block.line}: the page shows\n{block.text}\nbut it is\n{printed}"
            printed = ""
        elif block.language == "python":
            assert not printed, f"line {block.line}: the block before prints what the page does not show:\n{printed}"
            printed = run_block(block, page, namespace)
    assert not printed, f"the last block prints what the page does not show:\n{printed}"


def test_outputs_that_differ_are_told_apart():
    assert agree("effect 2.9 (2.3 to 3.4)", "effect 3.0 (2.3  to 3.4)")
    assert not agree("effect 2.9", "effect 3.1")
    assert not agree("effect 2.9", "effect -2.9")
    assert not agree("effect 2.9", "affect 2.9")
    assert not agree("[1 2]", "[1 2 3]")


def modules_with_examples() -> list[str]:
    found = pkgutil.walk_packages(aimz.__path__, "aimz.")
    sources = {m.name: Path(m.module_finder.find_spec(m.name).origin) for m in found}
    sources["aimz"] = Path(aimz.__file__)
    return sorted(name for name, path in sources.items() if ">>>" in path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", modules_with_examples())
def test_examples_in_docstrings(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert result.failed == 0


def documented() -> dict[str, object]:
    """Return what the reference page has an entry for: path to object."""
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    paths = re.findall(r"^\.\. (?:auto|py:)(?:class|exception|function|data):: (\S+)$", text, re.MULTILINE)
    return {path: getattr(importlib.import_module(path.rpartition(".")[0]), path.rpartition(".")[2]) for path in paths}


@pytest.mark.parametrize("module", ["aimz", "aimz.model", "aimz.errors", "aimz.mlflow", "aimz.plots"])
def test_every_public_name_has_an_entry_in_the_reference(module):
    entries = documented()
    public = importlib.import_module(module)
    for name in public.__all__:
        value = getattr(public, name)
        same_object = isinstance(value, type) and any(entry is value for entry in entries.values())
        assert f"{module}.{name}" in entries or same_object, f"docs/api.md has no entry for {module}.{name}"


@pytest.mark.slow
def test_sphinx_builds_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"]
    folders = ["-d", str(tmp_path / "doctrees"), str(ROOT / "docs"), str(tmp_path / "html")]
    built = subprocess.run([*command, *folders], capture_output=True, text=True, timeout=120, check=False, cwd=ROOT)
    assert built.returncode == 0, built.stdout + built.stderr
    reference = (tmp_path / "html" / "api.html").read_text(encoding="utf-8")
    assert 'id="aimz.ImpactModel.estimate_effect"' in reference


def test_the_readme_gives_both_commands_and_no_dead_link():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for command in ("make demo", "make test"):
        assert f"\n{command} " in text
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (ROOT / target).exists(), target
