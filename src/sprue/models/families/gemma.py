"""Gemma 1, 2 and 3 (text): Llama's names; scaled embeddings, soft caps and windows inside."""

from __future__ import annotations

from sprue.models.families.llama import layout
from sprue.models.family import Family, FeedForward

FAMILY = Family(
    name="Gemma",
    model_types=("gemma", "gemma2", "gemma3_text"),
    layout=layout,
    feed_forward=FeedForward(),
)
