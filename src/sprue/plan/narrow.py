"""A causal language model with fewer heads, neurons and layers, still of its class and config.

Heads and neurons leave by `plan.prune`: what a kind of unit keeps is the same in all layers, so
that one number of the config says it. Layers leave one at a time, the one first whose absence moves
the answers least (Men et al. 2024, arXiv:2403.03853, with the divergence of the answers in the
place of their block influence); at the same share of FLOPs a model with fewer layers is wider, and
the one whose answers are nearer to the original's is taken.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sprue.errors import BudgetError, InputError
from sprue.models.families import find
from sprue.models.plain_config import told_with
from sprue.models.speaker import Speaker
from sprue.plan.distill import divergence
from sprue.plan.prune import Pruner
from sprue.plan.uniform import sets_of

_BATCH = 8  # windows
_LOOKED_AT = 16  # windows that answers are compared on
_DEEP = 2  # layers below which none leaves


@dataclass(frozen=True)
class Narrowed:
    """What came of it.

    Attributes:
        model: of the class of the original, float32.
        flops: of linears and head for a token, as a share of the original's.
        layers: of the original that are left, ascending.
        left: layer that reads a kind of unit -> (units before, units left).
        kl_nats: divergence of its answers from the original's, nats per token.
    """

    model: Any
    flops: float
    layers: tuple[int, ...]
    left: dict[str, tuple[int, int]]
    kl_nats: float


def narrowed(
    model: Any,
    ids: Tensor,
    share: float,
    seed: int = 0,
    progress: Callable[[str], object] = lambda words: None,
) -> Narrowed:
    """The model at this share of its FLOPs, what is left fitted by least squares.

    Args:
        model: a causal language model of `transformers`, in eval mode, float32; stays.
        ids: windows of what it should stay good at, int64 [windows, tokens].
        share: of the FLOPs of linears and head for a token, above 0 and up to 1.
        seed: of the readings.
        progress: called with a few words before every step.

    Raises:
        BudgetError: a share that cannot be met.
        InputError: a class whose graph cannot be read.
    """
    some = ids[torch.linspace(0, len(ids) - 1, min(len(ids), _LOOKED_AT)).long()]
    whole, head = linear_flops(model), _head_flops(model)
    if share * whole <= head:
        raise BudgetError(
            f"{share:.1%} of the FLOPs cannot be met: the head alone takes {head / whole:.1%}, and "
            "it only gets smaller with the vocabulary"
        )
    found, current = None, model
    layers = tuple(range(depth(model)))
    while True:
        progress(f"cutting {len(layers)} layers to {100 * share:.3g}% of the FLOPs")
        tried = _cut(model, current, layers, ids, some, share, whole, seed)
        better = tried is not None and (found is None or tried.kl_nats < found.kl_nats)
        if tried is not None and not better:
            break
        found = tried if better else found
        if len(layers) <= _DEEP:
            break
        progress(f"looking which of {len(layers)} layers to leave out")
        current, gone = _shallower(current, some)
        layers = tuple(layer for i, layer in enumerate(layers) if i != gone)
    if found is None:
        raise BudgetError(
            f"{share:.1%} of the FLOPs cannot be met: fewer than {_DEEP} layers would be left"
        )
    return found


def linear_flops(model: Any) -> int:
    """Of a token through all linears and the head, two for each weight."""
    total = sum(
        m.weight.numel()
        for name, m in model.named_modules()
        if isinstance(getattr(m, "weight", None), Tensor)
        and m.weight.dim() == 2
        and not isinstance(m, torch.nn.Embedding)
    )
    return 2 * int(total)


def _head_flops(model: Any) -> int:
    """Of them those of the head, which no unit takes along."""
    embedding = model.get_input_embeddings()
    return 2 * int(embedding.num_embeddings * embedding.embedding_dim)


def depth(model: Any) -> int:
    """How many layers a model has."""
    return len(model.get_submodule(find(model.config).blocks))


def without_layer(model: Any, gone: int) -> Any:
    """A model of the same class that lacks a layer; the weights of the others are its own.

    Raises:
        InputError: the class cannot be built with fewer layers.
    """
    count, blocks = depth(model), find(model.config).blocks
    config = copy.deepcopy(model.config)
    config.num_hidden_layers = count - 1
    for name, value in config.to_dict().items():  # what is said of each layer
        if isinstance(value, list) and len(value) == count:
            setattr(config, name, [v for i, v in enumerate(value) if i != gone])
    state = {}
    for name, tensor in model.state_dict().items():
        inside = name.startswith(f"{blocks}.")
        place, _, local = name.removeprefix(f"{blocks}.").partition(".")
        if inside and int(place) == gone:
            continue
        if inside:
            name = f"{blocks}.{int(place) - (int(place) > gone)}.{local}"
        state[name] = tensor
    return _rebuilt(model, config, state)


def _rebuilt(model: Any, config: Any, state: dict[str, Tensor]) -> Any:
    """A model of a class, with another config and other weights, float32, in eval mode.

    Raises:
        InputError: the class does not fit them.
    """
    try:
        with torch.random.fork_rng(devices=[]):
            made = type(model)(config).float().eval()
        made.load_state_dict(state)
    except Exception as error:  # what a class says of a config that it was not written for
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{type(model).__name__} cannot be built that small: {reason}") from error
    made.generation_config = copy.deepcopy(model.generation_config)
    return made


def _cut(
    original: Any,
    model: Any,
    layers: tuple[int, ...],
    ids: Tensor,
    some: Tensor,
    share: float,
    whole: int,
    seed: int,
) -> Narrowed | None:
    """What a model becomes at a share of the original's FLOPs; None where it cannot go so low."""
    inner = share * whole / linear_flops(model)
    left: dict[str, tuple[int, int]] = {}
    if inner < 1:
        batches = [
            (batch,) for batch in torch.split(ids, _BATCH) if len(batch) == min(_BATCH, len(ids))
        ]
        try:
            pruner = Pruner(
                Speaker(model).eval(),
                batches,
                seed=seed,
                tied=lambda groups: sets_of(model, groups),
            )
            if inner < pruner.least():
                return None
            pruned = pruner.prune(inner)
        except BudgetError:  # no unit can leave by itself: then only layers do
            return None
        except ValueError as error:
            raise InputError(f"{type(model).__name__} cannot be cut: {error}") from error
        left = dict(pruned.left)
        model = _plain(model, pruned.model)
    return Narrowed(model, linear_flops(model) / whole, layers, left, apart(original, model, some))


def _plain(model: Any, pruned: Any) -> Any:
    """The class of the original, built with a config that says what is left."""
    state = {name: tensor.detach() for name, tensor in pruned.state_dict().items()}
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    told = told_with(model, shapes)
    if told is None:
        raise InputError(f"the config of {type(model).__name__} cannot say what is left of it")
    return _rebuilt(model, type(model.config).from_dict(told), state)


def _shallower(model: Any, ids: Tensor) -> tuple[Any, int]:
    """The model without the layer that it misses least, and which that was."""
    tried = [without_layer(model, gone) for gone in range(depth(model))]
    lost = [apart(model, other, ids) for other in tried]
    gone = lost.index(min(lost))
    return tried[gone], gone


@torch.no_grad()
def apart(original: Any, other: Any, ids: Tensor) -> float:
    """Divergence of the answers, nats per token."""
    found: Sequence[float] = [
        float(divergence(original(batch).logits, other(batch).logits)) * len(batch)
        for batch in torch.split(ids, _BATCH)
    ]
    return sum(found) / len(ids)
