"""Numbers that cannot be worked with, said with the name of the matrix that they come from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from sprue.errors import InputError

_LinAlgError: type[Exception] = vars(torch.linalg)["LinAlgError"]  # which it has, undeclared


@contextmanager
def blamed(name: str) -> Iterator[None]:
    """What `sprue.weights` refuses within a `with` becomes an InputError that names the matrix."""
    try:
        yield
    except (ValueError, _LinAlgError) as error:
        raise InputError(f"{name}: {error}") from error
