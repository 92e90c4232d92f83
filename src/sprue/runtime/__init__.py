"""Modules that run packed weights, and how transformers loads them.

Importing this imports neither torch nor transformers; `runtime.linear` holds the modules,
`runtime.quantizer` what `from_pretrained` uses, `runtime.load` opens a folder.
"""

from sprue.runtime.artifact import (
    METHOD,
    VERSION,
    check,
    quantization_config,
    record_verdict,
    seal,
)
from sprue.runtime.register import register

__all__ = [
    "METHOD",
    "VERSION",
    "check",
    "quantization_config",
    "record_verdict",
    "register",
    "seal",
]
