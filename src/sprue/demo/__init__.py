"""The embedded default: a small language model and texts to calibrate and to measure with.

The model has the Llama architecture: 5.77 million parameters, hidden size 256, six layers, four
heads (two for keys and values), a byte-level vocabulary of 4096, tied embeddings, and contexts of
256 tokens. It was trained on four capabilities: code, legal, security and stories.
`text/README.md` states the source and the license of every text.
"""

from __future__ import annotations

from pathlib import Path

CAPABILITIES = ("code", "legal", "security", "stories")
_HERE = Path(__file__).resolve().parent


def model_path() -> Path:
    """The folder of the embedded model, in the Hugging Face layout."""
    return _HERE / "base6m"


def calibration_files() -> tuple[Path, ...]:
    """One text per capability that the model was trained on, about 250 kB each."""
    return _texts("calibration")


def test_files() -> tuple[Path, ...]:
    """One text per capability that the model was never trained on, about 100 kB each."""
    return _texts("test")


def _texts(kind: str) -> tuple[Path, ...]:
    return tuple(_HERE / "text" / kind / f"{name}.txt" for name in CAPABILITIES)
