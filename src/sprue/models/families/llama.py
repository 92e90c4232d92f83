"""Llama and the families that kept its module names.

Biases, grouped-query attention, sliding windows and norms on queries and keys differ between them;
none of that changes which linears share an input.
"""

from __future__ import annotations

from typing import Any

from sprue.models.family import Family, FeedForward, Group

GROUPS = (
    Group("attn", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
    Group("attn_out", ("self_attn.o_proj",)),
    Group("mlp", ("mlp.gate_proj", "mlp.up_proj")),
    Group("mlp_out", ("mlp.down_proj",)),
)


def layout(config: Any) -> tuple[Group, ...]:
    """Four inputs a block, whatever the configuration."""
    return GROUPS


FAMILY = Family(
    name="Llama, Mistral, Qwen2, Qwen3, Granite, OLMo 2, SmolLM3",
    model_types=(
        "llama",
        "mistral",
        "ministral",
        "qwen2",
        "qwen3",
        "granite",
        "olmo2",
        "smollm3",
    ),
    layout=layout,
    feed_forward=FeedForward(),
)
