"""Write the guide for coding assistants inside the package, and `llms.txt` of the site, from the pages."""

import re
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1]
GUIDE = DOCS.parent / "src" / "aimz" / ".agents" / "skills" / "aimz" / "SKILL.md"
SECTIONS = ("start", "questions", "concepts", "operations", "reference")
SUMMARY = (
    "Bayesian what-if analysis on NumPyro models: fit a kernel, predict, intervene, and estimate effects with their "
    "uncertainty. The distribution is called aimz-whatif; `aimz` on the package index is another project."
)
BLOCK = re.compile(r"^```(?:python|text)\n.*?^```$", re.MULTILINE | re.DOTALL)
TABLE = re.compile(r"(?:^\|.*\n)+", re.MULTILINE)


def section(page: str, heading: str | None) -> str:
    """Return the text under a heading, or the text before the second heading."""
    text = (DOCS / page).read_text(encoding="utf-8")
    # Lines that begin with # inside of blocks are comments.
    plain = BLOCK.sub(lambda block: block[0].replace("\n#", "\n\0"), text)
    parts = re.split(r"^(#+ .+)$", plain, flags=re.MULTILINE)
    titles = [title.lstrip("# ") for title in parts[1::2]]
    found = parts[2::2][titles.index(heading) if heading else 0]
    return found.replace("\0", "#").strip()


def expand(line: re.Match[str]) -> str:
    """Return the text that replaces one comment of the template."""
    kind, _, place = line[1].partition(": ")
    page, _, heading = place.partition(": ")
    if kind == "pages":
        return "\n\n".join(f"{title}:\n\n{links}" for title, links in map(links_of, SECTIONS))
    if kind == "tables":
        text = (DOCS / page).read_text(encoding="utf-8")
        return "\n".join(unlinked(table) for table in TABLE.findall(text)).strip()
    text = section(page, heading or None)
    return "\n\n".join(BLOCK.findall(text)) if kind == "blocks" else unlinked(text)


def unlinked(text: str) -> str:
    """Replace links, which are relative to the site, by their text."""
    return re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)


def links_of(name: str) -> tuple[str, str]:
    """Return the title of a section of the site, and a list of its pages with absolute names of their sources."""
    text = (DOCS / f"{name}.md").read_text(encoding="utf-8")
    title = text.partition("\n")[0].lstrip("# ")
    items = [" ".join(item.split()) for item in re.findall(r"^- ((?:.+\n)(?:  .+\n)*)", text, re.MULTILINE)]
    linked = [re.sub(r"\]\((?!https?:)([\w/]+)\.md\)", r"](_sources/\1.md.txt)", item) for item in items]
    return title, "\n".join(f"- {item}" for item in linked)


def llms() -> str:
    """Return the text of `llms.txt`: the pages of the site, with what each is about."""
    lists = [f"## {title}\n\n{links}" for title, links in map(links_of, SECTIONS)]
    return "\n\n".join(["# aimz", f"> {SUMMARY}", *lists]) + "\n"


def guide() -> str:
    """Return the text of the guide."""
    template = (DOCS / "_ext" / "skill_template.txt").read_text(encoding="utf-8")
    return re.sub(r"^<!-- (.+) -->$", expand, template, flags=re.MULTILINE)


if __name__ == "__main__":
    GUIDE.parent.mkdir(parents=True, exist_ok=True)
    GUIDE.write_text(guide(), encoding="utf-8")
