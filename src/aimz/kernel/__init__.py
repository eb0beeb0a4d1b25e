"""The user's model, read once: callable -> :class:`KernelSpec`, and what a call does with each of its sites."""

from aimz.kernel.digest import digest_program
from aimz.kernel.execute import Execution, Message
from aimz.kernel.independence import site_obstacle
from aimz.kernel.intervene import Intervened, read_intervention
from aimz.kernel.reader import Columns, KernelReader
from aimz.kernel.rows import RowUse, row_use
from aimz.kernel.signature import KernelSignature, kernel_name, read_signature
from aimz.kernel.spec import KernelSpec, Role, Site
from aimz.kernel.static import Recent, freeze
from aimz.kernel.substitute import Scored, Source, Substitution, substitute

__all__ = [
    "Columns",
    "Execution",
    "Intervened",
    "KernelReader",
    "KernelSignature",
    "KernelSpec",
    "Message",
    "Recent",
    "Role",
    "RowUse",
    "Scored",
    "Site",
    "Source",
    "Substitution",
    "digest_program",
    "freeze",
    "kernel_name",
    "read_intervention",
    "read_signature",
    "row_use",
    "site_obstacle",
    "substitute",
]
