"""The user's model, read once: callable -> :class:`KernelSpec`, and what a call does with each of its sites."""

from aimz.kernel.digest import digest_program
from aimz.kernel.example import Example, kernel_digest
from aimz.kernel.execute import Execution, Message
from aimz.kernel.independence import site_obstacle
from aimz.kernel.intervene import Intervened, read_intervention
from aimz.kernel.reader import Columns, KernelReader, is_storable, read_kernel
from aimz.kernel.rows import RowUse, row_use
from aimz.kernel.signature import KernelSignature, kernel_name, read_signature
from aimz.kernel.spec import KernelSpec, Role, Site
from aimz.kernel.static import Recent, freeze
from aimz.kernel.substitute import Scored, Source, Substitution, substitute
from aimz.kernel.table import COLUMNS, WIDTH, html_block, html_table, site_cells, text_table, written_shape
from aimz.kernel.trace import AbstractExecution, n_rows

__all__ = [
    "COLUMNS",
    "WIDTH",
    "AbstractExecution",
    "Columns",
    "Example",
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
    "html_block",
    "html_table",
    "is_storable",
    "kernel_digest",
    "kernel_name",
    "n_rows",
    "read_intervention",
    "read_kernel",
    "read_signature",
    "row_use",
    "site_cells",
    "site_obstacle",
    "substitute",
    "text_table",
    "written_shape",
]
