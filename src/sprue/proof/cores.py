"""Cores of this machine. A module of its own: ranking a log needs it, and does without torch."""

from __future__ import annotations

import os


def cores() -> int:
    """That this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
