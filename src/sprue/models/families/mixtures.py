"""Models of experts: Mixtral, Qwen2-MoE, Qwen3-MoE, OLMoE. Attention is named as in Llama."""

from __future__ import annotations

from sprue.models.families import llama
from sprue.models.family import Family, Group, Mixture


def layout(config: object) -> tuple[Group, ...]:
    """Attention alone: which linears of the experts share an input depends on the token."""
    return llama.GROUPS[:2]


MIXTRAL = Family(
    name="Mixtral",
    model_types=("mixtral",),
    layout=layout,
    mixture=Mixture(stored="block_sparse_moe", matrices=("w1", "w3", "w2")),
)
QWEN = Family(
    name="Qwen2-MoE, Qwen3-MoE, OLMoE",
    model_types=("qwen2_moe", "qwen3_moe", "olmoe"),
    layout=layout,
    mixture=Mixture(),
)
