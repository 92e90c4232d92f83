"""Phi-1, 1.5 and 2: attention and MLP stand side by side and read the same normalized input."""

from __future__ import annotations

from typing import Any

from sprue.models.family import Family, FeedForward, Group

GROUPS = (
    Group("block", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.fc1")),
    Group("attn_out", ("self_attn.dense",)),
    Group("mlp_out", ("mlp.fc2",)),
)


def layout(config: Any) -> tuple[Group, ...]:
    """Three inputs a block, whatever the configuration."""
    return GROUPS


FAMILY = Family(
    name="Phi",
    model_types=("phi",),
    layout=layout,
    norm="model.final_layernorm",
    feed_forward=FeedForward(up="fc1", down="fc2", gate=None, activation="activation_fn"),
)
