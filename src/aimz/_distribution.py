"""Name and version of the distribution, and a check that no other distribution has written into this package."""

__all__ = ["NAME", "VERSION", "check_distribution"]

import base64
import hashlib
from pathlib import Path

from aimz.errors import AimzWarning, warn

NAME = "aimz-whatif"
"""Name of the distribution; ``aimz`` on the package index is another project."""

VERSION = "0.1.0"
"""Version of the package."""


def check_distribution(package: Path) -> None:
    """Check that the distribution ``aimz`` has not written its files into the directory of this package.

    Only the names in the directory above ``package`` are read, unless the other distribution is there.
    """
    for info in package.parent.glob("aimz-*.dist-info"):
        record = info / "RECORD"
        lines = record.read_text(encoding="utf-8").splitlines() if record.exists() else []
        written = next((line.split(",") for line in lines if line.startswith("aimz/__init__.py,")), None)
        if written is None:  # an editable installation
            continue
        version = info.name.removeprefix("aimz-").removesuffix(".dist-info")
        digest = hashlib.sha256((package / "__init__.py").read_bytes()).digest()
        given = f"{package} has files of two distributions, `{NAME}` {VERSION} and `aimz` {version}, another project"
        repair = f"Call `pip uninstall aimz {NAME}`, then install `{NAME}` again."
        if written[1] == "sha256=" + base64.urlsafe_b64encode(digest).decode().rstrip("="):
            msg = f"{given}, whose `__init__.py` is the one that was imported. Only `{NAME}` may be installed. {repair}"
            raise ImportError(msg)
        warn(
            f"{given}; removing or updating `aimz` would damage this package. Expected only `{NAME}`. {repair}",
            AimzWarning,
        )


check_distribution(Path(__file__).parent)
