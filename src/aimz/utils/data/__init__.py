"""Arrays in: what the user passes -> arrays that are safe to hand to the device."""

from aimz.utils.data.arrays import Call, fingerprint, read_array, read_call, read_count

__all__ = ["Call", "fingerprint", "read_array", "read_call", "read_count"]
