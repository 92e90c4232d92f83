"""What a family of architectures is: where its parts are, and which linears share an input."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Group:
    """Linears of one block that read the same tensor, so that one second moment serves them all.

    Attributes:
        inputs: a name for that tensor ("attn").
        linears: local names within the block, in forward order.
    """

    inputs: str
    linears: tuple[str, ...]


@dataclass(frozen=True)
class FeedForward:
    """The feed-forward layer of a block: down(act(gate x) * up x), or down(act(up x)).

    Attributes:
        module: its local name in the block; it maps one tensor to one tensor.
        up, down: linears in it.
        gate: another, or None; the same as `up` where one matrix holds both, gate first.
        activation: attribute of the module.
    """

    module: str = "mlp"
    up: str = "up_proj"
    down: str = "down_proj"
    gate: str | None = "gate_proj"
    activation: str = "act_fn"


@dataclass(frozen=True)
class Mixture:
    """The experts of a block, where it has any: a router and a module that holds all of them.

    Modules: `router`.weight is [experts, hidden], one row for each; the experts' matrices are one
    tensor each, [experts, 2 * neurons, hidden] (gate first) and [experts, hidden, neurons].
    Checkpoints hold the matrices of every expert apart, `stored`.experts.E.MATRIX.weight.

    Attributes:
        module: local name of what holds router and experts.
        router, experts: local names of these.
        stored: what checkpoints call `module`.
        matrices: what they call gate, up and down.
        counts: keys of config.json that say how many experts there are.
    """

    module: str = "mlp"
    router: str = "mlp.gate"
    experts: str = "mlp.experts"
    stored: str = "mlp"
    matrices: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj")
    counts: tuple[str, ...] = ("num_experts", "num_local_experts")


@dataclass(frozen=True)
class Family:
    """Module names of an architecture, as `transformers` spells them.

    Attributes:
        name: what to call it in a message.
        model_types: the `model_type` values of config.json that it covers.
        layout: config -> groups of one block, in forward order (every block is alike).
        blocks: the list of blocks ("model.layers").
        embedding: the token embedding.
        norm: the final norm (some configurations have none).
        head: the output layer.
        positions: the learned positional embedding, if the family has one.
        extra: linears outside the blocks, which some configurations have.
        transposed: block linears store [in, out] (GPT-2's Conv1D).
        renames: (prefix in older checkpoints, prefix of the module).
        feed_forward: what the feed-forward layer of a block is; None where it is no module.
        mixture: what the experts of a block are; None for dense models.
    """

    name: str
    model_types: tuple[str, ...]
    layout: Callable[[Any], tuple[Group, ...]]
    blocks: str = "model.layers"
    embedding: str = "model.embed_tokens"
    norm: str = "model.norm"
    head: str = "lm_head"
    positions: str | None = None
    extra: tuple[str, ...] = ()
    transposed: bool = False
    renames: tuple[tuple[str, str], ...] = ()
    feed_forward: FeedForward | None = None
    mixture: Mixture | None = None

    def groups(self, config: Any) -> tuple[Group, ...]:
        """The groups of every block of a model with `config`, in forward order."""
        return self.layout(config)

    def linears(self, config: Any) -> tuple[str, ...]:
        """Local names of all linears of a block, in forward order."""
        return tuple(name for group in self.groups(config) for name in group.linears)

    def block(self, i: int) -> str:
        """Module name of block `i`."""
        return f"{self.blocks}.{i}"
