"""Phi-3 and Phi-4: q, k and v are one matrix, gate and up are one matrix."""

from __future__ import annotations

from typing import Any

from sprue.models.family import Family, FeedForward, Group

GROUPS = (
    Group("attn", ("self_attn.qkv_proj",)),
    Group("attn_out", ("self_attn.o_proj",)),
    Group("mlp", ("mlp.gate_up_proj",)),
    Group("mlp_out", ("mlp.down_proj",)),
)


def layout(config: Any) -> tuple[Group, ...]:
    """Four inputs a block, whatever the configuration."""
    return GROUPS


FAMILY = Family(
    name="Phi-3",
    model_types=("phi3",),
    layout=layout,
    feed_forward=FeedForward(up="gate_up_proj", gate="gate_up_proj", activation="activation_fn"),
)
