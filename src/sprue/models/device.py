"""Where blocks run."""

from __future__ import annotations

import torch

from sprue.errors import InputError

DEVICES = ("cpu", "cuda")


def check_device(device: str) -> None:
    """Refuse what cannot run here.

    Raises:
        InputError: no such device, or none on this machine.
    """
    expected = f"device {device!r} cannot be used here: expected {' or '.join(DEVICES)}"
    try:
        if torch.device(device).type not in DEVICES:
            raise InputError(expected)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"{expected} ({reason})") from error
