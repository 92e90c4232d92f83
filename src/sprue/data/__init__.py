"""Calibration and evaluation data: read, tokenize, sample with a seed, fingerprint."""

from __future__ import annotations

from sprue.data.split import set_apart
from sprue.data.text import Document, fingerprint, read, windows

__all__ = ["Document", "fingerprint", "read", "set_apart", "windows"]
