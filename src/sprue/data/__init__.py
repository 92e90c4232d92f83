"""Calibration and evaluation data: read, tokenize, sample with a seed, fingerprint."""

from __future__ import annotations

from sprue.data.text import Document, fingerprint, read, split, windows

__all__ = ["Document", "fingerprint", "read", "split", "windows"]
