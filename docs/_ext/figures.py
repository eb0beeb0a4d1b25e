"""Write the images of pages: run the blocks of a page, and save `figure` wherever the page shows an image."""

import re
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1]
PARTS = re.compile(
    r"^```python\n(?P<code>.*?)^```$|!\[[^\]]*\]\((?:\.\./)?(?P<image>images/\w+\.png)\)",
    re.MULTILINE | re.DOTALL,
)


def write_images(page: Path) -> None:
    """Run a page and write its images."""
    namespace = {"__name__": "page"}
    for part in PARTS.finditer(page.read_text(encoding="utf-8")):
        if part["image"]:
            namespace["figure"].savefig(DOCS / part["image"], dpi=110)
            print(part["image"])  # noqa: T201
        else:
            exec(part["code"], namespace)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        write_images(Path(name))
