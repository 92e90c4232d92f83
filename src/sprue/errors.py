"""The errors that a user can mend: each says what was expected, what came, what to do next."""

from __future__ import annotations


class SprueError(Exception):
    """Anything that the command line reports as one line, without a traceback."""


class InputError(SprueError):
    """A model, a data file or an argument that cannot be used."""


class BudgetError(SprueError):
    """A budget that cannot be met."""


class ArtifactError(SprueError):
    """A compressed folder that is truncated, tampered with or incomplete."""


class ResourceError(SprueError):
    """Too little memory or disk on this machine."""


class SprueWarning(UserWarning):
    """What a user may want to do otherwise; the command line says it in one line."""
