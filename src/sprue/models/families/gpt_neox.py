"""GPT-NeoX (Pythia): q, k and v are one matrix; attention and MLP have a norm each.

Checkpoints call the head `embed_out`, the module is `lm_head`.
"""

from __future__ import annotations

from typing import Any

from sprue.models.family import Family, FeedForward, Group

GROUPS = (
    Group("attn", ("attention.query_key_value",)),
    Group("attn_out", ("attention.dense",)),
    Group("mlp", ("mlp.dense_h_to_4h",)),
    Group("mlp_out", ("mlp.dense_4h_to_h",)),
)


def layout(config: Any) -> tuple[Group, ...]:
    """Four inputs a block, whatever the configuration."""
    return GROUPS


FAMILY = Family(
    name="GPT-NeoX",
    model_types=("gpt_neox",),
    layout=layout,
    blocks="gpt_neox.layers",
    embedding="gpt_neox.embed_in",
    norm="gpt_neox.final_layer_norm",
    renames=(("embed_out.", "lm_head."),),
    feed_forward=FeedForward(up="dense_h_to_4h", down="dense_4h_to_h", gate=None, activation="act"),
)
