"""The registry: one table per family, named in one place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sprue.errors import InputError
from sprue.models.families import gemma, gpt2, gpt_neox, llama, mixtures, opt, phi, phi3, stablelm
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
# Their matrices are of one expert each, and few tokens see any: they are dropped, not packed.
MIXTURES: tuple[Family, ...] = (mixtures.MIXTRAL, mixtures.QWEN)


def find(config: Any, among: tuple[Family, ...] = FAMILIES) -> Family:
    """The family of a `transformers` config, or of the dictionary in config.json.

    Raises:
        InputError: unknown `model_type`; the message lists the known ones and says what to write.
    """
    listed = config.get("model_type") if isinstance(config, Mapping) else None
    model_type = listed or getattr(config, "model_type", None)
    for family in among:
        if model_type in family.model_types:
            return family
    known = ", ".join(sorted(t for family in among for t in family.model_types))
    raise InputError(
        f"unknown architecture: config.json has model_type {model_type!r}. Known: {known}. "
        + _hint(model_type, among)
    )


def _hint(model_type: object, among: tuple[Family, ...]) -> str:
    if among is MIXTURES:
        return "Only models that have experts can drop some."
    if any(model_type in family.model_types for family in MIXTURES):
        return "It has experts: 'sprue experts --drop 50%' leaves out those that it needs least."
    return (
        "To add one, write a table like sprue/models/families/llama.py (which linears of a block "
        "share an input, and the names around them) and register it in families/__init__.py."
    )
