"""The registry: one table per family, named in one place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sprue.errors import InputError
from sprue.models.families import gemma, gpt2, gpt_neox, llama, opt, phi, phi3, stablelm
from sprue.models.family import Family

FAMILIES: tuple[Family, ...] = (
    llama.FAMILY,
    gemma.FAMILY,
    phi.FAMILY,
    phi3.FAMILY,
    gpt2.FAMILY,
    gpt_neox.FAMILY,
    opt.FAMILY,
    stablelm.FAMILY,
)


def find(config: Any) -> Family:
    """The family of a `transformers` config, or of the dictionary in config.json.

    Raises:
        InputError: unknown `model_type`; the message lists the known ones and says what to write.
    """
    listed = config.get("model_type") if isinstance(config, Mapping) else None
    model_type = listed or getattr(config, "model_type", None)
    for family in FAMILIES:
        if model_type in family.model_types:
            return family
    known = ", ".join(sorted(t for family in FAMILIES for t in family.model_types))
    raise InputError(
        f"unknown architecture: config.json has model_type {model_type!r}. Known: {known}. "
        "To add one, write a table like sprue/models/families/llama.py (which linears of a block "
        "share an input, and the names around them) and register it in families/__init__.py."
    )
