"""Methods that test an answer: rehearsal, sensitivity, identification and the report."""

__all__ = ()
