"""GPT-2: Conv1D layers that store [in, out], learned positions, tied head."""

from __future__ import annotations

from typing import Any

from sprue.models.family import Family, FeedForward, Group

GROUPS = (
    Group("attn", ("attn.c_attn",)),
    Group("attn_out", ("attn.c_proj",)),
    Group("mlp", ("mlp.c_fc",)),
    Group("mlp_out", ("mlp.c_proj",)),
)


def layout(config: Any) -> tuple[Group, ...]:
    """Four inputs a block, whatever the configuration."""
    return GROUPS


FAMILY = Family(
    name="GPT-2",
    model_types=("gpt2",),
    layout=layout,
    blocks="transformer.h",
    embedding="transformer.wte",
    norm="transformer.ln_f",
    positions="transformer.wpe",
    transposed=True,
    feed_forward=FeedForward(up="c_fc", down="c_proj", gate=None, activation="act"),
)
