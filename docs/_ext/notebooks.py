"""Execute the notebooks of the examples, and store them with their outputs as pages of the site."""

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

DOCS = Path(__file__).resolve().parents[1]
EXAMPLES = DOCS.parent / "examples"


def execute(source: Path) -> None:
    """Execute a notebook in the folder of the examples, and write it to `docs/notebooks`."""
    notebook = nbformat.read(source, as_version=4)
    resources = {"metadata": {"path": str(EXAMPLES)}}
    NotebookClient(notebook, timeout=900, kernel_name="python3", resources=resources).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times differ in each run
        cell.outputs = [output for output in cell.get("outputs", []) if output.get("name") != "stderr"]
        if cell.cell_type != "code":
            del cell["outputs"]
    target = DOCS / "notebooks" / source.name
    target.parent.mkdir(exist_ok=True)
    nbformat.write(notebook, target)


if __name__ == "__main__":
    for name in sys.argv[1:] or [path.name for path in sorted(EXAMPLES.glob("*.ipynb"))]:
        execute(EXAMPLES / name)
