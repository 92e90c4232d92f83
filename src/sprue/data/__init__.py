"""Calibration and evaluation data: read, tokenize, sample with a seed, fingerprint."""

from __future__ import annotations

from sprue.data.images import Images, Preprocess, read_images
from sprue.data.split import set_apart
from sprue.data.text import Document, fingerprint, read, windows

__all__ = [
    "Document",
    "Images",
    "Preprocess",
    "fingerprint",
    "read",
    "read_images",
    "set_apart",
    "windows",
]
