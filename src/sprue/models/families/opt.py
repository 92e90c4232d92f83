"""OPT: learned positions; the 350m size has narrower embeddings (project_in/out), no final norm."""

from __future__ import annotations

from typing import Any

from sprue.models.family import Family, Group

GROUPS = (
    Group("attn", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
    Group("attn_out", ("self_attn.out_proj",)),
    Group("mlp", ("fc1",)),
    Group("mlp_out", ("fc2",)),
)


def layout(config: Any) -> tuple[Group, ...]:
    """Four inputs a block, whatever the configuration."""
    return GROUPS


FAMILY = Family(
    name="OPT",
    model_types=("opt",),
    layout=layout,
    blocks="model.decoder.layers",
    embedding="model.decoder.embed_tokens",
    norm="model.decoder.final_layer_norm",
    positions="model.decoder.embed_positions",
    extra=("model.decoder.project_in", "model.decoder.project_out"),
)
