"""StableLM: Llama's names; some sizes run attention and MLP side by side on one input."""

from __future__ import annotations

from typing import Any

from sprue.models.families import llama
from sprue.models.family import Family, FeedForward, Group

PARALLEL = (
    Group("block", llama.GROUPS[0].linears + llama.GROUPS[2].linears),
    llama.GROUPS[1],
    llama.GROUPS[3],
)


def layout(config: Any) -> tuple[Group, ...]:
    """Three inputs with parallel residuals, else Llama's four."""
    return PARALLEL if config.use_parallel_residual else llama.GROUPS


FAMILY = Family(
    name="StableLM", model_types=("stablelm",), layout=layout, feed_forward=FeedForward()
)
