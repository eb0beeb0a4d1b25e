"""Measure the call path of a warm prediction and a warm comparison, and the size of the source.

``python benchmarks/call_path.py`` measures the ``aimz`` that is imported; ``PYTHONPATH=OTHER/src`` selects another one.
"""

import ast
import io
import re
import sys
import tempfile
import tokenize
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import MCMC, NUTS

import aimz
from aimz import ImpactModel

SOURCE = Path(aimz.__file__).parent
N_ROWS = 100
N_DRAWS = 10
# Names before and after the types that hold rows were given plainer names.
ROW_TYPES = (
    "Rows|Field|Stacked|Matrix|_Picked|Share|Held|StoredRows|Columns|RowReader|LazyArray|BatchField|StackedArrays|RowSlice"
    "|InMemorySource|ZarrSource|ColumnsSource|ArraySource|RowSource|InputSource|DaskSource"
)


def kernel(X, y=None):
    """A linear regression."""
    b = numpyro.sample("b", dist.Normal().expand([X.shape[1]]).to_event(1))
    sigma = numpyro.sample("sigma", dist.HalfNormal())
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(X @ b, sigma), obs=y)


class Trace:
    """Calls of functions of aimz in the calling thread; generator expressions are part of their function."""

    def __init__(self) -> None:
        self.calls: Counter[tuple[str, str, int]] = Counter()
        self.files: list[str] = []
        self.depth = 0
        self.max_depth = 0

    def __call__(self, frame: FrameType, event: str, _argument: Any) -> None:
        """Count one event of ``sys.setprofile``."""
        code = frame.f_code
        if event not in ("call", "return") or not code.co_filename.startswith(str(SOURCE)):
            return
        if code.co_name == "<genexpr>":
            return
        self.depth += 1 if event == "call" else -1
        if event == "call":
            self.max_depth = max(self.max_depth, self.depth)
            self.calls[code.co_filename, code.co_qualname, code.co_firstlineno] += 1
            self.files.append(code.co_filename)

    def run(self, function: Callable[[], Any]) -> None:
        """Call a function and count what it calls."""
        sys.setprofile(self)
        try:
            function()
        finally:
            sys.setprofile(None)

    def report(self) -> str:
        """Return the counts as one line."""
        switches = sum(a != b for a, b in zip(self.files, self.files[1:], strict=False))
        return (
            f"{self.calls.total()} calls, {len(self.calls)} functions, {len(set(self.files))} files, "
            f"{switches} file switches, depth {self.max_depth}"
        )


def traced(function: Callable[[], Any]) -> str:
    """Return the counts of a warm call."""
    for _ in range(3):
        function()
    trace = Trace()
    trace.run(function)
    return trace.report()


def lines_of_code(text: str) -> int:
    """Return the number of lines with code: no blank lines, comments or docstrings."""
    lines: set[int] = set()
    skipped = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in skipped:
            lines |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        # Docstrings, and the strings below a field or an assignment that document it.
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines -= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(lines)


def imports_in_functions(tree: ast.AST) -> int:
    """Return the number of import statements inside functions."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found |= {n.lineno for n in ast.walk(node) if isinstance(n, ast.Import | ast.ImportFrom)}
    return len(found)


def static_counts() -> list[str]:
    """Return lines with the sizes of the source and counts of constructs in it."""
    texts = {path.relative_to(SOURCE): path.read_text() for path in SOURCE.rglob("*.py")}
    sizes = {path: lines_of_code(text) for path, text in texts.items()}
    total = sum(sizes.values())
    packages: Counter[str] = Counter()
    for path, size in sizes.items():
        packages[path.parts[0]] += size
    (package, most), *_ = packages.most_common()
    largest = max(texts, key=lambda path: texts[path].count("\n"))
    row_checks = re.compile(rf"isinstance\([^()]*(?:\([^()]*\)[^()]*)*\b(?:{ROW_TYPES})\b")
    imports = sum(imports_in_functions(ast.parse(text)) for text in texts.values())
    return [
        f"lines of code: {total} in {len(texts)} files",
        f"largest package: {package}, {most} lines of code ({most / total:.1%})",
        f"largest file: {largest}, {texts[largest].count(chr(10))} lines",
        f"imports inside functions: {imports}",
        f"isinstance checks on row types: {sum(len(row_checks.findall(text)) for text in texts.values())}",
        f"# noqa: {sum(text.count('# noqa') for text in texts.values())}",
    ]


def main() -> None:
    """Print the measurements."""
    warnings.simplefilter("ignore")
    rng = np.random.default_rng(0)
    X = rng.normal(size=(N_ROWS, 3)).astype(np.float32)
    draws = {"b": rng.normal(size=(N_DRAWS, 3)).astype(np.float32), "sigma": np.ones(N_DRAWS, np.float32)}
    mcmc = MCMC(NUTS(kernel), num_warmup=1, num_samples=1, progress_bar=False)
    model = ImpactModel(kernel, jax.random.key(0), mcmc).set_posterior_sample(draws)
    scenarios = {"as is": {}, "none": {"intervention": {"b": 0.0}}}
    with tempfile.TemporaryDirectory() as directory:
        print("predict:", traced(lambda: model.predict(X, output_dir=directory, progress=False)))
    compare = traced(lambda: model.compare_scenarios(scenarios, baseline="as is", X=X, progress=False))
    print("compare_scenarios:", compare)
    print(*static_counts(), sep="\n")


if __name__ == "__main__":
    main()
