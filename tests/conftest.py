"""What every test shares: one thread, no network, and the embedded model."""

from __future__ import annotations

import os

# Before torch is imported, which reads them once. Two processes with two threads each stall one
# another on two cores.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"

from pathlib import Path

import pytest
import torch

from sprue import demo

torch.set_num_threads(1)

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def base6m() -> Path:
    """The embedded model's folder."""
    return demo.model_path()
