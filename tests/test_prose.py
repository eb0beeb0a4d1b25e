"""Style of the prose in the sources, the documentation and the README: banned idioms and the form of docstrings."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
PAGES = [ROOT / "README.md", *sorted(p for p in (ROOT / "docs").rglob("*.md") if "_build" not in p.parts)]

# Values of attributes in stored results, which are part of the file format.
STORED_VALUES = {"drawn anew"}

# (pattern, how to write it instead).  Rewrite the sentence; another odd word in place of the banned one is no repair.
BANNED = [
    (r"anew|afresh", '"again", "new", "recomputed", or "resampled" for a site'),
    (r"(?:is|are|was|were|be|those|what is|what was) (?:\w+ )?at (?:hand|work)", '"in memory", "available", "running"'),
    (r"at hand", '"in memory" or "available"'),
    (r"(?:told|tell|tells|telling) (?:\w+ ){0,3}apart", '"distinguish", "distinguished by"'),
    (r"by lot", '"at random"'),
    (r"(?:be|is|are|to be) had", '"available", or name the function that returns it'),
    (r"(?:come|comes|came) by|come by", '"obtain", or name the source'),
    (r"(?:goes|going|go|went|gone) by", '"uses", "follows", "depends on"; of rows: "have been read"'),
    (r"without (?:a|further) word", '"silently" or "without a warning"'),
    (
        r"(?:lies|lie|lay|lying) (?:elsewhere|there|here|beside|in|on|at|where)",
        '"is stored in", "is", "is read lazily"',
    ),
    (r"stands? (?:beside|there|for itself|alone)", '"is next to", "is stored in"'),
    (r"(?:stands|stood|standing) in(?! for)", '"is in", "is stored in"'),
    (
        r"(?<!see )(?<!exactly )what (?:is|was|are|were) "
        r"(?:wanted|asked|kept|said|known|told|meant|there|gone|left|new|not|to be)",
        "name the object: a noun in place of the relative clause",
    ),
    (r"what (?:it|they|one|this|that|we|you) (?:has|have|had|is|are) (?:to|of|by)", "name the object"),
    (r"what (?:becomes|became|comes|came|goes|makes sure)", 'name the object; "a callback that checks"'),
    (r"(?:are|is|be|was|were) known by", '"identified by"'),
    (
        r"(?:known|asked|wanted|said|told|made|had|needed|spoken) of (?:it|them|him|that|those|one|what)",
        "name the object",
    ),
    (r"those of|that of those", "repeat the noun"),
    (r"(?:takes|take|took|taken|taking) up", '"resume", "continue", "read" (a call is resumed)'),
    (r"(?:left|leaves?|leaving) behind", '"remains", "is kept", "is not removed"'),
    (r"(?:let|lets|letting) go(?: of)?", '"release", "free", "drop"'),
    (
        r"(?:house|guests?|(?<!front[- ])doors?|corridors?|rooms?|neighbours?|strangers?|yardsticks?|landlord"
        r"|doorways?)",
        "name the package, check or value",
    ),
    (r"(?:at|from|to its|to their) home", "name the directory or the process"),
    (r"turns? off the light", '"the directory is removed"'),
    (r"walk(?:s|ed|ing)?(?: (?:side by side|over|through|along))", '"compare", "iterate over"'),
    (r"travel(?:s|led|ling)?", '"is sent", "is pickled"'),
    (r"(?:announce[sd]?|announcing)", '"warn", "report"'),
    (r"(?:nobody|no one|somebody|someone|anyone|anybody)", "name the function, process or user"),
    (
        r"(?:is|are|was|were|be|been) (?:no longer|not) there(?: yet)?|(?:is|are) there yet",
        '"is missing", "is not stored", "has not been computed"',
    ),
    (r"(?:is|are|was|were) gone", '"was removed", "is no longer in memory"'),
    (r"(?:has|have|had) (?:\w+ )?to say (?:of|about)", '"information about", "message"'),
    (
        r"(?:says?|said|saying) (?:so|it|nothing|once|there|of|what|which|how|why|when)(?: once| there)?",
        '"warns", "reports", "describes"',
    ),
    (r"(?:is|are) to be said", '"warning", "message"'),
    (r"(?:speaks?|spoken|spoke) (?:of|for)", '"describe", "represent"'),
    (r"(?:asks?|asked|asking) (?:of|after)", '"request", "read"'),
    (r"refuse[sd]?|refusing|refusal", '"raises", "is rejected with an error", "Raise if"'),
    (r"(?:look|looks|looked|looking) (?:at|into|up to|like) (?:once|again|it|them)", '"check", "read", "trace"'),
    (r"in front of one another", '"stacked along a new leading axis"'),
    (r"however (?:it|they) (?:is|are|was|were) \w+", "name the cases"),
    (r"side by side", '"in parallel", "together", "equation by equation"'),
    (r"(?:goes|go) on until", '"runs until"'),
    (r"makes? one of all", '"reduces over rows"'),
    (r"(?:must|to|should) have alike|are alike|be alike", '"are equal", "are the same"'),
    (r"will not come|is yet to come|that are to come", '"is ignored", "has not been read"'),
    (r"lacks? the", '"is missing"'),
    (r"as (?:if|though) (?:it|they) stood|where (?:it|they) (?:stand|stands|stood)", '"at its position"'),
    (r"nothing but", '"only"'),
    (r"of its own accord|in one breath|at one stroke|once and for all", "state when and by which function"),
    (r"(?:whatever|whichever|whoever) (?:it|they|one|he) \w+", "name the cases"),
    (
        r"what (?:\w+ ){0,2}(?:by|of|from|with|on|for)(?=[.,;:)]|$)",
        "no relative clause that ends in a preposition: name the object",
    ),
]
BANNED = [(re.compile(rf"\b(?:{pattern})\b", re.IGNORECASE), repair) for pattern, repair in BANNED]

IMPERATIVES = {
    "Adapt",
    "Add",
    "Advance",
    "Allocate",
    "Append",
    "Apply",
    "Approximate",
    "Assemble",
    "Average",
    "Broadcast",
    "Build",
    "Call",
    "Cast",
    "Check",
    "Clear",
    "Close",
    "Collect",
    "Combine",
    "Compare",
    "Compile",
    "Complete",
    "Compute",
    "Concatenate",
    "Convert",
    "Copy",
    "Count",
    "Create",
    "Decode",
    "Delete",
    "Digest",
    "Discard",
    "Divide",
    "Download",
    "Draw",
    "Drop",
    "Encode",
    "Estimate",
    "Evaluate",
    "Execute",
    "Extend",
    "Fill",
    "Find",
    "Finish",
    "Fit",
    "Flush",
    "Format",
    "Free",
    "Gather",
    "Generate",
    "Hash",
    "Import",
    "Infer",
    "Initialise",
    "Initialize",
    "Insert",
    "Interpolate",
    "Issue",
    "Iterate",
    "Join",
    "Label",
    "Limit",
    "List",
    "Load",
    "Lock",
    "Log",
    "Map",
    "Match",
    "Merge",
    "Multiply",
    "Normalise",
    "Normalize",
    "Open",
    "Overwrite",
    "Pad",
    "Parse",
    "Permute",
    "Pickle",
    "Place",
    "Plan",
    "Plot",
    "Predict",
    "Prepare",
    "Print",
    "Publish",
    "Raise",
    "Rank",
    "Read",
    "Receive",
    "Record",
    "Reduce",
    "Register",
    "Release",
    "Remove",
    "Rename",
    "Replace",
    "Report",
    "Reset",
    "Reshape",
    "Resize",
    "Restore",
    "Resume",
    "Retry",
    "Return",
    "Round",
    "Run",
    "Sample",
    "Save",
    "Scale",
    "Score",
    "Select",
    "Send",
    "Serialise",
    "Serialize",
    "Set",
    "Shuffle",
    "Shut",
    "Skip",
    "Slice",
    "Sort",
    "Split",
    "Stack",
    "Start",
    "Stop",
    "Store",
    "Stream",
    "Sum",
    "Summarise",
    "Summarize",
    "Trace",
    "Transform",
    "Transpose",
    "Truncate",
    "Undo",
    "Unpickle",
    "Update",
    "Upload",
    "Validate",
    "Wait",
    "Warn",
    "Wrap",
    "Write",
    "Yield",
}

CONTINUATIONS = {
    "Of",
    "Those",
    "These",
    "This",
    "That",
    "What",
    "Whatever",
    "Which",
    "Who",
    "Whose",
    "How",
    "However",
    "Where",
    "When",
    "Why",
    "One",
    "Ones",
    "It",
    "Its",
    "They",
    "Them",
    "Their",
    "He",
    "From",
    "By",
    "Without",
    "With",
    "Within",
    "Along",
    "For",
    "To",
    "In",
    "On",
    "At",
    "As",
    "Also",
    "And",
    "But",
    "Or",
    "Nothing",
    "Something",
    "Some",
    "Such",
}


@dataclass(frozen=True)
class Finding:
    """A violation of one rule, at a line of a file."""

    line: int
    found: str
    repair: str


@dataclass(frozen=True)
class Text:
    """Prose of one docstring, comment, message or paragraph."""

    line: int
    text: str


def without_code(text: str) -> str:
    """Return prose with code replaced by a placeholder, of as many lines."""
    text = re.sub(r"^ *(?:>>>|\.\.\. |\.\. math).*$", "", text, flags=re.MULTILINE)
    text = re.sub(r":[\w:]+:`[^`]*`|``.+?``|`[^`\n]+`", "`code`", text)
    return re.sub(r"\]\([^)]*\)", "]", text)


def banned_in(text: Text) -> Iterator[Finding]:
    """Yield banned idioms, also where a line break divides them."""
    lines = [re.sub(r"^[\s>*#-]+", "", line) for line in without_code(text.text).split("\n")]
    joined = " ".join(lines)
    for pattern, repair in BANNED:
        for match in pattern.finditer(joined):
            start, line = match.start(), 0
            while start > len(lines[line]):
                start -= len(lines[line]) + 1
                line += 1
            yield Finding(text.line + line, f"{match[0]!r}", f"write {repair}")


def message_of(node: ast.expr) -> str | None:
    """Return the text of a string, with `{}` for the values of an f-string; None for another expression."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = message_of(node.left), message_of(node.right)
        return None if left is None else left + ("{}" if right is None else right)
    return None


