"""The pages of the documentation: width of the code, links, vocabulary and navigation."""

import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "docs" / "_ext"))

import agent_guide  # noqa: E402

DOCS = ROOT / "docs"
PAGES = sorted(p for p in DOCS.rglob("*.md") if "_build" not in p.parts)
FENCE = re.compile(r"^```(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COLUMNS = 76


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(DOCS).as_posix())
def test_code_has_at_most_76_columns(page):
    text = page.read_text(encoding="utf-8")
    for block in FENCE.finditer(text):
        if block[1].startswith("{"):  # a directive, not code
            continue
        first = text.count("\n", 0, block.start(2)) + 1
        for number, line in enumerate(block[2].splitlines(), first):
            assert len(line) <= COLUMNS, f"{page.name}, line {number} has {len(line)} columns: {line}"


def test_code_of_the_reference_has_at_most_80_columns():
    for number, line in enumerate((DOCS / "reference" / "examples.txt").read_text(encoding="utf-8").splitlines(), 1):
        assert len(line) <= 80, f"examples.txt, line {number} has {len(line)} columns: {line}"


LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def anchors_of(page: Path) -> set[str]:
    """Return the anchors of a page, as the site derives them from its headings and labels."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    slugs = (re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in HEADING.findall(text))
    return set(slugs) | set(re.findall(r"^\(([\w-]+)\)=$", text, re.MULTILINE))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(DOCS).as_posix())
def test_links_have_a_target(page):
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for target, anchor in LINK.findall(text):
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), f"{page.name} links to {target}"
        if anchor:
            assert anchor in anchors_of(path), f"{page.name} links to {target}#{anchor}; anchors: {anchors_of(path)}"


def test_every_page_is_in_the_navigation():
    entries = {DOCS / "index.md"}
    for page in PAGES:
        for block in re.findall(r"^```\{toctree\}\n(.*?)^```$", page.read_text("utf-8"), re.MULTILINE | re.DOTALL):
            names = [line for line in block.splitlines() if line and not line.startswith(":")]
            entries |= {(page.parent / name).with_suffix(".md") for name in names if not name.startswith("notebooks/")}
    assert entries == set(PAGES)


@pytest.mark.parametrize(
    ("term", "pages"),
    [
        ("average treatment effect", {"ideas/answers", "glossary"}),
        ("counterfactual", {"glossary", "examples"}),
        ("confounding", {"glossary", "ideas/kernel"}),
        ("hierarchical", {"glossary"}),
        ("credible interval", {"glossary"}),
        ("marketing mix", {"marketing_mix"}),
        ("DAG", {"glossary", "ideas/kernel"}),
        ("uplift", {"uplift"}),
        ("dose response", {"glossary"}),
    ],
)
def test_pages_use_the_terms_of_the_field(term, pages):
    found = {page for page in PAGES if re.search(rf"\b{term}\b", page.read_text(encoding="utf-8"), re.IGNORECASE)}
    assert pages <= {page.relative_to(DOCS).with_suffix("").as_posix() for page in found}


def test_guide_inside_the_package_is_up_to_date():
    stored = agent_guide.GUIDE.read_text(encoding="utf-8")
    assert stored == agent_guide.guide(), "run `python docs/_ext/agent_guide.py` after a change of the pages"


def test_guide_has_executed_blocks_and_no_open_comment():
    text = agent_guide.guide()
    assert "<!--" not in text
    blocks = [block[2] for block in FENCE.finditer(text)]
    pages = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert len(blocks) > 8
    assert all(block in pages for block in blocks)


def test_list_of_pages_names_every_page_of_the_sections():
    listed = set(re.findall(r"_sources/([\w/]+)\.md\.txt", agent_guide.llms()))
    sections = {"index", *agent_guide.SECTIONS}
    assert listed == {page.relative_to(DOCS).with_suffix("").as_posix() for page in PAGES} - sections


@pytest.mark.parametrize("name", ["insurance", "bring_your_own_posterior"])
def test_rendered_notebooks_are_those_of_the_examples(name):
    source = json.loads((ROOT / "examples" / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    rendered = json.loads((DOCS / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    assert [cell["source"] for cell in rendered] == [cell["source"] for cell in source], (
        "run `python docs/_ext/notebooks.py` after a change of the notebooks"
    )
    assert any(cell.get("outputs") for cell in rendered)
