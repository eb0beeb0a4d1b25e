"""Home of the public path :mod:`aimz.utils.data`; nothing else lives here."""
