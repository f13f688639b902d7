"""Errors a person can act on: each names what is wrong, where, and the mend."""

from __future__ import annotations


class RecrlError(Exception):
    """A mistake the user can mend.

    ``what`` says what is wrong (with the offending value), ``where`` names the file, row, argument or
    option, ``mend`` says what to do. The CLI prints the three and exits with 2, without a traceback.
    """

    def __init__(self, what: str, *, where: str = "", mend: str = "") -> None:
        self.what, self.where, self.mend = what, where, mend
        super().__init__(what, where, mend)

    def __str__(self) -> str:
        lines = [self.what]
        if self.where:
            lines.append(f"  where: {self.where}")
        if self.mend:
            lines.append(f"  mend:  {self.mend}")
        return "\n".join(lines)


class DataError(RecrlError):
    """A log, table or file does not hold what its schema asks for."""


class ConfigError(RecrlError):
    """An option or configuration key is unknown, missing or out of range."""


class ContractError(RecrlError):
    """An implementation breaks a contract of :mod:`recrl.core.contracts`."""


class StorageError(RecrlError):
    """A file or folder could not be read or written (missing, read-only, full disk, broken)."""


class CheckpointError(StorageError):
    """A checkpoint is broken, or belongs to another configuration."""


class MissingDependencyError(RecrlError):
    """An optional package is needed for what was asked."""
