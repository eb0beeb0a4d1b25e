"""The pages of the documentation: width of the code, links, vocabulary and navigation."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
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