def strings_of(tree: ast.Module) -> Iterator[Text]:
    """Yield docstrings, and strings of several words."""
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)} - {
        id(node) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant | ast.JoinedStr) and id(node) not in inside:
            text = message_of(node)
            if text is not None and " " in text.strip() and text not in STORED_VALUES:
                yield Text(node.lineno, text)


def comments_of(source: str) -> Iterator[Text]:
    """Yield comments; those of consecutive lines are one text."""
    block: list[str] = []
    first = last = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT:
            continue
        alone = token.line.strip().startswith("#")
        if block and alone and token.start[0] == last + 1:
            block.append(token.string.lstrip("# "))
        else:
            if block:
                yield Text(first, "\n".join(block))
            block, first = [token.string.lstrip("# ")], token.start[0]
        last = token.start[0]
    if block:
        yield Text(first, "\n".join(block))


def is_property(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any("property" in ast.unparse(d) or ast.unparse(d).endswith(".setter") for d in node.decorator_list)


def docstring_rules(text: str, line: int, kind: str) -> Iterator[Finding]:
    """Yield violations of the rules of a docstring; `kind` is "function", "property", "class", "module" or "field"."""
    first = text.strip().split("\n")[0]
    word = re.sub(r"\W+$", "", first.split()[0])
    if kind == "function" and word not in IMPERATIVES:
        yield Finding(line, f"docstring begins with {word!r}", "begin with a plain imperative verb of IMPERATIVES")
    if kind != "function" and word in CONTINUATIONS:
        yield Finding(
            line, f"docstring begins with {word!r}", "begin with a full noun phrase (or a verb) that names the thing"
        )
    prose = re.split(r"\n\s*(?:Examples\n\s*-+\s*\n\s*)?>>> ", text.strip())[0].strip()
    if not re.search(r"(?:[.!?:]|\.[)\"'`])$", prose):
        yield Finding(line, f"docstring ends with {prose[-20:]!r}", "end it with a full stop")


def docstrings_in(tree: ast.Module) -> Iterator[Finding]:
    """Yield violations of the rules for docstrings of modules, classes, functions and fields."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        text = ast.get_docstring(node)
        if text is not None:
            kind = "module" if isinstance(node, ast.Module) else "class"
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                kind = "property" if is_property(node) else "function"
            yield from docstring_rules(text, node.body[0].lineno, kind)
        if isinstance(node, ast.ClassDef):
            for before, after in zip(node.body, node.body[1:], strict=False):
                if isinstance(before, ast.AnnAssign) and isinstance(after, ast.Expr):
                    field = message_of(after.value)
                    if field is not None:
                        yield from docstring_rules(field, after.lineno, "field")


def messages_in(tree: ast.Module) -> Iterator[Finding]:
    """Yield messages of errors and warnings that begin in lower case."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["msg"]:
            message = message_of(node.value)
            if message is not None and not re.match(r"[A-Z0-9`{]|module '", message):
                yield Finding(
                    node.lineno, f"message begins with {message[:20]!r}", "begin with a capital letter or a name"
                )


def findings_in_source(source: str) -> list[Finding]:
    tree = ast.parse(source)
    texts = [*strings_of(tree), *comments_of(source)]
    idioms = [finding for text in texts for finding in banned_in(text)]
    return sorted([*idioms, *docstrings_in(tree), *messages_in(tree)], key=lambda finding: finding.line)


def findings_in_page(page: str) -> list[Finding]:
    """Return banned idioms of a Markdown page, outside its code blocks."""
    prose = re.sub(
        r"^( *)(```|~~~).*?^ *\2 *$", lambda m: "\n" * m[0].count("\n"), page, flags=re.MULTILINE | re.DOTALL
    )
    found, line = [], 1
    for paragraph in re.split(r"(\n\s*\n)", prose):
        found += banned_in(Text(line, paragraph))
        line += paragraph.count("\n")
    return found


def report(path: Path, findings: list[Finding]) -> str:
    name = path.relative_to(ROOT).as_posix()
    return "\n".join(f"{name}:{finding.line}: {finding.found}: {finding.repair}" for finding in findings)


def test_prose_of_sources():
    found = {path: findings_in_source(path.read_text(encoding="utf-8")) for path in SOURCES}
    assert not any(found.values()), "\n".join(report(path, findings) for path, findings in found.items() if findings)


def test_prose_of_pages():
    found = {path: findings_in_page(path.read_text(encoding="utf-8")) for path in PAGES}
    assert not any(found.values()), "\n".join(report(path, findings) for path, findings in found.items() if findings)


@pytest.mark.parametrize(
    ("sentence", "repaired"),
    [
        (
            "What rows are known by that are read once: digests, taken as they come by.",
            "Digests of row ranges, computed while the rows are streamed.",
        ),
        ("Those of the input, and what runs along them.", "Names of the input's columns."),
        ("Of JAX, on which the numbers depend.", "Settings of JAX that the numbers depend on."),
        ("Draws that are made anew.", "Draws that are resampled."),
        ("Posterior draws, without a word about chains.", "Posterior draws, silently merged over chains."),
    ],
)
def test_rules_reject_sentences_and_accept_their_repair(sentence, repaired):
    def findings(text: str) -> list[Finding]:
        return findings_in_source(f'"""{text}"""\n')

    assert findings(sentence)
    assert not findings(repaired)


@pytest.mark.parametrize("verb", ["Refuse", "Say", "Look", "Tell", "Let"])
def test_docstrings_of_functions_begin_with_plain_verbs(verb):
    assert findings_in_source(f'"""Checks."""\n\n\ndef f():\n    """{verb} rows."""\n')
    assert not findings_in_source('"""Checks."""\n\n\ndef f():\n    """Check rows."""\n')
