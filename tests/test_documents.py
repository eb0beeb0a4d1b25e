"""Whatever the documents show, runs and prints what they say it prints."""

import contextlib
import doctest
import importlib
import importlib.util
import inspect
import io
import pkgutil
import re
import subprocess
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import pytest

import aimz

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "docs" / "_ext"))

import reference_pages  # noqa: E402

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


WITH_CODE = [page for page in PAGES if any(block.language == "python" for block in blocks_of(page))]


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


@pytest.mark.parametrize("page", WITH_CODE, ids=name_of)
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


def resolve(path: str) -> object:
    """Return the object at a dotted path; a function takes precedence over a module of the same name."""
    value: object = aimz
    for name in path.split(".")[1:]:
        value = getattr(value, name, None) or importlib.import_module(f"{value.__name__}.{name}")
    return value


def documented() -> dict[str, object]:
    """Return the objects that have a page in the reference, by path."""
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    paths = re.findall(r"^   (aimz\.\S+)$", text, re.MULTILINE)
    return {path: resolve(path) for path in paths}


@pytest.mark.parametrize("module", ["aimz", "aimz.model", "aimz.errors", "aimz.mlflow", "aimz.plots"])
def test_every_public_name_has_an_entry_in_the_reference(module):
    entries = documented()
    public = importlib.import_module(module)
    for name in set(public.__all__) - {"__version__"}:
        value = getattr(public, name)
        same_object = isinstance(value, type) and any(entry is value for entry in entries.values())
        assert f"{module}.{name}" in entries or same_object, f"docs/api.md has no entry for {module}.{name}"


def test_every_member_of_the_model_has_an_entry_in_the_reference():
    members = {f"aimz.ImpactModel.{name}" for name in dir(aimz.ImpactModel) if not name.startswith("_")}
    assert members <= set(documented()), "docs/api.md and docs/reference lack members of ImpactModel"


def test_every_page_of_the_reference_has_an_example_and_related_objects():
    examples, related = reference_pages.examples(), reference_pages.related()
    known = documented()
    for path, value in known.items():
        text = inspect.getdoc(value) or ""
        assert "Examples\n---" in text or path in examples, f"docs/reference/examples.txt lacks {path}"
        assert "See Also\n---" in text or path in related, f"docs/reference/related.txt lacks {path}"
    unknown = (set(examples) | set(related)) - set(known)
    assert not unknown, f"docs/reference names {unknown}, which have no page"


def test_examples_of_the_reference():
    parser, runner = doctest.DocTestParser(), doctest.DocTestRunner()
    start = parser.get_doctest(aimz.ImpactModel.__doc__, {}, "ImpactModel", None, 0)
    runner.run(start, clear_globs=False)
    for path, text in reference_pages.examples().items():
        with warnings.catch_warnings():  # examples change the filters
            runner.run(parser.get_doctest(f"{text}\n", dict(start.globs), path, None, 0))
    assert runner.tries > 0
    assert runner.failures == 0


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "page", [p for p in PAGES[1:] if any(b.language == "python" for b in blocks_of(p))], ids=name_of
)
def test_page_runs_with_the_distributions_that_it_states(page):
    """Modules are hidden unless the package, or an extra that the page names, installs them."""
    command = [sys.executable, "-W", "ignore", str(ROOT / "tests" / "isolated_page.py"), name_of(page)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=ROOT)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.slow
def test_sphinx_builds_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"]
    folders = ["-d", str(tmp_path / "doctrees"), str(ROOT / "docs"), str(tmp_path / "html")]
    built = subprocess.run([*command, *folders], capture_output=True, text=True, timeout=120, check=False, cwd=ROOT)
    assert built.returncode == 0, built.stdout + built.stderr
    html = tmp_path / "html"
    reference = (html / "api" / "aimz.ImpactModel.estimate_effect.html").read_text(encoding="utf-8")
    assert 'id="aimz.ImpactModel.estimate_effect"' in reference
    assert "See also" in reference


def test_the_readme_gives_both_commands_and_no_dead_link():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for command in ("make demo", "make test"):
        assert f"\n{command} " in text
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (ROOT / target).exists(), target
