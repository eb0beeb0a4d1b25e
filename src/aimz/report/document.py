"""Parts of a report. Strings are plain text, in which names in backticks are code; the page escapes all of them."""

__all__ = ["Block", "Code", "Drawing", "Facts", "Figure", "Items", "Report", "Section", "Table", "Text"]

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Items:
    """A list of sentences."""

    items: tuple[str, ...]


@dataclass(frozen=True)
class Facts:
    """Pairs of a name and its value."""

    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Table:
    """A table of cells as text; cells that are numbers are aligned to the right."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str


@dataclass(frozen=True)
class Figure:
    """An image in the PNG format, with a text for readers who cannot see it."""

    image: bytes
    alt: str
    caption: str = ""
    narrow: bytes | None = None
    """The same figure for narrow screens."""


@dataclass(frozen=True)
class Drawing:
    """An SVG element that was made from escaped text, with its size in pixels."""

    svg: str
    width: int
    alt: str
    caption: str = ""


@dataclass(frozen=True)
class Code:
    """Text in lines of fixed width."""

    text: str
    caption: str = ""


type Block = Text | Items | Facts | Table | Figure | Drawing | Code


@dataclass(frozen=True)
class Section:
    """A section of a report."""

    key: str
    """Identifier, a word."""
    title: str
    blocks: tuple[Block, ...] = ()
    outcome: str = ""
    """Result in a sentence, for the first screen; empty for a section that checks nothing."""
    not_run: str = ""
    """Reason why there is no result, with what to call; empty if there is one."""


@dataclass(frozen=True)
class Report:
    """A report: the answer, the checks, and the sections in order."""

    question: str
    answer: tuple[str, ...]
    """Sentences of the answer."""
    about: str
    """Line under the answer: numbers of rows and draws, and the averaged quantity."""
    figure: Figure | None
    sections: tuple[Section, ...]
    made: str
    """Line at the end: when the report was made, and with which version."""
    limits: tuple[str, ...] = field(default=())
    """Sentences about the assumptions of the answer, next to the answer."""
