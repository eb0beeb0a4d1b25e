"""Package of the public module :mod:`aimz.utils.data`."""
