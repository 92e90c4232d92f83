"""Numbers that cannot be worked with, said with the name of the matrix that they come from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from sprue.errors import InputError

_LinAlgError: type[Exception] = vars(torch.linalg)["LinAlgError"]  # which it has, undeclared


def check_finite(name: str, *figures: Tensor) -> None:
    """Refuse what a module receives or answers where it is not finite.

    Raises:
        InputError: it is not.
    """
    if not all(bool(torch.isfinite(some).all()) for some in figures):
        raise InputError(
            f"{name}: what it receives or answers on the calibration text is not finite in float32;"
            " the checkpoint may be damaged: fetch or train it again"
        )


@contextmanager
def blamed(name: str) -> Iterator[None]:
    """What `sprue.weights` refuses within a `with` becomes an InputError that names the matrix."""
    try:
        yield
    except (ValueError, _LinAlgError) as error:
        raise InputError(f"{name}: {error}") from error
